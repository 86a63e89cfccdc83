"""A client in session mode that has asked for nothing yet: its server may go away without its noticing.

Such a session has no state but its startup parameters, and those any connection of the same key has.  So when the server
says goodbye to it (a restart, a failover, an administrator), or is just gone, the client keeps its place without a
connection, as a client of transaction mode between two transactions; its first request asks the pool for another one,
and waits for a server that is away as everybody does.  Whoever has asked for anything may have state at the server that
nobody else knows of: it is told what PostgreSQL says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.pool.outage import GOING
from proxy.relay.pump import WOULD_BLOCK
from proxy.wire import messages

if TYPE_CHECKING:
    from proxy.pool.upstream import Upstream
    from proxy.relay.relay import Relay

CHUNK = 65_536
ERROR, NOTICE = b"EN"


class Unused:
    """The rider of an upstream until its client's first request has an answer."""

    __slots__ = ("_heard", "relay", "upstream")

    def __init__(self, relay: Relay, upstream: Upstream) -> None:
        self.relay, self.upstream = relay, upstream
        self._heard = b""                    # unasked, and not yet a whole message
        upstream.rider = self

    def upstream_event(self) -> None:
        relay, upstream = self.relay, self.upstream
        if relay.used or relay.open or relay.owed or relay.partial or relay.held:
            self._hand_over()
            relay.upstream_event()
            return
        try:
            data = upstream.sock.recv(CHUNK)
        except WOULD_BLOCK:
            return
        except OSError:
            data = b""
        if not data:
            self._left_behind()
            return
        self._heard += data
        if upstream.tls and upstream.sock.pending():  # type: ignore[attr-defined]
            relay.loop.call_soon(upstream.again)
        self._look()

    def _look(self) -> None:
        """A goodbye is not for the client; whatever else a server says unasked is."""
        heard = self._heard
        while len(heard) >= 5:
            size = int.from_bytes(heard[1:5]) + 1
            if heard[0] not in (ERROR, NOTICE) or not 5 <= size <= CHUNK:
                self._pass_on()
                return
            if len(heard) < size:
                return
            if messages.parse_fields(heard[5:size]).get("C") not in GOING:
                self._pass_on()
                return
            if heard[0] == ERROR:
                self._left_behind()
                return
            heard = self._heard = heard[size:]   # the warning that comes before the end

    def _pass_on(self) -> None:
        relay, heard = self.relay, self._heard
        self._hand_over()
        relay.overheard(heard)

    def on_upstream_writable(self) -> None:
        self._hand_over()
        self.relay.on_upstream_writable()

    def _hand_over(self) -> None:
        self.upstream.rider = self.relay

    def _left_behind(self) -> None:
        self.upstream.rider = None
        self.relay.unseat()
