"""One SQLite file: its thread, and the connections of its clients.

All that touches the file is done in one thread of its own, never in the relay's loop: SQLite writes one after the other anyway.
Nothing waits in that thread.  Who finds the file locked - by another client, or by the program whose file it is - is told so,
gives the thread to the next, and asks again a moment later, up to `busy` seconds (PostgreSQL's lock_timeout: 55P03).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import apsw

from proxy.errors import UpstreamFault
from proxy.gateway.sqlite.faults import Locked, fault_of, missing_file

AGAIN = 0.005, 0.1            # seconds between attempts: the first, the longest
T = TypeVar("T")
Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Store:
    """A file, or with `path` None a database that lives in memory as long as this does.

    `create`: a file that is missing is made, with its folder, as Backstage does.  Names of databases in memory are of this
    process alone.
    """

    def __init__(self, path: str | None, *, name: str, read_only: bool = False, create: bool = True, busy: float = 5.0) -> None:
        self.path, self.name, self.read_only, self.create, self.busy = path, name, read_only, create, busy
        self.clients = 0
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"sqlite {name}", daemon=True)
        self._thread.start()
        self._anchor: apsw.Connection | None = None      # keeps what is in memory

    def _work(self) -> None:
        no_error: BaseException | None = None
        error: BaseException | None
        while (job := self._jobs.get()) is not None:
            work, loop, future = job
            try:
                answer, error = work(), no_error
            except apsw.Error as raised:
                answer, error = None, fault_of(raised)
            except Exception as raised:       # the caller's, who waits for it
                answer, error = None, raised
            with contextlib.suppress(RuntimeError):      # the loop has ended
                loop.call_soon_threadsafe(_tell, future, answer, error)
            del job, work, future, answer, error         # what it holds must not live until the next comes

    async def once(self, work: Callable[[], T]) -> T:
        """In the file's thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((work, loop, future))
        return await future

    async def run(self, work: Callable[[], T]) -> T:
        """In the file's thread; once more, as long as somebody else has it locked."""
        try:
            return await self.once(work)
        except Locked:
            loop = asyncio.get_running_loop()
            end, pause = loop.time() + self.busy, AGAIN[0]
        while True:
            if loop.time() + pause > end:
                return await self.once(work)
            await asyncio.sleep(pause)
            pause = min(2 * pause, AGAIN[1])
            with contextlib.suppress(Locked):
                return await self.once(work)

    async def connect(self) -> apsw.Connection:
        return await self.run(self._open)

    def _open(self) -> apsw.Connection:
        if self.path is None:
            where = f"file:/switchboard-{self.name}?vfs=memdb"
            if self._anchor is None:
                self._anchor = apsw.Connection(where, flags=_CREATE | apsw.SQLITE_OPEN_URI)
            connection = apsw.Connection(where, flags=_CREATE | apsw.SQLITE_OPEN_URI)
        else:
            connection = self._open_file(Path(self.path))
        connection.set_busy_timeout(0)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)         # "x" is a column, or an error
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.pragma("foreign_keys", True)
        connection.pragma("case_sensitive_like", True)
        connection.pragma("trusted_schema", False)
        return connection

    def _open_file(self, path: Path) -> apsw.Connection:
        if self.read_only or not self.create:
            if not path.exists():
                raise missing_file(self.name)
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UpstreamFault(f"cannot create the folder of plugin {self.name}'s file: {error.strerror}") from None
        flags = apsw.SQLITE_OPEN_READONLY if self.read_only else _CREATE if self.create else apsw.SQLITE_OPEN_READWRITE
        if not self.read_only and path.exists() and not os.access(path, os.W_OK):
            flags = apsw.SQLITE_OPEN_READONLY
        connection = apsw.Connection(str(path), flags=flags)
        if flags != apsw.SQLITE_OPEN_READONLY:
            with contextlib.suppress(apsw.BusyError):              # then it stays what it is
                connection.pragma("journal_mode", "wal")
        return connection

    def stop(self) -> None:
        self._jobs.put(None)


_CREATE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


def _tell(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    if future.done():
        return                                # nobody waits any more
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answer)
