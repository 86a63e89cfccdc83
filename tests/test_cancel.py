"""Cancel requests: who is hit, who never is, how many at once, and how a client learns that it has been done."""

from __future__ import annotations

import random
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.server.cancel import WRONG_KEYS
from proxy.wire.messages import parse_fields, query
from proxy.wire.startup import pack_cancel
from tests.raw import TERMINATE, Raw
from tests.servers import Daemon, Postgres, daemon, until
from tests.tap import tapped

TRUST: dict[str, Any] = {"auth": {"method": "trust"}, "users": {"backstage": {}}}


class Canceller(Raw):
    """A client that knows its key."""

    def __init__(self, port: int, minor: int = 0, database: str = "catalog") -> None:
        super().__init__(port)
        self.port = port
        self.hello(minor, user="backstage", database=database)
        key = dict(self.until(b"Z"))[b"K"]
        self.key = pack_cancel(int.from_bytes(key[:4]), key[4:])

    def cancel(self, behind: bytes = b"") -> None:
        """As libpq does: returns when the other side has closed."""
        with Raw(self.port) as raw:
            raw.send(self.key + behind)
            assert raw.sock.recv(1) == b""

    def canceled(self) -> bool:
        told = dict(self.until(b"Z"))
        return b"E" in told and parse_fields(told[b"E"])["C"] == "57014"


def test_a_cancel_of_who_asks_nothing_is_nothing(trusting: Daemon) -> None:
    """Neither before, nor in a transaction, nor behind a query: there is nothing on its way that could strike later."""
    with Canceller(trusting.port) as client:
        for text in ("select 1", "begin", "select 2", "commit"):
            client.cancel()
            assert b"E" not in dict(client.ask(text))
            client.cancel()


def test_a_goodbye_behind_a_cancel(trusting: Daemon) -> None:
    """Go's libraries say one: it must not turn the end of the stream into a reset."""
    with Canceller(trusting.port) as client:
        client.send(query("select pg_sleep(60)"))
        until(lambda: trusting.metric("switchboard_upstreams", plugin="catalog", state="active") >= 1, "the query")
        client.cancel(TERMINATE)
        assert client.canceled()


def test_the_answer_to_a_cancel_is_the_end_of_the_stream(base: dict[str, Any], tmp_path: Path) -> None:
    """It ends when the server's has ended, and not before; meanwhile nobody else gets that server."""
    with tapped(base["connection"]["port"]) as tap:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, **TRUST, pool={"mode": "transaction", "size": 1}) as running, \
                Canceller(running.port) as client, Canceller(running.port) as other:
            client.send(query("select pg_sleep(60)"))
            until(lambda: b"pg_sleep" in tap.sent, "the query at the server")
            before = len(tap.pairs)
            tap.open.clear()
            with Raw(running.port) as raw:
                raw.send(client.key)
                until(lambda: len(tap.pairs) > before, "the cancel at the server")
                raw.sock.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    raw.sock.recv(1)
                tap.open.set()
                raw.sock.settimeout(30)
                assert raw.sock.recv(1) == b""
            assert client.canceled()
            assert other.shown("select 'unharmed'") == "unharmed"


def test_a_cancel_that_may_still_strike_costs_the_connection(base: dict[str, Any], tmp_path: Path) -> None:
    """The server has the request and does not say that it is done: the next client gets another connection."""
    with tapped(base["connection"]["port"]) as tap:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, **TRUST, pool={"mode": "transaction", "size": 1},
                    upstream={"connect_timeout": "1s"}) as running, Canceller(running.port) as client:
            first = client.shown("select pg_backend_pid()")
            client.send(query("select pg_sleep(60)"))
            until(lambda: b"pg_sleep" in tap.sent, "the query at the server")
            tap.freeze_new.set()
            client.cancel()
            tap.freeze_new.clear()
            running.logged("cancel request did not reach the server")
            with psycopg.connect(f"host=127.0.0.1 port={base['connection']['port']} user=postgres "
                                 f"password={base['connection']['password']}", autocommit=True) as direct:
                direct.execute("select pg_cancel_backend(%s)", (int(first),))
            assert client.canceled()
            assert client.shown("select pg_backend_pid()") != first


