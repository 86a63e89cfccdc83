"""A primary and its streaming standby: who is found for each target_session_attrs, before and after a failover."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.settings import Settings, Upstream
from proxy.config.target import Credential, Engine, Server, Session, SslMode, Target, Tls
from proxy.errors import ProxyError, UpstreamFault, UpstreamRefused
from proxy.pool.provision import Provision
from proxy.pool.reach import Reach, goodbye
from tests.servers import Daemon, Postgres, Standby, daemon, free_port, until


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Postgres, Standby]]:
    primary = Postgres()
    standby = Standby(primary)
    yield primary, standby
    standby.remove()
    primary.remove()


def cluster(*ports: int, session: str = "any", shuffle: bool = False) -> Server:
    return Server(host="127.0.0.1", port=ports[0], others=tuple(("127.0.0.1", port) for port in ports[1:]),
                  session=Session(session), shuffle=shuffle, tls=Tls(mode=SslMode.DISABLE))


async def found(reach: Reach, server: Server, postgres: Postgres, startup: dict[str, str] | None = None,
                **settings: float) -> int:
    """The port that was reached."""
    word = postgres.cluster.credential.password
    reached = await reach.connect(server, Credential(user="postgres", password=word),
                                  {"database": "postgres", **(startup or {})}, Upstream(**settings))
    goodbye(reached.sock)
    return reached.route.port


@pytest.mark.parametrize(("session", "want"), [
    ("any", "first"), ("read-write", "primary"), ("primary", "primary"), ("read-only", "standby"), ("standby", "standby"),
    ("prefer-standby", "standby")])
async def test_roles(pair: tuple[Postgres, Standby], session: str, want: str) -> None:
    primary, standby = pair
    for ports in ((primary.port, standby.port), (standby.port, primary.port)):
        expected = {"first": ports[0], "primary": primary.port, "standby": standby.port}[want]
        reach = Reach()
        for _ in range(2):                     # by trying, then by knowing
            assert await found(reach, cluster(*ports, session=session), primary) == expected


async def test_prefer_standby_takes_a_primary_when_there_is_nothing_else(pair: tuple[Postgres, Standby]) -> None:
    primary, _ = pair
    assert await found(Reach(), cluster(free_port(), primary.port, session="prefer-standby"), primary) == primary.port


@pytest.mark.parametrize(("session", "problem"), [("read-write", "session is read-only"), ("primary", "in hot standby mode")])
async def test_nobody_fits(pair: tuple[Postgres, Standby], session: str, problem: str) -> None:
    _, standby = pair
    gone = free_port()
    with pytest.raises(UpstreamFault, match=problem) as caught:
        await found(Reach(), cluster(gone, standby.port, session=session), standby)
    assert f"port {gone} failed: Connection refused" in str(caught.value.detail)


async def test_random_reaches_both(pair: tuple[Postgres, Standby]) -> None:
    primary, standby = pair
    reach = Reach()
    server = cluster(primary.port, standby.port, shuffle=True)
    assert {await found(reach, server, primary) for _ in range(40)} == {primary.port, standby.port}


async def test_default_transaction_read_only_is_read_only(pair: tuple[Postgres, Standby]) -> None:
    primary, _ = pair
    fenced = {"default_transaction_read_only": "on"}
    with pytest.raises(ProxyError, match="session is read-only"):
        await found(Reach(), cluster(primary.port, session="read-write"), primary, fenced)
    for session in ("primary", "read-only"):
        assert await found(Reach(), cluster(primary.port, session=session), primary, fenced) == primary.port


async def test_a_standby_that_lags_is_not_the_last_word(pair: tuple[Postgres, Standby]) -> None:
    """A database that was made a moment ago is not there yet; on the primary it is."""
    primary, standby = pair
    standby.sql("select pg_wal_replay_pause()")
    try:
        primary.sql("create database fresh")
        server = cluster(standby.port, primary.port, session="read-write")
        assert await found(Reach(), server, primary, {"database": "fresh"}) == primary.port
        with pytest.raises(UpstreamRefused, match='database "nowhere" does not exist'):
            await found(Reach(), server, primary, {"database": "nowhere"})
    finally:
        standby.sql("select pg_wal_replay_resume()")


async def test_a_name_with_several_addresses(pair: tuple[Postgres, Standby]) -> None:
    """localhost may be ::1 first, where nobody listens."""
    primary, _ = pair
    server = Server(host="localhost", port=primary.port, tls=Tls(mode=SslMode.DISABLE))
    assert await found(Reach(), server, primary) == primary.port


async def test_dns_is_asked_at_each_dial_and_every_address_tried(
        pair: tuple[Postgres, Standby], monkeypatch: pytest.MonkeyPatch) -> None:
    """The name server alone is a double: nobody may change this machine's."""
    primary, _ = pair
    names = {"db.test": ["127.0.0.9"]}

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if not names[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    reach, server = Reach(), Server(host="db.test", port=primary.port, tls=Tls(mode=SslMode.DISABLE))
    with pytest.raises(UpstreamFault, match=r'"db.test" \(127.0.0.9\), port \d+ failed: Connection refused'):
        await found(reach, server, primary, retry_delay=0)
    names["db.test"] = ["127.0.0.9", "127.0.0.8", "127.0.0.1"]
    assert await found(reach, server, primary, retry_delay=0) == primary.port
    names["db.test"] = []
    with pytest.raises(UpstreamFault, match=r'could not translate host name "db\.test"'):
        await found(reach, server, primary, retry_delay=0)


async def test_one_probe_at_a_time_and_the_cached_reason() -> None:
    """A server that takes connections and answers nothing: only one dial finds out."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        server, reach = cluster(silent.getsockname()[1]), Reach()
        who = Credential(user="postgres")

        async def fault(**settings: float) -> str:
            with pytest.raises(UpstreamFault) as caught:
                await reach.connect(server, who, {}, Upstream(**settings))
            return caught.value.message

        first = await fault(connect_timeout=0.2, retry_delay=60)
        assert "timeout expired" in first
        for _ in range(100):
            assert await fault(connect_timeout=60, retry_delay=60) == first
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


async def test_provisioning_goes_to_the_primary(pair: tuple[Postgres, Standby]) -> None:
    primary, standby = pair
    who = Credential(user="postgres", password=primary.cluster.credential.password)
    target = Target(plugin="catalog", engine=Engine.POSTGRES, database="made", server=cluster(standby.port, primary.port),
                    credential=who, provisioner=who)
    await Provision(Settings()).ensure(target)
    assert "made" in primary.databases()
    until(lambda: "made" in standby.databases(), "the database on the standby")


async def test_failover() -> None:
    primary = Postgres()
    standby = Standby(primary)
    try:
        reach, server = Reach(), cluster(primary.port, standby.port, session="read-write")
        assert await found(reach, server, primary, retry_delay=0.05) == primary.port
        primary.stop()
        with pytest.raises(UpstreamFault) as caught:
            await found(reach, server, standby, retry_delay=0.05)
        assert "Connection refused" in str(caught.value.detail)
        standby.promote()
        assert await found(reach, server, standby, retry_delay=0.05) == standby.port
        assert await found(reach, server, standby, retry_delay=0.05) == standby.port
    finally:
        standby.remove()
        primary.remove()


# -- the daemon in front of it ----------------------------------------------------------------------------


def base(server: Postgres, *more: Postgres, session: str = "any") -> dict[str, Any]:
    ports = ",".join(str(each.port) for each in (server, *more))
    return {"client": "pg", "connection": {"host": ",".join(["127.0.0.1"] * (1 + len(more))), "port": ports, "user": "postgres",
                                           "password": server.password, "target_session_attrs": session}}


QUICK = {"upstream": {"retry_delay": "100ms"}, "pool": {"mode": "transaction", "size": 3}}


def impatient(hold: str) -> dict[str, Any]:
    return {**QUICK, "upstream": {"retry_delay": "100ms", "hold_timeout": hold}}


def asked(connection: psycopg.Connection[Any]) -> Any:
    row = connection.execute("select inet_server_port()").fetchone()
    assert row is not None
    return row[0]


def anew(running: Daemon, database: str) -> Any:
    with running.connect(database) as connection:
        return asked(connection)


def test_a_restart_is_waited_for(tmp_path: Path) -> None:
    """Idle clients and those who ask meanwhile notice nothing but the time."""
    server = Postgres()
    try:
        with daemon(tmp_path, base(server), **QUICK) as running, ThreadPoolExecutor(12) as threads:
            clients = [running.connect("catalog") for _ in range(10)]
            assert {asked(client) for client in clients} == {server.port}
            server.stop()
            until(lambda: running.metric("switchboard_upstreams", plugin="catalog") == 0, "the upstreams to end")
            waiting = [threads.submit(asked, client) for client in clients[:8]]
            newcomer = threads.submit(anew, running, "catalog")
            other = threads.submit(anew, running, "search")         # its pool has never seen the server; others have
            running.logged("plugin=search.*cannot connect to upstream|cannot connect to upstream.*plugin=search")
            assert not any(future.done() for future in (*waiting, newcomer, other))
            server.start()
            assert {future.result(60) for future in (*waiting, newcomer, other)} == {server.port}
            for client in clients:
                assert asked(client) == server.port
                client.close()
    finally:
        server.remove()


def test_newcomers_wait_in_session_mode_too(tmp_path: Path) -> None:
    """Who held an upstream is told, since its session went with the server; who comes meanwhile waits at the door."""
    server = Postgres()
    try:
        with daemon(tmp_path, base(server), **{**QUICK, "pool": {"mode": "session"}}) as running, ThreadPoolExecutor(4) as threads:
            assert anew(running, "catalog") == server.port
            with running.connect("catalog") as held:
                assert asked(held) == server.port
                server.stop()
                with pytest.raises(psycopg.OperationalError, match=r"terminating connection|closed the connection"):
                    asked(held)
            waiting = [threads.submit(anew, running, "catalog") for _ in range(4)]
            running.logged("cannot connect to upstream")
            assert not any(future.done() for future in waiting)
            server.start()
            assert {future.result(60) for future in waiting} == {server.port}
    finally:
        server.remove()


def test_a_cancel_goes_to_the_host_of_its_query(tmp_path: Path, pair: tuple[Postgres, Standby]) -> None:
    primary, standby = pair
    with daemon(tmp_path, base(standby, primary, session="read-write"), **QUICK) as running, ThreadPoolExecutor(1) as threads, \
            running.connect("catalog") as client:
        asleep = threads.submit(client.execute, "select pg_sleep(600)")
        until(lambda: primary.sql("select 1 from pg_stat_activity where query like '%pg_sleep(600)' and state = 'active'"), "sleep")
        client.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            asleep.result(60)
        hosts = {row["port"]: row for row in json.loads(running.get("/status.json"))["hosts"]}
        assert hosts[primary.port]["role"] == "primary"
        assert hosts[standby.port]["role"] in ("standby", None)       # it may not have had the database yet
        assert running.metric("switchboard_host_up", host=f"127.0.0.1:{primary.port}") == 1


def test_patience_has_an_end_and_newcomers_hear_the_reason_at_once(tmp_path: Path) -> None:
    server = Postgres()
    try:
        with daemon(tmp_path, base(server), **impatient("500ms")) as running:
            with running.connect("catalog") as client:
                assert asked(client) == server.port
                server.stop()
                until(lambda: running.metric("switchboard_upstreams", plugin="catalog") == 0, "the upstreams to end")
                with pytest.raises(psycopg.OperationalError, match="Connection refused"):
                    asked(client)
            for _ in range(5):
                with pytest.raises(psycopg.OperationalError, match="Connection refused"):
                    anew(running, "catalog")
    finally:
        server.remove()


def test_a_server_that_was_never_there_is_told_at_once(tmp_path: Path, postgres: Postgres) -> None:
    nowhere = base(postgres)
    nowhere["connection"]["port"] = free_port()
    with daemon(tmp_path, nowhere, **impatient("1h")) as running, pytest.raises(
            psycopg.OperationalError, match="Connection refused"):
        running.connect("catalog")


def test_clients_live_through_a_failover(tmp_path: Path) -> None:
    primary = Postgres()
    standby = Standby(primary)
    try:
        with daemon(tmp_path, base(primary, standby, session="read-write"), **QUICK) as running, ThreadPoolExecutor(8) as threads:
            clients = [running.connect("catalog") for _ in range(6)]
            clients[0].execute("create table kept (a int)")
            assert {asked(client) for client in clients} == {primary.port}
            replayed = "select replay_lsn >= pg_current_wal_lsn() from pg_stat_replication"
            until(lambda: primary.sql(replayed) == [(True,)], "replication")
            primary.stop()
            waiting = [threads.submit(asked, client) for client in clients]
            running.logged("session is read-only")
            standby.promote()
            answers = {future.result(60) for future in waiting if not _cut(future)}
            assert answers <= {standby.port}
            for client in clients:
                if not client.broken:
                    client.execute("insert into kept values (1)")
                client.close()
            with running.connect("catalog") as late:
                assert asked(late) == standby.port
    finally:
        standby.remove()
        primary.remove()


def _cut(future: Future[Any]) -> bool:
    """Did it ask on an upstream that was being shut down at that moment?  Nobody can tell whether such a query ran."""
    return isinstance(future.exception(60), psycopg.OperationalError)


def test_an_upstream_whose_role_has_changed_is_not_given_out(tmp_path: Path) -> None:
    primary = Postgres()
    primary.sql("create database backstage_plugin_catalog")
    standby = Standby(primary)
    try:
        with daemon(tmp_path, base(standby, session="standby"), **impatient("0")) as running, running.connect("catalog") as client:
            recovery = "select pg_is_in_recovery()"
            assert client.execute(recovery).fetchone() == (True,)
            standby.promote()
            until(lambda: standby.sql(recovery) == [(False,)], "the promotion")
            assert client.execute(recovery).fetchone() == (False,)       # now the server has reported it
            with pytest.raises(psycopg.OperationalError, match="server is not in hot standby mode"):
                client.execute(recovery)
    finally:
        standby.remove()
        primary.remove()
