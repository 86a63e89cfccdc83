"""What a gateway sends: rows, tags, and how they begin (PostgreSQL manual, "Message Formats")."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from proxy.gateway.engine import BOOL, FLOAT8, INT4, INT8, OID, Column, Engine, Result, Rows, Value
from proxy.wire.messages import fields, message

_SIZES = {BOOL: 1, INT8: 8, INT4: 4, OID: 4, FLOAT8: 8, 21: 2, 1114: 8, 1184: 8, 1082: 4, 2950: 16}


class _Ready:
    """Rows that are all there."""

    def __init__(self, rows: Sequence[Sequence[Value]]) -> None:
        self.rows, self.at = rows, 0

    async def take(self, most: int) -> Sequence[Sequence[Value]]:
        some = self.rows[self.at:self.at + most]
        self.at += len(some)
        return some

    async def close(self) -> None:
        self.at = len(self.rows)


def rows_of(result: Result) -> Rows:
    return _Ready(result.rows) if isinstance(result.rows, Sequence) else result.rows


def format_of(formats: Sequence[int], index: int) -> int:
    return 0 if not formats else formats[0] if len(formats) == 1 else formats[index] if index < len(formats) else 0


def row_description(columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    body = struct.pack("!h", len(columns))
    for index, column in enumerate(columns):
        body += column.name.encode() + b"\0" + struct.pack("!IhIhih", 0, 0, column.oid, _SIZES.get(column.oid, -1), -1,
                                                           format_of(formats, index))
    return message(b"T", body)


def data_row(engine: Engine, row: Sequence[Value], columns: Sequence[Column], formats: Sequence[int], result: Result) -> bytes:
    if result.copy is not None:
        (value,) = row
        assert isinstance(value, bytes)
        return message(b"d", value)
    body = bytearray(struct.pack("!h", len(row)))
    for index, (value, column) in enumerate(zip(row, columns, strict=True)):
        raw = value if result.encoded else engine.give(value, column, binary=format_of(formats, index) == 1)
        assert raw is None or isinstance(raw, bytes)
        body += b"\xff\xff\xff\xff" if raw is None else struct.pack("!i", len(raw)) + raw
    return message(b"D", bytes(body))


def copying(tag: bytes, width: int) -> bytes:
    """CopyOutResponse or CopyInResponse, in text."""
    return message(tag, struct.pack(f"!bh{width}h", 0, width, *(0,) * width))


def complete(result: Result, rows: int) -> bytes:
    tag = f"{result.tag}{rows}" if result.tag.endswith(" ") else result.tag
    ahead = b""
    if result.notice is not None:
        severity, text, sqlstate = result.notice
        ahead = fields(b"N", {"S": severity, "V": severity, "C": sqlstate, "M": text})
    return ahead + message(b"C", tag.encode() + b"\0")
