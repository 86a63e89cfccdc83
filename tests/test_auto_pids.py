"""Mode `auto`: a client's process id is its own, and means whatever server process serves it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until
from tests.test_auto import POOL, TRUST, two


@pytest.fixture(scope="module")
def double(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("pids"), base, **TRUST, pool=POOL | {"size": 2}) as running:
        yield running


def test_a_client_has_a_process_id_of_its_own(double: Daemon) -> None:
    first, second = two(double)
    with first, second:
        pids = {first.info.backend_pid, second.info.backend_pid}
        assert len(pids) == 2
        for connection in (first, second, first):
            for text in ("select pg_backend_pid()", "select pg_catalog.pg_backend_pid ( ) as mine", "select pg_backend_pid() + 0"):
                assert connection.execute(text).fetchone() == (connection.info.backend_pid,)
        assert [column.name for column in first.execute("select pg_backend_pid()").description or ()] == ["pg_backend_pid"]
        for prefix in ("select pg_backend_pid(), 'ä', ", "select 'ä', ", "select pg_backend_pid() = pg_catalog.pg_backend_pid(), "):
            for prepare in (False, True):
                with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
                    first.execute(prefix + "nowhere, pg_backend_pid()", prepare=prepare)
                assert caught.value.diag.statement_position == str(len(prefix) + 1)
        assert first.execute("select %s", (second.info.backend_pid,)).fetchone() == (second.info.backend_pid,)


@pytest.mark.parametrize("text", ["select pg_cancel_backend(%s)", "select pg_cancel_backend({})"])
def test_a_cancel_by_sql_hits_the_right_query(double: Daemon, postgres: Postgres, text: str) -> None:
    first, second = two(double)
    with first, second:
        failed: list[Exception] = []

        def sleep() -> None:
            try:
                first.execute("select pg_sleep(60)")
            except psycopg.Error as error:
                failed.append(error)

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        running = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
        until(lambda: postgres.sql(running) == [(1,)], "the query runs")
        pid = first.info.backend_pid
        answer = second.execute(text, (pid,)) if "%s" in text else second.execute(text.format(pid).encode())
        assert answer.fetchone() == (True,)
        sleeper.join(30)
        assert [type(error) for error in failed] == [psycopg.errors.QueryCanceled]
        assert first.execute("select 1").fetchone() == (1,)


def test_views_of_server_processes_know_the_client(double: Daemon) -> None:
    """What programs ask: what am I, who waits for me, whom do I end."""
    with double.connect("catalog", application_name="mine") as first, double.connect("catalog") as second:
        own = "select application_name from pg_stat_activity where "
        assert first.execute(own + "pid = pg_backend_pid()").fetchone() == ("mine",)
        assert first.execute(own + "pid = %s", (first.info.backend_pid,)).fetchone() == ("mine",)
        assert first.execute(f"{own} pg_stat_activity.pid = {first.info.backend_pid}".encode()).fetchone() == ("mine",)
        assert second.execute(own + "pid = %s", (first.info.backend_pid,)).fetchone() is None
        assert first.execute("select count(*) from pg_locks where pid <> pg_backend_pid() and granted is null").fetchone() == (0,)
        cursor = first.execute("select pg_backend_pid();"
                               " select pid = pg_backend_pid() from pg_stat_activity where application_name = 'mine'")
        assert cursor.fetchone() == (first.info.backend_pid,)
        cursor.nextset()
        assert cursor.fetchone() == (True,)
