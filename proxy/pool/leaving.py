"""A connection that was told to go is one of the server's until the server has closed its end.

A server process that is about to exit still holds its slot: who dials at once in its place has one too many for a moment.
One that was left in the middle of a query works on for as long as that takes, as it would without us.  So where a budget
counts, our end stays open and what comes is thrown away, until the end is read.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from ssl import SSLWantReadError, SSLWantWriteError
from typing import TYPE_CHECKING

from proxy.net.readers import readers

if TYPE_CHECKING:
    from proxy.pool.upstream import Upstream

FAREWELL = 5.0                # seconds in which a server that has nothing to do is gone
MOST_UNHEARD = 1 << 20        # bytes of an answer that nobody waits for: behind these the server is to notice
_scratch = bytearray(65_536)


class Leaving:
    """`then` is called once, when it has gone.  `soon`: it had nothing left to do."""

    def __init__(self, upstream: Upstream, then: Callable[[Leaving], None], *, soon: bool) -> None:
        self.sock, self.fd = upstream.sock, upstream.fd
        self.loop, self.soon = upstream.loop, soon
        self.then = then
        self.unheard = MOST_UNHEARD
        self.late = self.loop.call_later(FAREWELL, self.over) if soon else None
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)        # half a message of ours has no other end
        readers(self.loop).add(self.fd, self._readable)

    def _readable(self) -> None:
        try:
            count = self.sock.recv_into(_scratch)
        except (BlockingIOError, InterruptedError, SSLWantReadError, SSLWantWriteError):
            return
        except OSError:
            count = 0
        self.unheard -= count
        if not count or self.unheard <= 0:
            self.over()

    def over(self) -> None:
        if self.fd < 0:
            return
        readers(self.loop).remove(self.fd)
        self.fd = -1
        if self.late is not None:
            self.late.cancel()
        self.sock.close()
        self.then(self)
