"""Replication through the proxy: pg_basebackup, pg_receivewal, pg_recvlogical, and a subscription of another server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until


@pytest.fixture(scope="module")
def publisher() -> Iterator[Postgres]:
    server = Postgres(wal_level="logical", max_wal_senders="10", max_replication_slots="10")
    yield server
    server.remove()


@pytest.fixture(scope="module", params=["session", "transaction"])
def proxy(request: pytest.FixtureRequest, publisher: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    database = {"client": "pg", "connection": {"host": "127.0.0.1", "port": publisher.port, "user": "postgres",
                                               "password": publisher.password}}
    users = {"backstage": {"password": "s3cret"}, "copier": {"password": "c0py", "replication": True}}
    with daemon(tmp_path_factory.mktemp("replication"), database, users=users, pool={"mode": request.param, "size": 2}) as running:
        yield running


def tool(publisher: Postgres, proxy: Daemon, name: str, *words: object) -> list[str]:
    return [str(publisher.cluster.binaries / name), "-h", "127.0.0.1", "-p", str(proxy.port), "-U", "copier", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "PGPASSWORD": "c0py"}


def test_pg_basebackup(publisher: Postgres, proxy: Daemon, tmp_path: Path) -> None:
    done = subprocess.run(tool(publisher, proxy, "pg_basebackup", "-D", tmp_path / "copy", "-X", "stream", "-c", "fast"),
                          capture_output=True, text=True, check=False, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    verified = subprocess.run([str(publisher.cluster.binaries / "pg_verifybackup"), str(tmp_path / "copy")],
                              capture_output=True, text=True, check=False, timeout=120)
    assert "backup successfully verified" in verified.stdout


def test_pg_receivewal(publisher: Postgres, proxy: Daemon, tmp_path: Path) -> None:
    with subprocess.Popen(tool(publisher, proxy, "pg_receivewal", "-D", tmp_path, "--no-loop"), env=environment(),
                          stderr=subprocess.PIPE) as running:
        until(lambda: list(tmp_path.glob("*.partial")), "the first WAL file")
        until(lambda: proxy.metric("switchboard_upstreams", state="replication") == 1, "the metric")
        publisher.sql("select pg_switch_wal()")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0, running.stderr


@contextlib.contextmanager
def table(publisher: Postgres, proxy: Daemon, name: str) -> Iterator[psycopg.Connection[Any]]:
    with proxy.connect("catalog") as connection:
        connection.execute(f"create table {name} (a int primary key, b text)")  # type: ignore[arg-type]
        yield connection
        connection.execute(f"drop table {name}")  # type: ignore[arg-type]


def test_pg_recvlogical(publisher: Postgres, proxy: Daemon, tmp_path: Path) -> None:
    out = tmp_path / "changes"
    slot = f"s{proxy.port}"
    common = ["-d", "catalog", "--slot", slot]
    subprocess.run(tool(publisher, proxy, "pg_recvlogical", *common, "--create-slot", "-P", "test_decoding"), env=environment(),
                   check=True, timeout=60)
    with subprocess.Popen(tool(publisher, proxy, "pg_recvlogical", *common, "--start", "-f", out, "-F", "1"),
                          env=environment()) as running, table(publisher, proxy, "decoded") as connection:
        connection.execute("insert into decoded select g, repeat('x', 1000) from generate_series(1, 5000) g")
        until(lambda: out.exists() and "a[integer]:5000" in out.read_text(), "the last change")
        running.send_signal(signal.SIGINT)
        running.wait(60)
    subprocess.run(tool(publisher, proxy, "pg_recvlogical", *common, "--drop-slot"), env=environment(), check=True, timeout=60)


def test_a_subscription(publisher: Postgres, proxy: Daemon) -> None:
    subscriber = Postgres(wal_level="logical")
    name = f"moved{proxy.port}"
    try:
        with table(publisher, proxy, name) as source:
            source.execute(f"insert into {name} select g, 'before' from generate_series(1, 1000) g")  # type: ignore[arg-type]
            source.execute(f"create publication {name} for table {name}")  # type: ignore[arg-type]
            subscriber.sql(f"create table {name} (a int primary key, b text)")
            subscriber.sql(f"create subscription {name} connection 'host=127.0.0.1 port={proxy.port} user=copier password=c0py "
                           f"dbname=catalog' publication {name}")
            count = f"select count(*), count(*) filter (where b = 'after') from {name}"
            until(lambda: subscriber.sql(count) == [(1000, 0)], "the copy of the table")
            source.execute(f"insert into {name} select g, 'after' from generate_series(1001, 1500) g")  # type: ignore[arg-type]
            until(lambda: subscriber.sql(count) == [(1500, 500)], "the changes")
            subscriber.sql(f"drop subscription {name}")
            source.execute(f"drop publication {name}")  # type: ignore[arg-type]
    finally:
        subscriber.remove()


def test_it_is_a_right(proxy: Daemon) -> None:
    for value in ("true", "database", "on", "1", "yes"):
        with pytest.raises(psycopg.OperationalError, match="permission denied to start WAL sender"):
            psycopg.connect(proxy.dsn("catalog", replication=value))
    for value in ("false", "off", "0", "no"):
        psycopg.connect(proxy.dsn("catalog", replication=value)).close()
    with pytest.raises(psycopg.OperationalError, match='invalid value for parameter "replication": "maybe"'):
        psycopg.connect(proxy.dsn("catalog", "copier", "c0py", replication="maybe"))


def test_a_walsender_talks_sql_too(proxy: Daemon) -> None:
    """Logical walsenders take simple queries, as a subscription's initial copy does."""
    dsn = proxy.dsn("catalog", "copier", "c0py", replication="database", options="-c%20extra_float_digits%3D3")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.pgconn.exec_(b"select 1")
        shown = connection.pgconn.exec_(b"show extra_float_digits")
        assert shown.get_value(0, 0) == b"3"
        system = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
        assert system.get_value(0, 3) == b"backstage_plugin_catalog"


