"""Strangers that mean no good, before anybody knows them: bounded, told, and nobody else notices."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.wire.messages import message
from proxy.wire.startup import MAX_STARTUP, SSL_REQUEST, pack, pack_cancel
from tests.raw import Raw
from tests.servers import Daemon, daemon, until


@pytest.fixture(scope="module")
def target(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("hostile"), base, auth={"login_timeout": "5s", "throttle_failures": 0},
                pool={"size": 4}) as running:
        yield running


def memory(running: Daemon) -> int:
    """Resident, in KB."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("packet", [
    struct.pack("!i", 7), struct.pack("!i", -1), struct.pack("!i", MAX_STARTUP + 1), struct.pack("!i", 2**31 - 1),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], ids=repr)
def test_no_startup_packet_is_closed_without_a_word(target: Daemon, packet: bytes) -> None:
    with Raw(target.port) as raw:
        raw.send(packet)
        assert raw.closed()


def test_nonsense_in_a_tls_handshake_is_told_and_closed(target: Daemon) -> None:
    with Raw(target.port) as raw:
        raw.send(b"\x16\x03\x01\x00\x05nonsense")
        assert raw.refusal()["C"] == "08P01"


@pytest.mark.parametrize("answer", [
    b"p" + struct.pack("!i", 2**31 - 1), b"p" + struct.pack("!i", 3), b"p" + struct.pack("!i", -5), b"Q\0\0\0\x0dselect 1\0",
    message(b"p", b""), message(b"p", b"SCRAM-SHA-256"), message(b"p", b"SCRAM-SHA-256\0\0\0\0\xffx"),
    message(b"p", b"SCRAM-SHA-256-PLUS\0\0\0\0\x07n,,n=,r"), message(b"p", b"X\0\0\0\0\x04n,,n"), message(b"p", b"\xff" * 60_000)],
    ids=lambda answer: repr(answer[:24]))
def test_no_proof_is_told_and_closed(target: Daemon, answer: bytes) -> None:
    with Raw(target.port) as raw:
        raw.hello(user="backstage", database="catalog")
        assert raw.read()[0] == b"R"
        raw.send(answer)
        assert raw.refusal()["C"] in ("08P01", "28P01")


def test_noise_leaves_nothing_behind(target: Daemon) -> None:
    chance = random.Random(17)
    good = [pack({"user": "backstage", "database": "catalog"}), SSL_REQUEST, pack_cancel(1, b"1234"), struct.pack("!ii", 8, 80877104)]
    target.connect("catalog").close()
    before = memory(target)
    for _ in range(600):
        data = bytearray(b"".join(chance.choice(good) for _ in range(chance.randint(1, 4))) + chance.randbytes(chance.randint(0, 200)))
        for _ in range(chance.randint(0, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with Raw(target.port) as raw, contextlib.suppress(OSError):
            raw.send(bytes(data))
            if chance.random() < 0.5:
                raw.sock.shutdown(socket.SHUT_WR)
            if chance.random() < 0.3:         # a reset instead of an end
                raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with target.connect("catalog") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert memory(target) - before < 20_000


def test_slow_lorises_hold_nobody_up(target: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Raw(target.port)) for _ in range(300)]
        for number, raw in enumerate(slow):
            raw.send(pack({"user": "backstage", "database": "catalog"})[:number % 20])
        for _ in range(20):
            target.connect("catalog").close()
        for raw in slow:
            assert raw.refusal()["M"] == "canceling authentication due to timeout"


def test_out_of_files_is_survived_without_spinning(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"size": 2}) as running:
        running.connect("catalog").close()
        used = len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (used + 20, 4096))
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(Raw(running.port))
            running.logged("cannot accept a connection")
            spent = cpu(running)
            until(lambda: running.log.count("cannot accept a connection") >= 4, "some more looks, half a second apart")
            assert cpu(running) - spent < 0.5
        until(lambda: works(running), "a login")
        assert running.log.count("cannot accept a connection") < 20


def cpu(running: Daemon) -> float:
    """Seconds."""
    return int(Path(f"/proc/{running.process.pid}/schedstat").read_text().split()[0]) / 1e9


def works(running: Daemon) -> bool:
    try:
        with running.connect("catalog", connect_timeout=5) as connection:
            return connection.execute("select 1").fetchone() == (1,)
    except Exception:
        return False
