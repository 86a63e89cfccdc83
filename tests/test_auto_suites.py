"""Faults of mode `auto` that the clients' own suites have found (tests/suites), each as the few lines that show it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, daemon, until

TRUST: dict[str, Any] = {"auth": {"method": "trust"}, "users": {"backstage": {}}}
POOL = {"mode": "auto", "query_wait_timeout": "20s"}


@pytest.fixture(scope="module")
def double(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("auto"), base, **TRUST, pool=POOL | {"size": 2}) as running:
        yield running


@pytest.mark.parametrize("text", ["select pg_terminate_backend({})", "select pg_terminate_backend(%s)"])
@pytest.mark.parametrize("autocommit", [True, False], ids=["a server is dialled", "one is idle"])
def test_a_client_that_does_nothing_can_be_ended(double: Daemon, text: str, autocommit: bool) -> None:
    for _ in range(3):
        with double.connect("catalog") as victim, double.connect("catalog", autocommit=autocommit) as other:
            pid = victim.info.backend_pid
            other.execute("select 1")          # in a transaction: then the victim has had another server
            victim.execute("select 1")
            assert other.execute(text.format(pid), None if "{" in text else (pid,)).fetchone() == (True,)
            with pytest.raises(psycopg.errors.AdminShutdown) as caught:
                until(lambda: not victim.execute("select 1"), "the client is told")
            assert caught.value.diag.severity_nonlocalized == "FATAL"


def test_a_client_that_does_nothing_is_not_hurt_by_a_cancel(double: Daemon) -> None:
    with double.connect("catalog") as first, double.connect("catalog") as second:
        for _ in range(3):
            assert first.execute("select 1").fetchone() == (1,)
            assert second.execute("select pg_cancel_backend(%s)", (first.info.backend_pid,)).fetchone() == (True,)
        assert first.execute("select 1").fetchone() == (1,)
        until(lambda: double.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "all connections go back")


def test_who_strikes_does_not_wait_for_what_it_holds(double: Daemon) -> None:
    first, second, third = (double.connect("catalog", autocommit=False) for _ in "abc")
    with first, second, third:
        first.execute("select 1")
        second.execute("select 1")
        assert first.execute("select pg_terminate_backend(%s)", (third.info.backend_pid,)).fetchone() == (False,)
        second.rollback()
        assert third.execute("select 1").fetchone() == (1,)
