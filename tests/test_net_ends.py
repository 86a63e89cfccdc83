"""Ends that the loop may never tell of: sockets that were reset behind data."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.net.ends import ended
from tests.servers import Daemon, Postgres, daemon, until

RESET = struct.pack("ii", 1, 0)


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        return ours, listening.accept()[0]


def test_a_reset_behind_last_words() -> None:
    ours, theirs = pair()
    with ours:
        assert ended([ours.fileno()]) == []
        theirs.sendall(b"last words")
        assert ended([ours.fileno()]) == []
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        theirs.close()
        until(lambda: ended([ours.fileno()]) == [ours.fileno()], "the reset")


def test_an_end_that_a_reader_will_be_told_of() -> None:
    ours, theirs = pair()
    with ours, theirs:
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(20)
        assert ours.recv(1) == b""
        assert ended([ours.fileno()]) == []       # we may still write


def test_nothing_to_look_at() -> None:
    assert ended([]) == []


def ask(running: Daemon, enough: threading.Event, told: list[str]) -> None:
    client: Any = None
    while not enough.is_set():
        try:
            if client is None:
                client = running.connect("catalog", prepare_threshold=None)
            client.execute("select 1")
        except psycopg.Error as error:
            told.append(str(error))
            client = client and client.close()
    if client is not None:
        client.close()


def test_nobody_hangs_when_servers_die_under_load(tmp_path: Path) -> None:
    """A fast shutdown resets connections behind its FATAL: clients must hear of the end all the same."""
    server = Postgres()
    base = {"client": "pg", "connection": {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password}}
    try:
        with daemon(tmp_path, base, pool={"mode": "transaction", "size": 5}, upstream={"retry_delay": "50ms"}) as running:
            enough, told = threading.Event(), list[str]()
            clients = [threading.Thread(target=ask, args=(running, enough, told)) for _ in range(12)]
            for client in clients:
                client.start()
            for _ in range(6):
                served = running.metric("switchboard_queries_total", plugin="catalog")
                until(lambda served=served: running.metric("switchboard_queries_total", plugin="catalog") > served + 500, "some work")
                server.stop()
                server.start()
            enough.set()
            for client in clients:
                client.join(30)
            assert not any(client.is_alive() for client in clients)
            assert all("terminating connection" in text or "closed the connection" in text for text in told), told
            until(lambda: running.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "the leases")
    finally:
        server.remove()


@pytest.mark.parametrize("mode", ["session", "transaction", "auto"])
def test_a_client_that_is_reset_in_the_middle_of_a_copy(postgres: Postgres, base: dict[str, Any], tmp_path: Path, mode: str) -> None:
    with daemon(tmp_path, base, pool={"mode": mode}) as running:
        for _ in range(10):
            client = running.connect("copied")
            client.execute("create temporary table t (a text)")
            client.pgconn.exec_(b"copy t from stdin")
            client.pgconn.put_copy_data(b"x" * 100_000)
            while client.pgconn.flush():
                pass
            with socket.socket(fileno=client.fileno()) as raw:
                raw.send(b"d\0\0\1\0part of a message")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                raw.detach()
            client.close()
        until(lambda: running.metric("switchboard_clients", plugin="copied") == 0, "the clients to be missed", 20)
