"""pgwire as a server speaks it: simple and extended protocol in front of an Engine.

One loop over messages.  After an error in the extended protocol everything is ignored up to the next Sync (PostgreSQL
manual, "Extended Query"); in a failed transaction block only its end is accepted (25P02).  The statements of one query string,
and those between two Syncs, are one transaction ("Pipelining").
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import Protocol

from proxy.errors import ClientFault, ProxyError, Shutdown
from proxy.gateway.answers import complete, copying, data_row, row_description, rows_of
from proxy.gateway.cursors import Cursors, about_cursors
from proxy.gateway.engine import Column, Engine, Result, Rows, Value
from proxy.pool.tally import Tally
from proxy.wire.messages import error_response, message, ready_for_query

log = logging.getLogger(__name__)
AT_ONCE = 256                        # rows between two looks at the client
ENOUGH = 32_768                      # bytes for one write


class Stream(Protocol):
    async def read_message(self) -> tuple[int, bytes]: ...
    async def write(self, data: bytes) -> None: ...


class Session(Cursors):
    def __init__(self, stream: Stream, engine: Engine, tally: Tally | None = None) -> None:
        super().__init__(engine)
        self.stream, self.tally = stream, tally
        self.skipping = self.reading = self.leaving = False

    def leave(self) -> bool:
        """End it when no transaction is open.  Is it at rest now, and may be ended from outside?"""
        self.leaving = True
        return self.reading and self._at_rest

    @property
    def _at_rest(self) -> bool:
        return self.status == "I" and not (self.opened or self.skipping)

    async def run(self) -> None:
        """Answer until Terminate or the end, wherever that comes."""
        try:
            await self._answer()
        except EOFError:
            return

    async def _answer(self) -> None:
        handlers = {ord("P"): self._parse, ord("B"): self._bind, ord("D"): self._describe, ord("E"): self._execute,
                    ord("C"): self._close, ord("H"): self._flush}
        while True:
            if self.leaving and self._at_rest:
                raise Shutdown("terminating connection due to administrator command")
            self.reading = True
            tag, body = await self.stream.read_message()
            self.reading = False
            if tag == ord("X"):
                return
            if tag == ord("Q"):
                await self._query(body)
            elif tag == ord("S"):
                await self._sync()
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
        elif isinstance(error, (EOFError, OSError)):
            raise error
        else:
            log.error("internal error in a gateway", exc_info=error)
            fault = ProxyError("internal error")
        if self.tally is not None:
            self.tally.errors[fault.sqlstate[:2]] += 1
        if self.status == "T":
            self.status = "E"
        self.out += error_response(fault, "ERROR")

    def _ready(self) -> None:
        self.out += ready_for_query(self.status.encode())

    async def _flush(self, _body: bytes) -> None:
        if self.out:
            data, self.out = bytes(self.out), bytearray()
            await self.stream.write(data)

    async def _sync(self) -> None:
        """The end of a batch, and of its transaction if nobody has begun one."""
        try:
            await self.engine.close(commit=not self.skipping)
        except Exception as error:            # a COMMIT may fail, too
            self._error(error)
        self.skipping = self.opened = False
        if self.status == "I":
            await self._forget_portals()
        self._ready()
        await self._flush(b"")

    # -- running ------------------------------------------------------------------------------------------

    async def _run(self, sql: str, parameters: Sequence[Value], formats: Sequence[int] = (), oids: Sequence[int] = ()) -> Result:
        self.refuse_in_failed(sql)
        if self.status == "E" and first_word(sql) in ("commit", "end"):
            sql = "rollback"
        if self.tally is not None:
            self.tally.queries += 1
        if self.engine.steady and about_cursors(sql):
            return await self.run_cursor(sql, parameters, oids)
        result = await self.engine.execute(sql, parameters, formats, oids)
        if result.status:
            self.status = result.status
        if result.intake is not None:
            return await self._take_in(result)
        return result

    async def _execute_sql(self, sql: str, parameters: Sequence[Value], oids: Sequence[int]) -> Result:
        return await self.engine.execute(sql, parameters, (), oids)

    async def _query(self, body: bytes) -> None:
        good = False
        try:
            await self._forget_unnamed()
            statements = self.engine.split(body[:-1].decode())
            if not statements:
                self.out += message(b"I")
            if len(statements) > 1 and self.status == "I":
                self.engine.open()
            for sql in statements:
                result = await self._run(sql, ())
                if result.columns is not None and result.copy is None:
                    self.out += row_description(result.columns, ())
                count = await self._give(result)
                self.out += complete(result, count)
            good = True
        except Exception as error:            # told to the client: a statement that fails ends no session
            self._error(error)
        try:
            await self.engine.close(commit=good)
        except Exception as error:            # a COMMIT may fail, too
            self._error(error)
        self.skipping = self.opened = False
        if self.status == "I":
            await self._forget_portals()
        self._ready()
        await self._flush(b"")

    async def _give(self, result: Result) -> int:
        """All rows of a result."""
        if result.columns is None:
            return 0
        if result.copy is not None:
            self.out += copying(b"H", result.copy) + (message(b"d", result.header) if result.header else b"")
        count, _ = await self._rows(rows_of(result), result, (), 0)
        if result.copy is not None:
            self.out += message(b"c")
        return count

    async def _rows(self, rows: Rows, result: Result, formats: Sequence[int], limit: int) -> tuple[int, bool]:
        """Send rows, `limit` of them at most (0: all).  Returns how many, and whether that was the end."""
        count = 0
        columns: Sequence[Column] = result.columns or ()
        while not limit or count < limit:
            some = await rows.take(min(AT_ONCE, limit - count) if limit else AT_ONCE)
            if not some:
                return count, True
            for row in some:
                self.out += data_row(self.engine, row, columns, formats, result)
            count += len(some)
            if len(self.out) > ENOUGH:
                await self._flush(b"")
            if len(some) < AT_ONCE and not limit:
                return count, True
        return count, False

    async def _take_in(self, result: Result) -> Result:
        """COPY FROM STDIN: all up to CopyDone."""
        intake = result.intake
        assert intake is not None
        self.out += copying(b"G", intake.width)
        await self._flush(b"")
        while True:
            tag, body = await self.stream.read_message()
            if tag == ord("d"):
                await intake.feed(body)
            elif tag == ord("c"):
                return Result(await intake.finish())
            elif tag == ord("f"):
                fault = ClientFault(f"COPY from stdin failed: {body[:-1].decode()}")
                fault.sqlstate = "57014"
                raise fault
            elif tag not in b"HS":
                raise ClientFault(f"unexpected message type 0x{tag:02X} during COPY from stdin")


def first_word(sql: str) -> str:
    return sql.lstrip().split(maxsplit=1)[0].lower().rstrip(";") if sql.strip(" \t\n\r;") else ""
