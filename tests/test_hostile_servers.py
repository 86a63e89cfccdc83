"""Servers that die, lie or babble once a client rides them: one clear end for that client, one line, nothing for the others.

No real server does such things, so these are a script behind a real socket.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.wire.messages import (
    authentication,
    backend_key_data,
    fields,
    message,
    parameter_status,
    parse_fields,
    query,
    ready_for_query,
)
from tests.raw import Raw
from tests.servers import Daemon, daemon, until

WELCOME = (authentication(0) + b"".join(parameter_status(name, value) for name, value in (
    ("server_version", "18.0"), ("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")))
    + backend_key_data(4711, b"1234") + ready_for_query())
ROW = message(b"T", b"\0\0") + message(b"D", b"\0\0")
GOOD = ROW + message(b"C", b"SELECT 1\0") + ready_for_query()
ERROR = fields(b"E", {"S": "ERROR", "V": "ERROR", "C": "XX000", "M": "oh"})


class Script:
    """`answers` says what a query is answered with, and whether the stream ends behind it."""

    def __init__(self) -> None:
        self.answers: dict[bytes, tuple[bytes, bool]] = {}
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                self.open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.recv(10_000)
            client.sendall(WELCOME)
            while data := client.recv(65_536):
                answer, ends = self.answers.get(data, (GOOD, False))
                client.sendall(answer)
                if ends:
                    return

    def close(self) -> None:
        self.listening.close()
        for client in self.open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    made = Script()
    yield made
    made.close()


@pytest.fixture(scope="module", params=["session", "transaction", "auto"])
def scripted(request: pytest.FixtureRequest, script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    connection: dict[str, Any] = {"host": "127.0.0.1", "port": script.port, "user": "u", "password": "p", "ssl": False}
    folder: Path = tmp_path_factory.mktemp("scripted")
    with daemon(folder, {"client": "pg", "ensureExists": False, "connection": connection}, auth={"method": "trust"},
                users={"backstage": {}}, provisioning={"enabled": False}, pool={"mode": request.param, "size": 4}) as running:
        yield running


def works(running: Daemon) -> None:
    with Raw(running.port) as other:
        other.enter()
        assert b"D" in dict(other.ask("select 'good'"))


@pytest.mark.parametrize("answer", [b"", ROW, ROW[:7], ROW[:2], ERROR, ROW + message(b"C", b"SELECT 1\0"), message(b"G", b"\0\0\0"),
                                    message(b"H", b"\0\0\0") + message(b"d", b"x"), message(b"W", b"\0\0\0"),
                                    b"D" + (1 << 30).to_bytes(4) + b"x" * 1000])
def test_a_server_that_dies(scripted: Daemon, script: Script, answer: bytes) -> None:
    """In any state: what it has said is passed on, then an error if there is room for one, then the end."""
    script.answers[query("select 'die'")] = (answer, True)
    with Raw(scripted.port) as raw, Raw(scripted.port) as other:
        raw.enter()
        other.enter()
        raw.send(query("select 'die'"))
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while more := raw.sock.recv(65_536):
                heard += more
        assert heard.startswith(answer)
        rest = heard[len(answer):]
        if rest:
            told = parse_fields(rest[5:])
            assert (told["S"], told["C"], told["M"]) == ("FATAL", "08006", "server closed the connection unexpectedly")
        else:
            assert answer in (ROW[:7], ROW[:2]) or len(answer) > 1000      # in the middle of a message
        assert b"D" in dict(other.ask("select 'good'"))
    works(scripted)


@pytest.mark.parametrize(("answer", "words"), [
    (b"D\0\0\0\3", "length 3"), (b"D\xff\xff\xff\xff", "length 4294967295"), (b"D\x80\0\0\0", "length 2147483648"),
    (b"Z\0\0\0\4", "ReadyForQuery of length 4"), (b"Z\0\0\0\x09IIIII", "ReadyForQuery of length 9"),
    (b"S\x7f\0\0\0", "ParameterStatus of length"), (message(b"S", b"nothing"), "malformed ParameterStatus")])
def test_a_server_that_lies(scripted: Daemon, script: Script, answer: bytes, words: str) -> None:
    script.answers[query("select 'lie'")] = (answer, False)
    with Raw(scripted.port) as raw:
        raw.enter()
        raw.send(query("select 'lie'"))
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while more := raw.sock.recv(65_536):
                heard += more
        assert b"C08006\0" in heard
        assert words.encode() in heard, heard
    scripted.logged('client left.*reason="?upstream connection lost')
    works(scripted)


@pytest.mark.parametrize("answer", [GOOD + GOOD, GOOD + ERROR, GOOD + ready_for_query(), GOOD + b"Z", GOOD + message(b"D", b"\0\0"),
                                    GOOD + fields(b"N", {"S": "NOTICE", "C": "00000", "M": "psst"}),
                                    GOOD + message(b"A", b"\0\0\0\1a\0b\0")])
def test_a_server_that_says_what_nobody_asked_for(scripted: Daemon, script: Script, answer: bytes) -> None:
    """Whatever it is, the next client does not read it."""
    script.answers[query("select 'babble'")] = (answer, False)
    with Raw(scripted.port) as raw:
        raw.enter()
        raw.send(query("select 'babble'"))
        raw.until(b"Z")
    until(lambda: scripted.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "the lease to end")
    for _ in range(6):
        with Raw(scripted.port) as other:
            other.enter()
            assert [tag for tag, _ in other.ask("select 'good'")] == [b"T", b"D", b"C", b"Z"]
            other.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.sock.recv(1)
