"""One event: receive, walk, send.  Hot.

A Pump is a Link with two sockets.  `pump_client` moves what the client has sent to the upstream, `pump_upstream` the
other way; each does one `recv` into a buffer that all connections share, one walk over the headers (session/link) and
one `send`, and returns an **outcome**: 0 when there is nothing more to do, else flags for the relay, which finds the
bytes at hand in `VIEW[sent:got]`.  Reading once per event, never until the socket is empty, is cheaper: the second read
mostly finds nothing.

The text here is the specification.  `swift_client` and `swift_upstream` are the same for two plain sockets; where the
compiled twin (proxy/_hot.c) is there they are one call into it, and `client_event` and `upstream_event`, which the loop
calls, enter Python only for an outcome.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

from proxy.hot import hot
from proxy.pool.tally import Tally
from proxy.session.link import BEGAN, TERMINATE, THINK, I, Link

CHUNK = 262_144
BUF = bytearray(CHUNK)
VIEW = memoryview(BUF)
# A small first read costs nothing and keeps the working set in cache; a full one means bulk: read big from then on.
BULK = 16_384
_SMALL = VIEW[:BULK]
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# Outcomes beside the Link's flags
SHORT = 16          # the other side took only VIEW[:sent]
CLOSED = 32         # end of stream
LOST = 64           # the socket that was read is broken
AWAY = 128          # the client has no upstream: VIEW[:got] has not been looked at
BROKEN = 256        # the socket that was written to is broken
SETTLE = 512        # a client's event that owes nothing: the lease may be over
WALKED = 1024       # beside AWAY: VIEW[:got] has been accounted for; the flags are the Link's
PUSHED = 2048       # beside TERMINATE and THINK: VIEW[:cut] has been sent


if hot is not None:
    hot.set_buffer(BUF)


class Pump(Link):
    __slots__ = ("sock", *(() if hot is not None else (
        "backlog", "big", "big_up", "draining", "drop_left", "fd", "got", "granted_at", "held", "key", "leaving", "pid", "place",
        "pool", "reading", "sent", "settings", "swift", "tls", "up", "up_fd", "upstream", "waiter")))

    def __init__(self, sock: socket.socket, tally: Tally, *, watch: bool) -> None:
        super().__init__(tally, watch=watch)
        self.sock = sock
        self.fd = sock.fileno()
        self.up: Any = None                  # the upstream's socket while one is ridden
        self.up_fd = -1
        self.big = self.big_up = False
        self.got = self.sent = 0

    def pump_client(self) -> int:  # hot
        """Client -> upstream.  Raises ClientFault for what is no protocol."""
        try:
            n = self.sock.recv_into(VIEW if self.big else _SMALL)
        except WOULD_BLOCK:
            return 0
        except OSError:
            return LOST
        if not n:
            return CLOSED
        self.big = n >= BULK
        self.got, self.sent = n, 0
        if self.up is None:
            return AWAY
        flags = self.from_client(BUF, n)
        if flags & (TERMINATE | THINK):
            return flags
        return self.push_client(n)

    def push_client(self, n: int) -> int:  # hot
        """Send VIEW[:n] to the upstream."""
        try:
            sent = self.up.send(VIEW[:n])
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            return BROKEN
        if sent < n:
            self.sent = sent
            return SHORT
        return SETTLE if self.watch and self.status == I and not self.owed else 0

    def pump_upstream(self) -> int:  # hot
        """Upstream -> client.  Raises UpstreamFault for what is no protocol."""
        try:
            n = self.up.recv_into(VIEW if self.big_up else _SMALL)
        except WOULD_BLOCK:
            return 0
        except OSError:
            return LOST
        if not n:
            return CLOSED
        self.big_up = n >= BULK
        self.got = n
        flags = self.from_upstream(BUF, n)
        try:
            sent = self.sock.send(VIEW[:n])
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            return BROKEN
        if sent < n:
            self.sent = sent
            return flags | SHORT
        return flags

    if TYPE_CHECKING or hot is None:
        swift_client = pump_client
        swift_upstream = pump_upstream
        swift_push = push_client


__all__ = ["AWAY", "BEGAN", "BROKEN", "BUF", "CLOSED", "LOST", "PUSHED", "SETTLE", "SHORT", "VIEW", "WALKED", "WOULD_BLOCK", "Pump"]
