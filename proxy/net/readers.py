"""Who is called when a relayed socket can be read.

The compiled twin keeps an epoll of its own and is one reader of the loop: an event costs less than one of the loop's, and a
socket that was reset is told until somebody takes it away (uvloop tells it once, see net/ends).  Without the twin, or where
there is no epoll, the loop itself does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary, ref

from proxy.hot import hot


class Readers(Protocol):
    def add(self, fd: int, callback: Callable[[], object], /) -> object: ...
    def remove(self, fd: int, /) -> object: ...


class _Loops:
    """The loop itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.add, self.remove = loop.add_reader, loop.remove_reader


_compiled: WeakKeyDictionary[asyncio.AbstractEventLoop, Readers] = WeakKeyDictionary()


def readers(loop: asyncio.AbstractEventLoop) -> Readers:
    """Those of `loop`: there as long as it is."""
    if not hasattr(hot, "Readers"):
        return _Loops(loop)
    found = _compiled.get(loop)
    if found is None:
        whose = ref(loop)

        def complain(fault: BaseException) -> None:
            if (loop := whose()) is not None:
                loop.call_exception_handler({"message": "a reader failed", "exception": fault})

        found = _compiled[loop] = hot.Readers(complain)
        loop.add_reader(found.fileno(), found.turn)
    return found
