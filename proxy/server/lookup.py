"""Users that a database knows: `auth.query`, asked through a connection of its own.

The name of a stranger is a parameter, never text, and nothing else of theirs gets there: no setting, no database, no
search_path (CVE-2025-12819).  The default query honours VALID UNTIL (CVE-2025-2291).  Two columns, name and stored password
(a SCRAM verifier, an md5 hash or plain text); no row or NULL is no login.  What is found, or not found, is kept for
`cache` seconds, and forgotten sooner when a proof fails: the password may have changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from proxy.config.clients import AuthQuery
from proxy.errors import OperatorFault, ProxyError, UpstreamFault
from proxy.net.tasks import keep

log = logging.getLogger(__name__)
MAX_NAMES = 10_000
FRESH = 1.0                 # seconds: a failure right after asking is no reason to ask again


@dataclass(frozen=True, slots=True)
class _Answer:
    asked_at: float
    stored: str | None = field(repr=False)


class Lookup:
    def __init__(self, settings: AuthQuery, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.clock = clock
        self._answers: dict[str, _Answer] = {}
        self._flights: dict[str, asyncio.Task[str | None]] = {}
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()

    async def stored(self, name: str) -> str | None:
        """The stored password of `name`; None: nobody, or no login.  Raises ProxyError when the database cannot tell."""
        answer = self._answers.get(name)
        if answer is not None and self.clock() - answer.asked_at < self.settings.cache:
            return answer.stored
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = keep(self._ask(name), name="auth.query")
            flight.add_done_callback(lambda _: self._flights.pop(name, None))
        return await asyncio.shield(flight)

    def doubt(self, name: str) -> None:
        """A proof of `name` failed: ask again next time."""
        answer = self._answers.get(name)
        if answer is not None and self.clock() - answer.asked_at > FRESH:
            del self._answers[name]

    async def close(self) -> None:
        async with self._turn:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _ask(self, name: str) -> str | None:
        try:
            async with asyncio.timeout(self.settings.timeout or None), self._turn:
                rows, columns = await self._twice(name)
        except TimeoutError:
            raise self._failed("timeout") from None
        except psycopg.Error as error:
            raise self._failed((error.diag.message_primary or str(error)).strip(), error.sqlstate) from None
        stored = _read(name, rows, columns)
        if len(self._answers) >= MAX_NAMES:
            self._answers.clear()             # names come from strangers
        self._answers[name] = _Answer(self.clock(), stored)
        return stored

    async def _twice(self, name: str) -> tuple[list[tuple[Any, ...]], int]:
        """An idle connection may have been cut meanwhile: once more on a new one."""
        had = self._connection is not None
        try:
            return await self._rows(name)
        except psycopg.OperationalError:
            await self._forget()
            if not had:
                raise
        except BaseException:
            await self._forget()              # whatever it was in the middle of
            raise
        return await self._rows(name)

    async def _rows(self, name: str) -> tuple[list[tuple[Any, ...]], int]:
        if self._connection is None or self._connection.closed:
            assert self.settings.connection is not None
            self._connection = await psycopg.AsyncConnection.connect(
                self.settings.connection.get_secret_value(), autocommit=True, cursor_factory=psycopg.AsyncRawCursor,
                prepare_threshold=None, fallback_application_name="switchboard auth")
        done = await self._connection.execute(self.settings.query, [name])
        return (await done.fetchmany(2) if done.description else []), len(done.description or ())

    async def _forget(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _failed(self, reason: str, sqlstate: str | None = None) -> ProxyError:
        """The log is told why, the client only that: it is a stranger yet."""
        log.error("auth.query failed", extra={"fields": {"error": reason, "sqlstate": sqlstate or ""}})
        return UpstreamFault("the authentication query failed")


def _read(name: str, rows: list[tuple[Any, ...]], columns: int) -> str | None:
    if columns != 2:
        log.error("auth.query must give two columns, the name and the password", extra={"fields": {"columns": columns}})
        raise OperatorFault("the authentication query failed")
    if len(rows) > 1:
        log.error("auth.query gave more than one row for a name")
        raise OperatorFault("the authentication query failed")
    if not rows or rows[0][1] is None:
        return None
    found, stored = rows[0]
    if found != name or not isinstance(stored, str):
        log.error("auth.query gave another name than it was asked for, or a password that is no text")
        raise OperatorFault("the authentication query failed")
    return stored or None