def test_twice_the_pool_may_fly(base: dict[str, Any], tmp_path: Path) -> None:
    """However full the pool is; what is more is dropped quietly."""
    with tapped(base["connection"]["port"]) as tap:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, **TRUST, pool={"mode": "session", "size": 1}) as running, Canceller(running.port) as client:
            client.send(query("select pg_sleep(60)"))
            until(lambda: b"pg_sleep" in tap.sent, "the query at the server")
            before = len(tap.pairs)
            tap.open.clear()
            sockets = [Raw(running.port) for _ in range(2)]
            for raw in sockets:
                raw.send(client.key)
            until(lambda: len(tap.pairs) == before + 2, "two cancels in flight")
            for _ in range(3):
                client.cancel()                # closed at once
            assert len(tap.pairs) == before + 2
            tap.open.set()
            for raw in sockets:
                with raw:
                    assert raw.sock.recv(1) == b""
            assert client.canceled()


def test_guesses_have_an_end(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, **TRUST) as running, Canceller(running.port) as client:
        client.send(query("select pg_sleep(60)"))
        for number in range(WRONG_KEYS):
            with Raw(running.port) as raw:
                raw.send(pack_cancel(number + 1, b"1234"))
                assert raw.closed()
        running.logged("too many wrong cancel keys")
        client.cancel()                       # not heard any more; nothing tells a guesser that it has met
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.read()
        client.sock.settimeout(30)
        with psycopg.connect(f"host=127.0.0.1 port={base['connection']['port']} user=postgres "
                             f"password={base['connection']['password']}", autocommit=True) as direct:
            direct.execute("select pg_cancel_backend(pid) from pg_stat_activity where query like 'select pg_sleep%'")
        assert client.canceled()


@pytest.fixture(scope="module")
def roomy() -> Iterator[dict[str, Any]]:
    """A server for a hundred clients in session mode."""
    server = Postgres(max_connections="250")
    yield {"client": "pg", "connection": {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password}}
    server.remove()


@pytest.mark.parametrize(("mode", "minor"), [("transaction", 0), ("transaction", 2), ("session", 2), ("auto", 0)])
@pytest.mark.parametrize(("seconds", "many"), [(2, 10), pytest.param(60, 100, marks=pytest.mark.long)])
def test_many_cancel_and_nobody_hits_a_stranger(roomy: dict[str, Any], tmp_path: Path, mode: str, minor: int, seconds: int,
                                                many: int) -> None:
    """They cancel themselves at random, ten others never do and must never see a cancel."""
    size = many // 3 if mode != "session" else many + 10
    with daemon(tmp_path, roomy, **TRUST, pool={"mode": mode, "size": size}) as running:
        end = time.monotonic() + seconds
        problems: list[str] = []
        hits = 0

        def innocent() -> None:
            with Canceller(running.port, minor) as client:
                while time.monotonic() < end and not problems:
                    told = dict(client.ask("select pg_sleep(0.002), 'mine'"))
                    if b"E" in told:
                        problems.append(str(parse_fields(told[b"E"])))

        def restless(seed: int) -> None:
            nonlocal hits
            chance = random.Random(seed)
            with Canceller(running.port, minor) as client:
                while time.monotonic() < end and not problems:
                    client.send(query(f"select pg_sleep({chance.choice(('0', '0.001', '0.005', '5'))})"))
                    with Raw(running.port) as raw:
                        raw.send(client.key)
                        if chance.random() < 0.5:
                            raw.sock.recv(1)     # some wait for the end, some leave
                    while not select.select([client.sock], [], [], chance.random() / 100)[0]:
                        client.cancel()
                    hits += client.canceled()

        def run(work: Any, *words: int) -> None:
            try:
                work(*words)
            except Exception as error:
                problems.append(repr(error))

        threads = [threading.Thread(target=run, args=(innocent,)) for _ in range(10)]
        threads += [threading.Thread(target=run, args=(restless, seed)) for seed in range(many)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 60)
        assert not problems
        assert hits
