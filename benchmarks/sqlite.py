"""A point query of a SQLite file: through the gateway, and by sqlite3's own shell over a pipe, each query waiting for its
answer; and a million rows, by time and by the memory that they take.

The asker is the same Python for both, so what it costs itself is in both numbers.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.peers import PROXY_CORE, ROOT, Peer
from benchmarks.plan import Plan
from benchmarks.processes import pinned, running, until
from benchmarks.rounds import Row, Sample, interleave

ROWS = 100_000
MANY = b"with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000) select i, 'a text of some length' from n\0"
Ask = Callable[[int], None]


def run(plan: Plan) -> Iterator[Row]:
    if shutil.which("sqlite3") is None:
        raise SystemExit("sqlite3's shell is not installed")
    path = plan.folder / "sqlite" / "bench.sqlite"
    with _gateway(path) as ours:
        shell = Peer("shell", 0, 0)
        asks: dict[str, Callable[[], contextlib.AbstractContextManager[Ask]]] = {
            "simple": lambda: _simple(ours.port), "prepared": lambda: _prepared(ours.port)}
        for shape, asked in asks.items():
            row = Row("sqlite", f"point query, {shape}", "µs", more_is_better=False)
            yield interleave(row, [ours, shell], plan.rounds,
                             lambda peer, asked=asked: _measure(asked if peer is ours else lambda: _shell(path), plan.seconds))
        row = Row("sqlite", "a million rows", "rows/s")
        yield interleave(row, [ours], min(plan.rounds, 3), lambda peer: _many(peer))
        row = Row("sqlite", "a million rows, memory more than before", "MB", more_is_better=False)
        yield interleave(row, [ours], 1, lambda peer: _memory(peer))


def _measure(asked: Callable[[], contextlib.AbstractContextManager[Ask]], seconds: float) -> Sample:
    with asked() as ask:
        for number in range(200):
            ask(number)
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            ask(count * 7 % ROWS)
            count += 1
    return Sample(spent / count * 1e6, count)


@contextlib.contextmanager
def _shell(path: Path) -> Iterator[Ask]:
    process = subprocess.Popen(pinned(PROXY_CORE, ["sqlite3", str(path)]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    into, out = process.stdin, process.stdout

    def ask(number: int) -> None:
        into.write(b"select name from t where id = %d;\n" % number)
        into.flush()
        out.readline()

    try:
        yield ask
    finally:
        into.close()
        process.wait()
        out.close()


def _message(tag: bytes, body: bytes = b"") -> bytes:
    return tag + struct.pack("!i", len(body) + 4) + body


@contextlib.contextmanager
def _session(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = struct.pack("!i", 196608) + b"user\0bench\0database\0bench\0\0"
        sock.sendall(struct.pack("!i", len(body) + 4) + body)
        _ready(sock)
        yield sock


def _ready(sock: socket.socket) -> int:
    """Reads up to ReadyForQuery.  Returns how many bytes there were."""
    tail, count = b"", 0
    while tail[-6:-1] != b"Z\0\0\0\5":
        data = sock.recv(1 << 18)
        if not data:
            raise SystemExit("the gateway closed the connection")
        tail, count = (tail + data)[-6:], count + len(data)
    return count


@contextlib.contextmanager
def _simple(port: int) -> Iterator[Ask]:
    with _session(port) as sock:
        def ask(number: int) -> None:
            sock.sendall(_message(b"Q", b"select name from t where id = %d\0" % number))
            _ready(sock)

        yield ask


@contextlib.contextmanager
def _prepared(port: int) -> Iterator[Ask]:
    with _session(port) as sock:
        sock.sendall(_message(b"P", b"s\0select name from t where id = $1\0\0\0") + _message(b"S"))
        _ready(sock)

        def ask(number: int) -> None:
            value = b"%d" % number
            bind = b"\0s\0" + b"\0\0\0\1" + struct.pack("!i", len(value)) + value + b"\0\0"
            sock.sendall(_message(b"B", bind) + _message(b"E", b"\0\0\0\0\0") + _message(b"S"))
            _ready(sock)

        yield ask


def _many(peer: Peer) -> Sample:
    with _session(peer.port) as sock:
        start = time.perf_counter()
        sock.sendall(_message(b"Q", MANY))
        _ready(sock)
        return Sample(1_000_000 / (time.perf_counter() - start), 1_000_000)


def _memory(peer: Peer) -> Sample:
    process, most = psutil.Process(peer.pid), 0
    before = process.memory_info().rss
    with _session(peer.port) as sock:
        sock.sendall(_message(b"Q", MANY))
        tail = b""
        while tail[-6:-1] != b"Z\0\0\0\5":
            tail = (tail + sock.recv(1 << 18))[-6:]
            most = max(most, process.memory_info().rss - before)
    return Sample(most / 1e6)


@contextlib.contextmanager
def _gateway(path: Path) -> Iterator[Peer]:
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("pragma journal_mode = wal")
        file.execute("create table t (id integer primary key, name text)")
        file.executemany("insert into t values (?, ?)", ((number, f"name {number}") for number in range(ROWS)))
        file.commit()
    settings = {"listen": ["127.0.0.1:0"], "metrics": {"listen": "off"}, "sqlite": {"catalog": False},
                "users": {"bench": {"method": "trust"}}}
    database = {"client": "better-sqlite3", "connection": {"directory": str(path.parent)}}
    config = path.parent / "app-config.yaml"      # JSON is YAML
    config.write_text(json.dumps({"backend": {"database": database}, "switchboard": settings}))
    log = path.parent / "log"
    command = [sys.executable, "-m", "proxy", "run", "--config", str(config)]
    with contextlib.chdir(ROOT), running(command, log, PROXY_CORE) as process:
        until(lambda: "msg=ready" in log.read_text() or process.poll() is not None, "Switchboard")
        ready = re.search(r"msg=ready listen=127\.0\.0\.1:(\d+)", log.read_text())
        if not ready:
            raise SystemExit(f"Switchboard did not start:\n{log.read_text()}")
        yield Peer("switchboard", int(ready[1]), process.pid)


