"""The extended protocol's half of a gateway's session: prepared statements and portals."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import ClientFault, ProxyError
from proxy.gateway.answers import complete, copying, format_of, row_description, rows_of
from proxy.gateway.engine import Described, Engine, Raw, Result, Rows, Value
from proxy.wire.messages import message

MAX_NAMED = 1000                     # statements and portals of one session
_EXITS = frozenset(("rollback", "commit", "end", "abort"))


@dataclass(slots=True)
class Statement:
    sql: str
    oids: tuple[int, ...]
    described: Described


@dataclass(slots=True)
class Portal:
    statement: Statement
    parameters: Sequence[Value] = ()
    formats: Sequence[int] = ()
    result: Result | None = None
    rows: Rows | None = None


def fault(sqlstate: str, text: str) -> ProxyError:
    found = ClientFault(text)
    found.sqlstate = sqlstate
    return found


class Extended:
    """`opened`: what runs up to the next Sync is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.status = "I"
        self.opened = False
        self.statements: dict[str, Statement] = {}
        self.portals: dict[str, Portal] = {}
        self.out = bytearray()

    if TYPE_CHECKING:
        async def _run(self, sql: str, parameters: Sequence[Value], formats: Sequence[int] = (),
                       oids: Sequence[int] = ()) -> Result: ...
        async def _rows(self, rows: Rows, result: Result, formats: Sequence[int], limit: int) -> tuple[int, bool]: ...

    def refuse_in_failed(self, sql: str) -> None:
        words = sql.split(maxsplit=1)
        if self.status == "E" and (not words or words[0].lower().rstrip(";") not in _EXITS):
            raise fault("25P02", "current transaction is aborted, commands ignored until end of transaction block")

    async def _parse(self, body: bytes) -> None:
        name, rest = text(body)
        sql, rest = text(rest)
        (count,) = struct.unpack_from("!h", rest)
        oids = struct.unpack_from(f"!{count}I", rest, 2)
        parts = self.engine.split(sql)
        if len(parts) > 1:
            raise fault("42601", "cannot insert multiple commands into a prepared statement")
        if parts:
            self.refuse_in_failed(parts[0])
        if name and name in self.statements:
            raise fault("42P05", f'prepared statement "{name}" already exists')
        if len(self.statements) >= MAX_NAMED:
            raise ClientFault("too many prepared statements")
        # Errors belong here, as in PostgreSQL.
        described = await self._described(parts[0], oids) if parts else Described((), None)
        self.statements[name] = Statement(parts[0] if parts else "", oids, described)
        self.out += message(b"1")

    async def _described(self, sql: str, oids: Sequence[int]) -> Described:
        return await self.engine.describe(sql, oids)

    def _statement(self, name: str) -> Statement:
        if name not in self.statements:
            raise fault("26000", f'prepared statement "{name}" does not exist' if name else "unnamed prepared statement does not exist")
        return self.statements[name]

    def _portal(self, name: str) -> Portal:
        if name not in self.portals:
            raise fault("34000", f'portal "{name}" does not exist')
        return self.portals[name]

    async def _bind(self, body: bytes) -> None:
        name, rest = text(body)
        prepared, rest = text(rest)
        statement = self._statement(prepared)
        formats, at = shorts(rest, 0)
        (count,) = struct.unpack_from("!h", rest, at)
        at += 2
        if len(formats) > 1 and len(formats) != count:
            raise fault("08P01", f"bind message has {len(formats)} parameter formats but {count} parameters")
        if count != len(statement.described.parameters):
            raise fault("08P01", f"bind message supplies {count} parameters, but prepared statement \"{prepared}\" requires "
                                 f"{len(statement.described.parameters)}")
        raws: list[Raw] = []
        for index in range(count):
            (size,) = struct.unpack_from("!i", rest, at)
            at += 4
            if size < -1 or at + max(size, 0) > len(rest):
                raise ClientFault("malformed message")
            raws.append((None if size < 0 else rest[at:at + size], format_of(formats, index) == 1))
            at += max(size, 0)
        results, _ = shorts(rest, at)
        self.refuse_in_failed(statement.sql)
        if name and name in self.portals:
            raise fault("42P03", f'portal "{name}" already exists')
        if len(self.portals) >= MAX_NAMED:
            raise ClientFault("too many portals")
        oids = self._types(statement)
        await self._drop(name)
        self.portals[name] = Portal(statement, self._bound(statement.sql, oids, raws), results)
        self.out += message(b"2")

    def _bound(self, sql: str, oids: Sequence[int], raws: Sequence[Raw]) -> Sequence[Value]:
        return self.engine.bind(sql, oids, raws)

    @staticmethod
    def _types(statement: Statement) -> tuple[int, ...]:
        told = statement.oids
        return tuple(told[at] if at < len(told) and told[at] else oid for at, oid in enumerate(statement.described.parameters))

    async def _describe(self, body: bytes) -> None:
        name, _ = text(body[1:])
        formats: Sequence[int] = ()
        if body[:1] == b"S":
            statement = self._statement(name)
            told = self._types(statement)
            self.out += message(b"t", struct.pack(f"!h{len(told)}I", len(told), *told))
        else:
            portal = self._portal(name)
            statement, formats = portal.statement, portal.formats
        columns = statement.described.columns
        self.out += message(b"n") if columns is None else row_description(columns, formats)

    async def _execute(self, body: bytes) -> None:
        name, rest = text(body)
        (limit,) = struct.unpack_from("!i", rest)
        portal = self._portal(name)
        statement = portal.statement
        if not statement.sql:
            self.out += message(b"I")
            return
        if portal.result is None:
            if self.status == "I" and not self.opened:
                self.opened = True
                self.engine.open()
            portal.result = await self._run(statement.sql, portal.parameters, portal.formats, statement.oids)
            known = statement.described.columns
            if self.engine.steady and known is not None and portal.result.columns is not None and portal.result.copy is None and (
                    [column.oid for column in known] != [column.oid for column in portal.result.columns]):
                raise fault("0A000", "cached plan must not change result type")
        result, count = portal.result, 0
        if result.columns is not None:
            if result.copy is not None:
                self.out += copying(b"H", result.copy) + (message(b"d", result.header) if result.header else b"")
            portal.rows = portal.rows or rows_of(result)
            count, ended = await self._rows(portal.rows, result, portal.formats, 0 if result.copy is not None else max(0, limit))
            if not ended:
                self.out += message(b"s")
                return
            if result.copy is not None:
                self.out += message(b"c")
        self.out += complete(result, count)

    async def _close(self, body: bytes) -> None:
        name, _ = text(body[1:])
        if body[:1] == b"S":
            self.statements.pop(name, None)
        else:
            await self._drop(name)
        self.out += message(b"3")

    async def _drop(self, name: str) -> None:
        portal = self.portals.pop(name, None)
        if portal is not None and portal.rows is not None:
            await portal.rows.close()

    async def _forget_portals(self) -> None:
        """At the end of a transaction."""
        for name in tuple(self.portals):
            await self._drop(name)

    async def _forget_unnamed(self) -> None:
        """A simple query ends these."""
        self.statements.pop("", None)
        await self._drop("")


def text(data: bytes) -> tuple[str, bytes]:
    end = data.index(b"\0")
    return data[:end].decode(), data[end + 1:]


def shorts(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    (count,) = struct.unpack_from("!h", data, at)
    return struct.unpack_from(f"!{count}h", data, at + 2), at + 2 + 2 * count


