"""Work of libraries that block (the resolver, LDAP, PAM), beside the loop.

Few at a time, so that what hangs there takes no more than its own places; the waiting has an end by whoever waits
(`asyncio.timeout`), the thread itself cannot be ended and keeps its place until the library returns.  Threads are
daemons: an exit waits for none of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Aside:
    def __init__(self, name: str, places: int) -> None:
        self.name = name
        self._places = asyncio.Semaphore(places)

    async def run(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises, out of a thread of its own."""
        loop = asyncio.get_running_loop()
        await self._places.acquire()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            self._places.release()
            if future.done():
                return                        # nobody waits any more
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:
                pass                          # the loop has ended meanwhile

        try:
            threading.Thread(target=work, name=self.name, daemon=True).start()
        except RuntimeError:                  # can't start new thread
            self._places.release()
            raise
        return await future
