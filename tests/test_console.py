"""The operators' console, by psql and by drivers; what its commands do to clients."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until

USERS = {"backstage": {"password": "s3cret"}, "boss": {"password": "s3cret", "console": "admin"},
         "looker": {"password": "s3cret", "console": "stats"}}


@pytest.fixture
def running(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("console"), {**base, "plugin": {"catalog": {}}}, users=USERS) as one:
        yield one


@pytest.fixture
def boss(running: Daemon) -> Iterator[psycopg.Connection[Any]]:
    with running.connect("switchboard", user="boss") as one:
        yield one


def rows(connection: psycopg.Connection[Any], command: str) -> list[dict[str, Any]]:
    cursor = connection.execute(command.encode())
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_show(running: Daemon, boss: psycopg.Connection[Any]) -> None:
    """In any case, with SELECT, with or without a semicolon, by both protocols."""
    with running.connect("catalog") as client:
        client.execute("select 1")
        for command in ("SHOW POOLS", "show pools;", "Select Pools"):
            (pool,) = rows(boss, command)
            assert (pool["database"], pool["cl_active"], pool["cl_waiting"]) == ("catalog", 1, 0)
        for what in ("version", "config", "databases", "pools", "clients", "servers", "stats", "totals", "lists", "users", "state",
                     "help"):
            assert rows(boss, f"SHOW {what}")
        assert {row["user"] for row in rows(boss, "SHOW CLIENTS")} == {"backstage", "boss"}
        assert rows(boss, "SHOW STATS")[0]["total_query_count"] >= 1
    assert "s3cret" not in str([rows(boss, f"SHOW {what}") for what in ("config", "users", "databases", "clients", "servers")])
    with pytest.raises(psycopg.errors.SyntaxError):
        boss.execute("SHOW NOTHING")
    assert boss.execute("SHOW VERSION").fetchone()[0].startswith("Switchboard ")


async def test_asyncpg(running: Daemon) -> None:
    connection = await asyncpg.connect(running.dsn("pgbouncer", user="looker"))
    try:
        assert (await connection.fetch("SHOW LISTS"))[0]["list"] == "databases"
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="admin access needed"):
            await connection.execute("PAUSE")
    finally:
        await connection.close()


def test_who_may(running: Daemon) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for the console"):
        running.connect("switchboard")
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        running.connect("switchboard", user="boss", password="wrong")
    with running.connect("switchboard", user="looker") as looker:
        for command in ("PAUSE", "RELOAD", "KILL catalog", "KILL_CLIENT 1", "SHUTDOWN", "DISABLE catalog"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                looker.execute(command)  # type: ignore[call-overload]


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_psql(running: Daemon) -> None:
    told = subprocess.run([str(shutil.which("psql")), "-X", running.dsn("switchboard", user="boss"), "-c", "show state"],
                          text=True, capture_output=True, check=True, timeout=60).stdout
    assert " active   | yes" in told


def test_pause_and_resume(running: Daemon, boss: psycopg.Connection[Any], postgres: Postgres) -> None:
    """It waits for transactions; who asks meanwhile waits, newcomers too, until it is over."""
    client = running.connect("catalog", autocommit=False, application_name="paused")
    client.execute("create temporary table kept (a integer) on commit drop")
    pausing = threading.Thread(target=lambda: boss.execute("PAUSE"))
    pausing.start()
    with running.connect("switchboard", user="boss") as other:
        until(lambda: rows(other, "SHOW POOLS")[0]["paused"] == 1, "the pause")
        assert client.execute("select count(*) from kept").fetchone() == (0,)
        client.commit()
        if rows(other, "SHOW POOLS")[0]["pool_mode"] == "session":
            client.close()
        pausing.join(20)
        assert not pausing.is_alive()
        assert rows(other, "SHOW SERVERS") == []
        heard: list[Any] = []

        def ask() -> None:
            with running.connect("catalog") as late:
                heard.append(late.execute("select 42").fetchone())

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: rows(other, "SHOW POOLS")[0]["cl_waiting"] == 1, "somebody who waits")
        assert heard == []
        other.execute("RESUME catalog")
        asking.join(20)
        assert heard == [(42,)]
    client.close()


def test_disable_and_enable(running: Daemon, boss: psycopg.Connection[Any]) -> None:
    with running.connect("catalog") as client:
        boss.execute("DISABLE catalog")
        with pytest.raises(psycopg.OperationalError, match='database "catalog" is disabled'):
            running.connect("catalog")
        assert client.execute("select 1").fetchone() == (1,)
        boss.execute("ENABLE catalog")
        with running.connect("catalog") as other:
            assert other.execute("select 1").fetchone() == (1,)


def test_kill(running: Daemon, boss: psycopg.Connection[Any]) -> None:
    client = running.connect("catalog")
    client.execute("select 1")
    boss.execute("KILL catalog")
    with pytest.raises(psycopg.OperationalError, match="administrator command"):
        client.execute("select 1")
    boss.execute("RESUME catalog")
    with running.connect("catalog") as other:
        (number,) = [row["id"] for row in rows(boss, "SHOW CLIENTS") if row["user"] == "backstage"]
        boss.execute(f"KILL_CLIENT {number}".encode())
        with pytest.raises(psycopg.OperationalError, match="administrator command"):
            other.execute("select 1")
    with pytest.raises(psycopg.Error, match="there is no client 4711"):
        boss.execute("KILL_CLIENT 4711")


def test_reconnect_and_reload(running: Daemon, boss: psycopg.Connection[Any]) -> None:
    with running.connect("catalog") as client:
        before = client.execute("select pg_stat_get_backend_idset()").fetchall()
        assert before
        boss.execute("RECONNECT")
        boss.execute("RELOAD")
        running.logged("reload")
        assert client.execute("select 1").fetchone() == (1,)


def test_shutdown(base: dict[str, Any], tmp_path: Path) -> None:
    running = Daemon(tmp_path, base, users=USERS)
    with running.connect("switchboard", user="boss") as boss:
        boss.execute("SHUTDOWN")
        assert running.process.wait(20) == 0
    assert "msg=draining" in running.log
