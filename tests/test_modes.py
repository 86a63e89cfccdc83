"""Pool modes: of a plugin, of a user, and `statement`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until

USERS = {"backstage": {}, "analyst": {"mode": "session"}, "pooled": {"mode": "transaction"}, "single": {"mode": "statement"}}


def server_pid(postgres: Postgres, name: str) -> int:
    return int(postgres.sql(f"select pid from pg_stat_activity where application_name = '{name}'")[0][0])


def test_a_user_has_a_mode_of_its_own(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"method": "trust"}, users=USERS, pool={"size": 1}) as running:
        with running.connect("catalog") as plain, running.connect("catalog", user="analyst", application_name="own") as analyst:
            assert analyst.info.backend_pid == server_pid(postgres, "own")           # the server's, as in session mode
            analyst.execute("create temp table mine (a int)")
            plain.execute("set application_name to 'shared'")
            assert plain.execute("select to_regclass('pg_temp.mine')").fetchone() == (None,)
            assert plain.execute("select 1").fetchone() == (1,)                      # of its one connection
            assert running.metric("switchboard_pool_size", plugin="catalog") == 2
            assert running.metric("switchboard_upstreams", plugin="catalog", state="active") == 1
            with running.connect("catalog", user="pooled") as pooled:
                assert pooled.execute("select 2").fetchone() == (2,)
        until(lambda: running.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "all go back")
        assert running.metric("switchboard_upstreams", plugin="catalog", state="idle") == 3


def test_a_reload_changes_modes(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"method": "trust"}, users=USERS, pool={"size": 1}) as running, \
            running.connect("catalog", user="analyst") as before:
        before.execute("create temp table mine (a int)")
        running.settings["pool"] = {"size": 3}
        running.write(base)
        running.signal(signal.SIGHUP)
        until(lambda: running.metric("switchboard_pool_size", plugin="catalog") == 6, "the new size")
        assert before.execute("select count(*) from mine").fetchone() == (0,)
        with running.connect("catalog", user="analyst") as after:
            assert after.execute("select 1").fetchone() == (1,)


def test_statements_alone(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"method": "trust"}, users=USERS, pool={"size": 1}) as running:
        clients = [running.connect("catalog", user="single", prepare_threshold=None) for _ in range(3)]
        for number, client in enumerate(clients * 2):
            assert client.execute("select %s::int", (number,), prepare=False).fetchone() == (number,)
        _refused(running, clients[0], "begin")
        assert clients[1].execute("select 'still there'").fetchone() == ("still there",)
        _refused(running, clients[1], "begin; select 1")
        assert clients[2].execute("select 1; select 2").nextset()
        clients[2].close()


def _refused(running: Daemon, client: psycopg.Connection[Any], statement: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        client.execute(statement.encode())
        client.execute("select 1")
    assert "transaction blocks not allowed" in str(refused.value) or client.closed
    running.logged("a transaction in statement mode")
