"""What a MySQL client asks that is not passed on as it is: it waits in `held` until all that came before it is answered; then it
is changed and passed on, or answered here.

The client's database is fixed: USE of the same one, under any of its names, goes to the server under its real name; others
are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.errors import ClientFault, ProxyError
from proxy.session.mysql_commands import BRIEF, Kill, Refused, Use, understood
from proxy.session.mysql_link import THOUGHTFUL, Link
from proxy.wire.mysql import Command, error, ok, packets
from proxy.wire.mysql_errors import NOT_SUPPORTED, error_packet

if TYPE_CHECKING:
    import asyncio

    from proxy.pool.pool import Pool
    from proxy.pool.upstream import Upstream

LONGEST_REFUSED = 65_536      # of a command that we answer ourselves
_MORE, _LATER, _DONE = "more must come", "not yet", "done"
Decide = Callable[["Thinking", Use | Kill], bytes | ProxyError | None]
"""What to send to the server instead, or what the client is told; None: that it is done."""


class Thinking(Link):
    """The half of a Relay that thinks."""

    if TYPE_CHECKING:
        _done: asyncio.Future[tuple[str, ProxyError | None]]
        pool: Pool
        upstream: Upstream | None
        striking: Upstream | None
        tainted: bool
        decide: Decide

        def pause(self) -> None: ...
        def resume(self) -> None: ...
        def finish(self, reason: str, fault: ProxyError | None = None) -> None: ...
        def _forward(self, data: memoryview | bytes) -> None: ...
        def _to_client(self, data: memoryview | bytes) -> None: ...

    def _think(self) -> None:
        """Look at what is held: from a command on that may be ours.  Raises ClientFault."""
        while self.held and not self._done.done():
            verdict = self._next()
            if verdict is _LATER:
                self.pause()                  # what came before it is answered first
                return
            if verdict is _MORE:
                break
        if self.upstream is not None and self.upstream.backlog is None:
            self.resume()

    def _next(self) -> object:
        """Do the first of what is held, if it can be done now."""
        held = self.held
        length = int.from_bytes(held[:3], "little")
        if len(held) < 5 or (len(held) < 6 and length > 1) or not length or self.partial:
            return self._walk_held()
        command = held[4]
        if not THOUGHTFUL[command] and (command != Command.QUERY or length > BRIEF):
            return self._walk_held()
        if length > LONGEST_REFUSED:
            raise ClientFault("packet too large for its command")
        if len(held) < 4 + length:
            return _MORE
        if self.owed:
            return _LATER
        payload = held[4:4 + length]
        if not THOUGHTFUL[command] and understood(payload) is None:
            self._pass(payload)               # began like one of ours and is none
        else:
            self._thought(payload)
        self.held = held[4 + length:]
        return _DONE

    def _walk_held(self) -> object:
        """Nothing to think about, or no whole header yet."""
        data = bytearray(self.held)
        self.from_client(data, len(data))
        if not self.cut:
            return _MORE
        self.held = bytes(data[self.cut:])
        self._forward(bytes(data[:self.cut]))
        return _DONE

    def _thought(self, payload: bytes) -> None:
        """One whole command, and nothing is owed."""
        command = payload[0]
        if command == Command.QUIT:
            self.finish("client said goodbye")
            return
        if command == Command.SET_OPTION:
            self.tainted = True
        found = understood(payload)
        if isinstance(found, Refused):
            self._answer(error(NOT_SUPPORTED, "0A000", found.why))
            return
        if found is not None:
            decided = self.decide(self, found)
            if not isinstance(decided, bytes):
                self._answer(ok() if decided is None else error_packet(decided))
                return
            payload = decided
        self._pass(payload)

    def _pass(self, payload: bytes) -> None:
        self.pass_on(len(payload), payload[0])
        self._forward(packets(payload))

    def _answer(self, payload: bytes) -> None:
        """An answer of ours to the command at hand."""
        self.used = True
        self.tally.queries += 1
        if payload[0] == 0xFF:
            self.tally.errors[payload[4:6].decode("ascii", "replace")] += 1
        self._to_client(packets(payload, 1))

    def _struck(self) -> None:
        """A KILL of ours has been answered, or never will be."""
        struck, self.striking = self.striking, None
        if struck is not None:
            struck.pool.cancel_done(struck)
