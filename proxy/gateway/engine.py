"""What a gateway asks of whatever answers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

BOOL, NAME, INT8, INT4, TEXT, OID, FLOAT8, VOID = 16, 19, 20, 23, 25, 26, 701, 2278
Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    oid: int = TEXT


@dataclass(frozen=True, slots=True)
class Result:
    """`columns` is None for a statement that gives no rows."""

    tag: str
    columns: tuple[Column, ...] | None = None
    rows: Sequence[Sequence[Value]] = ()
    status: str | None = None        # what the transaction status becomes: I, T
    notice: tuple[str, str] | None = None        # text and SQLSTATE of a NoticeResponse that goes before the tag


class Engine(Protocol):
    def split(self, sql: str) -> list[str]:
        """The statements of a query string."""

    def describe(self, sql: str) -> tuple[Column, ...] | None:
        """The columns that a statement would give.  Must not change anything."""

    async def execute(self, sql: str, parameters: Sequence[Value]) -> Result:
        """Run one statement.  Raises ProxyError for an error that leaves the session alive."""
