"""What a gateway asks of whatever answers behind it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

BOOL, NAME, INT8, INT4, TEXT, OID, FLOAT8, VOID = 16, 19, 20, 23, 25, 26, 701, 2278
BINARY = {BOOL: "!?", INT8: "!q", INT4: "!i", OID: "!I", FLOAT8: "!d", 21: "!h"}
Value = str | int | float | bool | bytes | None
Raw = tuple[bytes | None, bool]
"""A parameter as the client sent it, and whether that is binary."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    oid: int = TEXT


class Rows(Protocol):
    """Rows that come as they are asked for."""

    async def take(self, most: int) -> Sequence[Sequence[Value]]:
        """The next, `most` of them at most; none at the end."""

    async def close(self) -> None:
        """The rest is not wanted."""


class Intake(Protocol):
    """Where the data of a COPY FROM STDIN goes."""

    width: int

    async def feed(self, data: bytes) -> None:
        """Some more of it, cut anywhere."""

    async def finish(self) -> str:
        """That was all.  Returns the tag."""


@dataclass(frozen=True, slots=True)
class Result:
    """`columns` is None for a statement that gives no rows.  A tag that ends with a space is told with the number of rows.

    `status` is what the transaction status becomes: I, T.  `notice`: severity, text and SQLSTATE of a NoticeResponse that goes
    before the tag.  `encoded`: the rows' values are bytes, in the formats that were asked for.  `copy`: the rows are single values
    of bytes, CopyData of a COPY TO STDOUT of so many columns, behind `header`.  `intake`: a COPY FROM STDIN.
    """

    tag: str
    columns: tuple[Column, ...] | None = None
    rows: Sequence[Sequence[Value]] | Rows = ()
    status: str | None = None
    notice: tuple[str, str, str] | None = None
    encoded: bool = False
    copy: int | None = None
    header: bytes = b""
    intake: Intake | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """A statement before it runs: the types of its parameters, 25 (text) for what cannot be told, and its columns."""

    parameters: tuple[int, ...]
    columns: tuple[Column, ...] | None


class Engine(Protocol):
    """All errors are ProxyErrors, which leave the session alive."""

    steady: bool
    """A result has the columns that were described, or the tables have changed in between."""

    def split(self, sql: str) -> list[str]:
        """The statements of a query string."""

    async def describe(self, sql: str, oids: Sequence[int] = ()) -> Described:
        """Must not change anything.  `oids`: types that the client has declared, 0 for none."""

    async def execute(self, sql: str, parameters: Sequence[Value], formats: Sequence[int] = (), oids: Sequence[int] = ()) -> Result:
        """Run one statement.  `formats` is what the client wants columns in, as in Bind; `oids` as for `describe`."""

    def bind(self, sql: str, oids: Sequence[int], raws: Sequence[Raw]) -> Sequence[Value]:
        """The parameters of `execute`, from what the client sent."""

    def give(self, value: Value, column: Column, *, binary: bool) -> bytes | None:
        """A value of a row, as the client is sent it."""

    def open(self) -> None:
        """What is executed from now on is one transaction, though nobody has said BEGIN."""

    async def close(self, *, commit: bool) -> None:
        """The end of that."""


class Plainly:
    """The half of an Engine whose values need no thought, and which has no transactions."""

    steady = False

    def bind(self, sql: str, oids: Sequence[int], raws: Sequence[Raw]) -> Sequence[Value]:
        return [_taken(raw, oids[at] if at < len(oids) else 0, binary=binary) for at, (raw, binary) in enumerate(raws)]

    def give(self, value: Value, column: Column, *, binary: bool) -> bytes | None:
        if value is None:
            return None
        if binary and column.oid in BINARY:
            return struct.pack(BINARY[column.oid], bool(value) if column.oid == BOOL else value)
        if column.oid == BOOL:
            return b"t" if value else b"f"
        return str(value).encode()

    def open(self) -> None:
        pass

    async def close(self, *, commit: bool) -> None:
        pass


def _taken(raw: bytes | None, oid: int, *, binary: bool) -> Value:
    if raw is None:
        return None
    if binary and oid in BINARY:
        return struct.unpack(BINARY[oid], raw)[0]  # type: ignore[no-any-return]
    return raw.decode()


def highest_parameter(sql: str) -> int:
    """The highest $n of a statement."""
    numbers = [int(word[:3]) for part in sql.split("$")[1:]
               if (word := part[:3].rstrip("abcdefghijklmnopqrstuvwxyz ,)=;:'\n\t")).isdigit()]
    return max(numbers, default=0)
