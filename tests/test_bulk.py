"""More bytes than anybody would keep: memory stays where it was, and others do not notice."""

from __future__ import annotations

import select
import struct
from pathlib import Path

import pytest

from proxy.wire.messages import query
from tests.raw import COPY_DONE, SYNC, Raw, bind, copy_data, execute, parse
from tests.servers import Daemon

MB = 1 << 20
ROW = 200 * MB


def memory(running: Daemon) -> int:
    """Bytes resident, now."""
    for line in Path(f"/proc/{running.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def swallowed(raw: Raw, running: Daemon) -> tuple[int, int]:
    """Read up to ReadyForQuery without keeping anything: the longest message, and the most memory that the daemon had."""
    longest = most = 0
    buffer = bytearray(MB)
    while True:
        head = raw.exactly(5)
        left = int.from_bytes(head[1:]) - 4
        longest = max(longest, left)
        while left:
            left -= raw.sock.recv_into(buffer, min(left, MB))
            if longest > 10 * MB:
                most = max(most, memory(running))
        if head[:1] == b"Z":
            return longest, most


def test_a_huge_row_costs_no_memory(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.ask("select 1")
        before = memory(trusting)
        raw.send(query(f"select repeat('x', {ROW})"))
        longest, most = swallowed(raw, trusting)
        assert longest > ROW
        assert most - before < 10 * MB


def test_a_huge_parameter_costs_no_memory(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        before = most = memory(trusting)
        raw.send(parse("select length($1)") + b"B" + struct.pack("!i", 4 + 2 + 4 + 2 + 4 + ROW) + b"\0\0" + struct.pack(
            "!hhi", 0, 1, ROW))
        piece = b"y" * MB
        for _ in range(ROW // MB):
            raw.send(piece)
            most = max(most, memory(trusting))
        raw.send(b"\0\0" + execute() + SYNC)
        assert dict(raw.until(b"Z"))[b"D"][6:] == b"%d" % ROW
        assert most - before < 10 * MB


def test_a_client_that_never_reads_harms_nobody(trusting: Daemon) -> None:
    """What is kept for it is bounded; when it reads at last, every row is there."""
    with Raw(trusting.port) as lazy, Raw(trusting.port) as other:
        lazy.enter()
        other.enter()
        before = memory(trusting)
        rows = 100_000
        lazy.send(query(f"select repeat('x', 1000) from generate_series(1, {rows})"))
        assert select.select([lazy.sock], [], [], 30)[0]
        for number in range(500):
            assert other.shown(f"select {number}") == str(number)
        assert memory(trusting) - before < 10 * MB
        assert sum(tag == b"D" for tag, _ in lazy.until(b"Z")) == rows


@pytest.mark.parametrize("size", [10, 20_000])
def test_both_sides_write_at_once(trusting: Daemon, size: int) -> None:
    """Megabytes of queries are under way while megabytes of answers are: a client that writes first and reads later."""
    with Raw(trusting.port) as raw:
        raw.enter()
        number = 4000 if size == 10 else 1500
        one = parse(f"select repeat('x', {size}), $1") + bind("", "v" * size) + execute() + SYNC
        raw.sock.setblocking(False)
        out, answers, data = memoryview(one * number), 0, b""
        while answers < number:
            readable, writable, _ = select.select([raw.sock], [raw.sock] if out else [], [], 30)
            assert readable or writable, "a deadlock"
            if writable:
                out = out[raw.sock.send(out[:MB]):]
            if readable:
                data = data[-5:] + raw.sock.recv(MB)
                answers += data.count(b"Z\0\0\0\5I")
        raw.sock.setblocking(True)
        assert raw.shown("select 1") == "1"


def test_copy_both_ways_is_not_kept(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.ask("create table if not exists copied_bulk (a text)")
        raw.ask("truncate copied_bulk")
        before = most = memory(trusting)
        raw.send(query("copy copied_bulk from stdin"))
        raw.until(b"G")
        piece = copy_data(b"z" * 999 + b"\n") * 1000
        for _ in range(100):
            raw.send(piece)
            most = max(most, memory(trusting))
        raw.send(COPY_DONE)
        raw.until(b"Z")
        raw.send(query("copy copied_bulk to stdout"))
        rows = 0
        for tag, _ in iter(raw.read, (b"Z", b"I")):
            rows += tag == b"d"
        assert rows == 100_000
        most = max(most, memory(trusting))
        assert most - before < 10 * MB
        raw.ask("drop table copied_bulk")


def test_large_objects(trusting: Daemon) -> None:
    """libpq's own way: function calls, by the numbers of lo_creat, lo_open, lowrite, lo_lseek and loread."""
    def call(raw: Raw, number: int, *values: bytes) -> bytes:
        packed = b"".join(struct.pack("!i", len(value)) + value for value in values)
        raw.send(b"F" + struct.pack("!iihhh", 4 + 4 + 2 + 2 + 2 + len(packed) + 2, number, 1, 1, len(values)) + packed + b"\0\1")
        (answer,) = [body for tag, body in raw.until(b"Z") if tag == b"V"]
        return answer[4:]

    def number(value: int) -> bytes:
        return struct.pack("!i", value)

    with Raw(trusting.port) as raw:
        raw.enter()
        raw.ask("begin")
        oid = call(raw, 957, number(-1))
        handle = call(raw, 952, oid, number(0x60000))
        data = bytes(range(256)) * 4000
        assert call(raw, 955, handle, data) == number(len(data))
        call(raw, 956, handle, number(0), number(0))
        assert call(raw, 954, handle, number(len(data))) == data
        call(raw, 964, oid)
        raw.ask("commit")


