"""Strangers on MySQL's wire: lies in lengths, silence, floods, servers that talk nonsense.  Memory stays bounded, nothing spins."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from proxy.auth.mysql import nonce
from proxy.wire.mysql import NATIVE, OURS, RELAYED, Can, error, ok, packets
from proxy.wire.mysql_login import Greeting, pack_greeting
from tests import mariadb
from tests.mariadb import Error, MariaDB, Through, through
from tests.mysql_raw import ALL, Raw
from tests.servers import until

pytestmark = mariadb.needed


def rest(sock: socket.socket) -> bytes:
    found = b""
    try:
        while data := sock.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


def knock(found: Through) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", found.daemon.mysql_port), 20)
    assert sock.recv(4096)[4] == 10
    return sock


@pytest.mark.parametrize("said", [
    b"\xff\xff\xff\x01", b"\xff\xff\xff\x01" + bytes(70_000), b"\x00\x00\x00\x01", b"\x04\x00\x00\x01abcd",
    b"\x20\x00\x00\x01" + b"\xff" * 32,
    b"\x20\x00\x00\x01" + bytes(32), b"\x01\x00\x00\x05a", packets(b"\x00\x02\x00\x00" + bytes(28) + b"user" * 100, 1)])
def test_lies_in_a_login(through: Through, said: bytes) -> None:
    with knock(through) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        answer = rest(sock)
        assert not answer or answer[4] == 0xFF


def test_a_slow_login_ends(mysql: MariaDB, tmp_path: Path) -> None:
    with through(mysql, tmp_path, auth={"login_timeout": "1s"}) as found, knock(found) as sock:
        sock.sendall(b"\x20")
        answer = rest(sock)
        assert int.from_bytes(answer[5:7], "little") == 1159
        assert b"due to timeout" in answer


@pytest.mark.parametrize("said", [b"\x00\x00\x00\x00", b"\x05\x00\x00\x07\x03abcd", packets(b"\x02" + b"x" * 70_000)])
def test_lies_behind_a_login(through: Through, said: bytes) -> None:
    with Raw(through.daemon.mysql_port, "backstage", "s3cret", "catalog") as raw:
        raw.sock.sendall(said)
        answer = rest(raw.sock)
        assert answer[4] == 0xFF
        assert int.from_bytes(answer[5:7], "little") == 1835


def test_a_flood_without_reading(through: Through) -> None:
    """A client that asks for much and reads nothing, and one that sends without end: neither fills our memory."""
    process = psutil.Process(through.daemon.process.pid)
    before = process.memory_info().rss
    with Raw(through.daemon.mysql_port, "backstage", "s3cret", "catalog", ALL) as deaf, \
            Raw(through.daemon.mysql_port, "backstage", "s3cret", "catalog", ALL) as loud:
        deaf.send(b"\x03SELECT repeat('x', 1000000) FROM " + b", ".join(b"information_schema.collations " + bytes((97 + at,))
                                                                        for at in range(3)))
        loud.sock.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                loud.sock.sendall(packets(b"\x03SELECT sleep(1000), '" + b"x" * 1_000_000 + b"'"))
                sent += 1
        assert sent < 40
        assert process.memory_info().rss - before < 60_000_000
        for (number,) in through.server.sql("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT sleep(1000%'"):
            through.server.sql(f"KILL {number}")


def test_nothing_spins_while_nobody_asks(through: Through) -> None:
    with through.connect("catalog"), knock(through):
        used = psutil.Process(through.daemon.process.pid).cpu_times()
        assert not psutil.Process(through.daemon.process.pid).cpu_percent(0.5) > 50
        assert used


# -- servers ----------------------------------------------------------------------------------------------


@contextmanager
def pretender(*, greets: bytes, says: list[bytes]) -> Iterator[int]:
    """A server that greets so, accepts whatever comes, and answers each packet with the next of `says`; then it hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def serve(sock: socket.socket) -> None:
            with sock:
                try:
                    sock.sendall(greets)
                    for answer in says:
                        if not sock.recv(65_536):
                            return
                        sock.sendall(answer)
                    sock.shutdown(socket.SHUT_WR)
                    rest(sock)
                except OSError:
                    return

        def accept() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]


def greeting(plugin: str = NATIVE, capabilities: Can = OURS | RELAYED) -> bytes:
    return packets(pack_greeting(Greeting("8.0.0-pretended", 7, nonce(), capabilities, plugin)))


def base(port: int) -> dict[str, object]:
    return {"client": "mysql2", "ensureExists": False, "connection": {"host": "127.0.0.1", "port": port, "user": "u", "password": "p"}}


@pytest.mark.parametrize(("greets", "says", "told"), [
    (b"\xff\xff\xff\x00", [], "packet of 16777215 bytes"), (b"", [b""], "closed the connection|timeout|took too long"),
    (packets(b"\x09old"), [], "speaks version 9"), (packets(b"\x0a8.0\0abc"), [], "malformed packet"),
    (packets(error(1040, "08004", "Too many connections", early=True)), [], "1040.*Too many connections"),
    (packets(error(1129, "HY000", "Host is blocked", early=True)), [], "1129.*Host is blocked"),
    (greeting(), [packets(b"\xfeclient_ed25519\0" + bytes(20), 2)], "authentication by client_ed25519"),
    (greeting(), [packets(b"\xfemysql_clear_password\0", 2)], "cleartext password over a connection without TLS"),
    (greeting(), [packets(b"\x01\x04", 2)], "malformed authentication request"), (greeting(), [packets(ok(), 9)], "out of order"),
    (greeting(capabilities=OURS), [], "cannot do what the client asks for"),
    (greeting(), [packets(b"\xfe" + NATIVE.encode() + b"\0" + bytes(21), at) for at in (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24)],
     "proof after proof")])
def test_servers_that_cannot_log_in(tmp_path: Path, greets: bytes, says: list[bytes], told: str) -> None:
    with pretender(greets=greets, says=says) as port:
        upstream = {"connect_timeout": "2s", "retry_delay": 0}
        running = mariadb.bare(tmp_path, base(port), mysql={"server_version": "8.0.0"}, upstream=upstream)
        with running as found, pytest.raises(Error, match=told):
            found.connect("catalog")
        assert "'p'" not in found.daemon.log


@pytest.mark.parametrize("says", [packets(b"", 1), packets(b"\x00", 1), packets(b"\xfc\xff", 1), packets(ok(), 1) * 2, b"\xff\xff"])
def test_servers_that_talk_nonsense(tmp_path: Path, says: bytes) -> None:
    with (pretender(greets=greeting(), says=[packets(ok(), 2), says]) as port,
          mariadb.bare(tmp_path, base(port), mysql={"server_version": "8.0.0"}) as found,
          Raw(found.daemon.mysql_port, "backstage", "s3cret", "catalog") as raw):
        raw.send(b"\x03SELECT 1")
        answer = rest(raw.sock)
        assert answer.endswith(says) or b"malformed" in answer or b"nobody asked" in answer or b"Lost connection" in answer
        until(lambda: found.daemon.metric("switchboard_upstreams", state="active") == 0, "the end of the upstream")
