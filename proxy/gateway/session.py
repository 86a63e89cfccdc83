"""pgwire as a server speaks it: simple and extended protocol in front of an Engine.

One loop over messages.  After an error in the extended protocol everything is ignored up to the next Sync (PostgreSQL
manual, "Extended Query"); in a failed transaction block only its end is accepted (25P02).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import ClientFault, ProxyError
from proxy.gateway.engine import BOOL, FLOAT8, INT4, INT8, OID, Column, Engine, Result, Value
from proxy.wire.messages import error_response, message, notice, ready_for_query

log = logging.getLogger(__name__)
_SIZES = {BOOL: 1, INT8: 8, INT4: 4, OID: 4, FLOAT8: 8}
_BINARY = {BOOL: "!?", INT8: "!q", INT4: "!i", OID: "!I", FLOAT8: "!d", 21: "!h"}
MAX_NAMED = 1000                     # statements and portals of one session


class Stream(Protocol):
    async def read_message(self) -> tuple[int, bytes]: ...
    async def write(self, data: bytes) -> None: ...


@dataclass(slots=True)
class Portal:
    sql: str
    parameters: Sequence[Value] = ()
    formats: Sequence[int] = ()
    result: Result | None = None
    sent: int = 0


class Session:
    def __init__(self, stream: Stream, engine: Engine) -> None:
        self.stream, self.engine = stream, engine
        self.status = "I"
        self.skipping = False
        self.statements: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.portals: dict[str, Portal] = {}
        self.out = bytearray()

    async def run(self) -> None:
        """Answer until Terminate or the end."""
        handlers = {ord("P"): self._parse, ord("B"): self._bind, ord("D"): self._describe, ord("E"): self._execute,
                    ord("C"): self._close, ord("H"): self._flush}
        while True:
            try:
                tag, body = await self.stream.read_message()
            except EOFError:
                return
            if tag == ord("X"):
                return
            if tag == ord("Q"):
                await self._query(body)
            elif tag == ord("S"):
                self.skipping = False
                self._ready()
                await self._flush(b"")
            elif tag in handlers:
                if not self.skipping:
                    try:
                        await handlers[tag](body)
                    except Exception as error:    # told to the client: a statement that fails ends no session
                        self._error(error)
                        self.skipping = True
                        await self._flush(b"")
            elif tag in b"dcf":
                continue                      # left over from a COPY that was refused
            else:
                raise ClientFault(f"invalid frontend message type {tag}")

    def _error(self, error: Exception) -> None:
        if isinstance(error, ProxyError):
            fault = error
        elif isinstance(error, (struct.error, IndexError, ValueError, UnicodeDecodeError)):
            fault = ClientFault("malformed message")
        else:
            log.error("internal error in a gateway", exc_info=error)
            fault = ProxyError("internal error")
        if self.status == "T":
            self.status = "E"
        self.out += error_response(fault, "ERROR")

    def _ready(self) -> None:
        self.out += ready_for_query(self.status.encode())

    async def _flush(self, _body: bytes) -> None:
        if self.out:
            data, self.out = bytes(self.out), bytearray()
            await self.stream.write(data)

    # -- running ------------------------------------------------------------------------------------------

    async def _run(self, sql: str, parameters: Sequence[Value]) -> Result:
        word = sql.lstrip().split(maxsplit=1)[0].lower().rstrip(";") if sql.strip() else ""
        if self.status == "E" and word not in ("rollback", "commit", "end", "abort"):
            fault = ProxyError("current transaction is aborted, commands ignored until end of transaction block")
            fault.sqlstate = "25P02"
            raise fault
        if self.status == "E" and word in ("commit", "end"):
            sql = "rollback"
        result = await self.engine.execute(sql, parameters)
        if result.status:
            self.status = result.status
        return result

    async def _query(self, body: bytes) -> None:
        try:
            text = body[:-1].decode()
            statements = self.engine.split(text)
            if not statements:
                self.out += message(b"I")
            for sql in statements:
                result = await self._run(sql, ())
                if result.columns is not None:
                    self.out += row_description(result.columns, ())
                    for row in result.rows:
                        self.out += data_row(row, result.columns, ())
                self.out += complete(result)
        except Exception as error:            # told to the client: a statement that fails ends no session
            self._error(error)
        self._ready()
        await self._flush(b"")

    # -- extended -----------------------------------------------------------------------------------------

    async def _parse(self, body: bytes) -> None:
        name, rest = _text(body)
        sql, rest = _text(rest)
        (count,) = struct.unpack_from("!h", rest)
        oids = struct.unpack_from(f"!{count}I", rest, 2)
        if len(self.engine.split(sql)) > 1:
            fault = ClientFault("cannot insert multiple commands into a prepared statement")
            fault.sqlstate = "42601"
            raise fault
        if name and name in self.statements:
            fault = ClientFault(f'prepared statement "{name}" already exists')
            fault.sqlstate = "42P05"
            raise fault
        if len(self.statements) >= MAX_NAMED:
            raise ClientFault("too many prepared statements")
        self.engine.describe(sql)             # errors belong here, as in PostgreSQL
        self.statements[name] = (sql, oids)
        self.out += message(b"1")

    def _statement(self, name: str) -> tuple[str, tuple[int, ...]]:
        if name not in self.statements:
            fault = ClientFault(f'prepared statement "{name}" does not exist')
            fault.sqlstate = "26000"
            raise fault
        return self.statements[name]

    def _portal(self, name: str) -> Portal:
        if name not in self.portals:
            fault = ClientFault(f'portal "{name}" does not exist')
            fault.sqlstate = "34000"
            raise fault
        return self.portals[name]

    async def _bind(self, body: bytes) -> None:
        portal, rest = _text(body)
        name, rest = _text(rest)
        sql, oids = self._statement(name)
        formats, at = _shorts(rest, 0)
        (count,) = struct.unpack_from("!h", rest, at)
        at += 2
        parameters: list[Value] = []
        for index in range(count):
            (size,) = struct.unpack_from("!i", rest, at)
            at += 4
            if size < 0:
                parameters.append(None)
                continue
            if at + size > len(rest):
                raise ClientFault("malformed message")
            oid = oids[index] if index < len(oids) else 0
            parameters.append(_decode(rest[at:at + size], _format(formats, index), oid))
            at += size
        results, _ = _shorts(rest, at)
        if len(self.portals) >= MAX_NAMED:
            raise ClientFault("too many portals")
        self.portals[portal] = Portal(sql, parameters, results)
        self.out += message(b"2")

    async def _describe(self, body: bytes) -> None:
        name, _ = _text(body[1:])
        if body[:1] == b"S":
            sql, oids = self._statement(name)
            wanted = [*oids, *[25] * (_parameters(sql) - len(oids))]
            self.out += message(b"t", struct.pack(f"!h{len(wanted)}I", len(wanted), *[oid or 25 for oid in wanted]))
            formats: Sequence[int] = ()
        else:
            portal = self._portal(name)
            sql, formats = portal.sql, portal.formats
        columns = self.engine.describe(sql)
        self.out += message(b"n") if columns is None else row_description(columns, formats)

    async def _execute(self, body: bytes) -> None:
        name, rest = _text(body)
        (limit,) = struct.unpack_from("!i", rest)
        portal = self._portal(name)
        if not portal.sql.strip():
            self.out += message(b"I")
            return
        if portal.result is None:
            portal.result = await self._run(portal.sql, portal.parameters)
        result = portal.result
        if result.columns is not None:
            rows = result.rows[portal.sent:portal.sent + limit] if limit > 0 else result.rows[portal.sent:]
            portal.sent += len(rows)
            for row in rows:
                self.out += data_row(row, result.columns, portal.formats)
            if portal.sent < len(result.rows):
                self.out += message(b"s")
                return
        self.out += complete(result)

    async def _close(self, body: bytes) -> None:
        name, _ = _text(body[1:])
        if body[:1] == b"S":
            self.statements.pop(name, None)
        else:
            self.portals.pop(name, None)
        self.out += message(b"3")


# -- encoding -------------------------------------------------------------------------------------------------


def _text(data: bytes) -> tuple[str, bytes]:
    end = data.index(b"\0")
    return data[:end].decode(), data[end + 1:]


def _shorts(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    (count,) = struct.unpack_from("!h", data, at)
    return struct.unpack_from(f"!{count}h", data, at + 2), at + 2 + 2 * count


def _format(formats: Sequence[int], index: int) -> int:
    return 0 if not formats else formats[0] if len(formats) == 1 else formats[index] if index < len(formats) else 0


def _parameters(sql: str) -> int:
    """The highest $n of a statement."""
    numbers = [int(word[:3]) for part in sql.split("$")[1:]
               if (word := part[:3].rstrip("abcdefghijklmnopqrstuvwxyz ,)=;:'\n\t")).isdigit()]
    return max(numbers, default=0)


def _decode(raw: bytes, form: int, oid: int) -> Value:
    if form == 1 and oid in _BINARY:
        return struct.unpack(_BINARY[oid], raw)[0]  # type: ignore[no-any-return]
    return raw.decode()


def row_description(columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    body = struct.pack("!h", len(columns))
    for index, column in enumerate(columns):
        body += column.name.encode() + b"\0" + struct.pack("!IhIhih", 0, 0, column.oid, _SIZES.get(column.oid, -1), -1,
                                                           _format(formats, index))
    return message(b"T", body)


def data_row(row: Sequence[Value], columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    body = bytearray(struct.pack("!h", len(row)))
    for index, (value, column) in enumerate(zip(row, columns, strict=True)):
        if value is None:
            body += struct.pack("!i", -1)
            continue
        if _format(formats, index) == 1 and column.oid in _BINARY:
            raw = struct.pack(_BINARY[column.oid], bool(value) if column.oid == BOOL else value)
        elif column.oid == BOOL:
            raw = b"t" if value else b"f"
        else:
            raw = str(value).encode()
        body += struct.pack("!i", len(raw)) + raw
    return message(b"D", bytes(body))


def complete(result: Result) -> bytes:
    return (notice(*result.notice) if result.notice else b"") + message(b"C", result.tag.encode() + b"\0")

