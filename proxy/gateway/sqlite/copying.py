"""COPY of a SQLite file's tables and queries: the rows through the file's thread, the text by `gateway/copy_rows`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import apsw

from proxy.errors import UpstreamRefused
from proxy.gateway.answers import rows_of
from proxy.gateway.copy_rows import Reader, Row, Writer
from proxy.gateway.copy_statement import Copy
from proxy.gateway.engine import Column, Result, Rows, Value
from proxy.gateway.sqlite import types
from proxy.gateway.sqlite.definitions import quoted
from proxy.gateway.sqlite.faults import Refused, fault_of, refused, unsupported

if TYPE_CHECKING:
    from proxy.gateway.sqlite.file import File


class Outward:
    """Rows, written; what a cursor gives."""

    def __init__(self, rows: Rows, writer: Writer, columns: Sequence[Column]) -> None:
        self.rows, self.writer, self.columns = rows, writer, columns

    async def take(self, most: int) -> Sequence[Sequence[Value]]:
        some = await self.rows.take(most)
        return [(self.writer.row([types.told(value, column.oid, column.name)
                                  for value, column in zip(row, self.columns, strict=True)]),) for row in some]

    async def close(self) -> None:
        await self.rows.close()


class Inward:
    """An Intake: what comes is inserted, some rows at a time, in one transaction."""

    def __init__(self, file: File, copy: Copy, table: str, columns: Sequence[tuple[str, int]]) -> None:
        self.file, self.table, self.columns = file, table, columns
        self.reader = Reader(copy, [name for name, _ in columns])
        self.width, self.count = len(columns), 0
        names = ", ".join(quoted(name) for name, _ in columns)
        self.sql = f"INSERT INTO {quoted(table)} ({names}) VALUES ({', '.join('?' * len(columns))})"

    async def feed(self, data: bytes) -> None:
        await self._insert(lambda: self.reader.feed(data))

    async def finish(self) -> str:
        await self._insert(self.reader.finish)
        return f"COPY {self.count}"

    async def _insert(self, read: Callable[[], list[Row]]) -> None:
        def work() -> int:
            rows = read()
            if not rows:
                return 0
            first = self.reader.line - len(rows)
            for at, row in enumerate(rows, 1):
                try:
                    self.file.connection.execute(self.sql, self._values(row))
                except Exception as error:
                    raise self._placed(error, first + at) from None
            return len(rows)

        self.count += await self.file.work(work)

    def _values(self, row: Row) -> list[Value]:
        return [None if raw is None else types.from_text(raw.decode(), oid) for raw, (_, oid) in zip(row, self.columns, strict=True)]

    def _placed(self, error: Exception, line: int) -> Exception:
        """The error, with where it was (CONTEXT)."""
        if isinstance(error, UnicodeDecodeError):
            error = refused("22021", 'invalid byte sequence for encoding "UTF8"')
        found = fault_of(error) if isinstance(error, apsw.Error) else error
        if isinstance(found, Refused):
            return Refused({**found.fields, "W": f"COPY {self.table}, line {line}"})
        return found if isinstance(found, UpstreamRefused) else error


async def copied(file: File, copy: Copy) -> Result:
    """Begin a COPY."""
    if copy.query:
        result = await file.execute(copy.query, ())
        if result.columns is None:
            raise refused("0A000", "COPY query must have a RETURNING clause")
    else:
        table, columns = await file.columns_of(copy.table, copy.columns)
        if not copy.outward:
            intake = Inward(file, copy, table, columns)
            await file.work(file.writable)
            return Result("", intake=intake)
        result = await file.execute(f"select {', '.join(quoted(name) for name, _ in columns)} from {quoted(table)}", ())
    if result.encoded:
        raise unsupported("COPY of the catalog")
    assert result.columns is not None
    writer = Writer(copy, [column.name for column in result.columns])
    return Result("COPY ", result.columns, Outward(rows_of(result), writer, result.columns), copy=len(result.columns),
                  header=writer.header())