def test_who_leaves_a_stream_leaves_its_slot(publisher: Postgres, proxy: Daemon) -> None:
    """A goodbye inside CopyBoth ends the walsender at once, not at its next keepalive: the slot can be dropped."""
    slot = f"left{proxy.port}"
    connection = psycopg.connect(proxy.dsn("catalog", "copier", "c0py", replication="database"), autocommit=True)
    try:
        connection.pgconn.exec_(f"CREATE_REPLICATION_SLOT {slot} LOGICAL test_decoding".encode())
        started = connection.pgconn.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0".encode())
        assert started.status == psycopg.pq.ExecStatus.COPY_BOTH
    finally:
        connection.close()
    active = f"select active from pg_replication_slots where slot_name = '{slot}'"
    until(lambda: publisher.sql(active) == [(False,)], "the end of the walsender", 5)
    publisher.sql(f"select pg_drop_replication_slot('{slot}')")
    proxy.logged("user=copier .*reason=.client said goodbye")


def test_a_login_that_fails_is_nobody_elses_trouble(publisher: Postgres, tmp_path: Path) -> None:
    """The plugin's role may not replicate: the server says so, and everybody else goes on."""
    publisher.sql("drop role if exists plain")
    publisher.sql("create role plain login password 'plain' createdb")
    database = {"client": "pg", "connection": {"host": "127.0.0.1", "port": publisher.port, "user": "plain", "password": "plain"}}
    users = {"copier": {"password": "c0py", "replication": True}}
    with daemon(tmp_path, database, users=users, pool={"mode": "transaction", "size": 1}) as running, \
            running.connect("plain", "copier", "c0py", autocommit=False) as holder:
        def ask() -> object:
            with running.connect("plain", "copier", "c0py") as connection:
                return connection.execute("select 1").fetchone()

        holder.execute("select 1")
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask)
            until(lambda: running.metric("switchboard_clients_waiting", plugin="plain") == 1, "who waits")
            for word in ("true", "database"):
                with pytest.raises(psycopg.OperationalError, match="permission denied to start WAL sender"):
                    psycopg.connect(running.dsn("plain", "copier", "c0py", replication=word))
            holder.commit()
            assert waiting.result(60) == (1,)
