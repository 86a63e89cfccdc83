"""Text results on MySQL's wire: read as we ask a server, and made as we answer a client."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.errors import UpstreamFault
from proxy.net.stream import Stream
from proxy.wire.mysql import EOF, ERR, OK, UTF8MB4, Can, Reader, Status, eof, number, packets, text
from proxy.wire.mysql_errors import refused

MAX_ROWS = 10_000
VAR_STRING = 0xFD


async def query(stream: Stream, statement: str) -> list[list[str | None]]:
    """Rows of one statement, on a connection without DEPRECATE_EOF or with it.  Raises MysqlRefused."""
    await stream.write(packets(b"\x03" + statement.encode()))
    _, first = await stream.read_packet()
    if first[:1] == bytes((ERR,)):
        raise refused(first)
    if first[:1] == bytes((OK,)):
        return []
    columns = Reader(first, UpstreamFault).number()
    for _ in range(columns):
        await stream.read_packet()
    rows: list[list[str | None]] = []
    while True:
        _, payload = await stream.read_packet()
        if payload[:1] == bytes((ERR,)):
            raise refused(payload)
        if payload[:1] == bytes((EOF,)) and len(payload) < 0xFFFFFF:
            if len(payload) == 5 and not rows and columns:
                columns = 0                   # behind the definitions, where EOF is not deprecated
                continue
            return rows
        rows.append(_row(payload))
        if len(rows) > MAX_ROWS:
            raise UpstreamFault("the server answered with more rows than were asked for")


def _row(payload: bytes) -> list[str | None]:
    found = Reader(payload, UpstreamFault)
    values: list[str | None] = []
    while found.left:
        if payload[found.at] == 0xFB:
            found.take(1)
            values.append(None)
        else:
            values.append(found.text().decode("utf-8", "replace"))
    return values


def result(names: Sequence[str], rows: Sequence[Sequence[str | None]], capabilities: Can, status: int = Status.AUTOCOMMIT) -> bytes:
    """A whole answer to a query of a client with these capabilities, its first packet numbered 1."""
    old_eof = not capabilities & Can.DEPRECATE_EOF
    payloads = [number(len(names)), *(_definition(name, capabilities) for name in names)]
    if old_eof:
        payloads.append(eof(status))
    payloads += [b"".join(b"\xfb" if value is None else text(value.encode()) for value in row) for row in rows]
    payloads.append(eof(status) if old_eof else bytes((EOF, 0, 0)) + status.to_bytes(2, "little") + b"\0\0")
    return b"".join(packets(payload, at) for at, payload in enumerate(payloads, 1))


def _definition(name: str, capabilities: Can) -> bytes:
    """Protocol::ColumnDefinition41, of a text."""
    extended = text(b"") if capabilities & Can.EXTENDED_METADATA else b""
    return (text(b"def") + text(b"") * 3 + text(name.encode()) * 2 + extended + b"\x0c" + UTF8MB4.to_bytes(2, "little")
            + (1024).to_bytes(4, "little") + bytes((VAR_STRING,)) + bytes(5))
