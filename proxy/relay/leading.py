"""A client of mode `auto` meets an upstream with other settings than its own, and has only asked something plain.

What brings the upstream there goes ahead of the request in one packet, as ever, but for the answer to it nobody's attention is
needed: it is read away here, and behind it the hot path goes on.  Should it fail, the session stands in a failed transaction, in
which nothing plain runs, and the client is told why; its next bytes are not read before.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.errors import UpstreamFault, UpstreamRefused
from proxy.pool.pool import Pool
from proxy.pool.tally import Tally
from proxy.pool.upstream import Key, Settings, Upstream
from proxy.relay.hearing import Hearing
from proxy.relay.pump import BUF, BULK, SHORT, VIEW, WOULD_BLOCK
from proxy.session.account import Account
from proxy.session.consequences import Change, Transaction
from proxy.session.neutral import harmless
from proxy.session.parameters import State, difference
from proxy.session.statements import read
from proxy.wire import messages

MOST = 65_536                 # bytes of an answer to statements that have no rows
LONGEST = 4096                # of a request that is looked at each time
_C, _E, _N, _S, _Z = b"CENSZ"
_PASSING = frozenset(b"BDESH")
_Q, _P = b"QP"


@functools.lru_cache(maxsize=4096)
def plain(text: bytes) -> bool:
    """Does it leave nothing, and end no transaction?"""
    effects = read(text)
    return harmless(effects) and all(effect.change is Change.BEGIN for effect in effects if isinstance(effect, Transaction))


def asks_plainly(held: bytes, *, named: bool) -> bool:
    """Whole messages, all of them plain.  `named`: there are prepared statements, whose names are not the servers'."""
    at, end = 0, len(held)
    if end > LONGEST:
        return False
    while end - at >= 5:
        tag, total = held[at], int.from_bytes(held[at + 1:at + 5]) + 1
        if at + total > end:
            return False
        if tag == _Q:
            if not plain(held[at + 5:at + total - 1]):
                return False
        elif named:
            return False
        elif tag == _P:
            if held[at + 5] or not plain(held[at + 6:held.index(0, at + 6)]):
                return False
        elif tag not in _PASSING:
            return False
        at += total
    return at == end


class Leading(Hearing):
    """The half of an Attentive that needs no attention for that."""

    __slots__ = ("leading",)
    if TYPE_CHECKING:
        told: dict[str, str]
        _account: Account | None
        def _be_swift(self) -> None: ...

    def __init__(self, sock: socket.socket, pool: Pool, tally: Tally, key: Key, settings: Settings | None,
                 concerns_databases: Callable[[bytes], None]) -> None:
        super().__init__(sock, pool, tally, key, settings, concerns_databases)
        self.leading: bytearray | None = None          # of the answer to what went ahead

    def _board_led(self, upstream: Upstream) -> bool:
        """Ride it, if all that waits is plain."""
        has, wanted = upstream.settings, self.settings
        named = self._account is not None and bool(self._account.named)
        if not (isinstance(has, State) and isinstance(wanted, State) and asks_plainly(self.held, named=named)):
            return False
        self.leading = bytearray()
        text = b"BEGIN; " + difference(has, wanted) + b"; COMMIT\0"
        self.held = b"Q" + (len(text) + 4).to_bytes(4) + text + self.held
        super()._board(upstream)
        self._be_swift()
        return True

    def on_client(self) -> None:
        if self.leading is not None:
            self.pause()                      # should it fail, nothing may follow
        else:
            super().on_client()

    def on_upstream(self) -> None:
        if self.leading is None:
            super().on_upstream()
            return
        upstream = self.upstream
        if upstream is None:
            return
        try:
            count = upstream.recv_into(VIEW[:BULK])
        except WOULD_BLOCK:
            return
        except OSError:
            count = 0
        if not count:
            self.leading = None
            self._upstream_lost(upstream)
            return
        self.leading += VIEW[:count]
        try:
            self._read_away(upstream)
        except UpstreamFault as fault:
            self.leading = None
            self._upstream_fault(fault)
            return
        if upstream.tls and not upstream.broken and upstream.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(upstream.again)

    def _read_away(self, upstream: Upstream) -> None:
        data, at = self.leading, 0
        assert data is not None
        while len(data) - at >= 5:
            tag, total = data[at], int.from_bytes(data[at + 1:at + 5]) + 1
            if total > MOST:
                raise UpstreamFault(f"the server sent a message of length {total - 1}")
            if len(data) - at < total:
                break
            if tag == _S:
                self._is_told(upstream, bytes(data[at:at + total]))
            elif tag == _E:
                raise UpstreamRefused(messages.parse_fields(bytes(data[at + 5:at + total])))
            at += total
            if tag == _Z:
                assert self.settings is not None
                upstream.settings = self.settings
                self.leading = None
                self._goes_on(upstream, bytes(data[at:]))
                return
        del data[:at]

    def _is_told(self, upstream: Upstream, whole: bytes) -> None:
        name, value = messages.parse_parameter_status(whole[5:])
        upstream.reported([(name, value)])
        told = self._account.told if self._account is not None else self.told
        if told.get(name) != value:
            told[name] = value
            self._tell_client(whole)

    def _goes_on(self, upstream: Upstream, rest: bytes) -> None:
        """The hot path, with what has come behind the answer."""
        self._be_swift()
        if rest:
            size = self.got = len(rest)
            VIEW[:size] = rest
            flags = self.from_upstream(BUF, size)
            try:
                self.sent = self.sock.send(VIEW[:size]) if self.backlog is None else 0
            except WOULD_BLOCK:
                self.sent = 0
            except OSError:
                self.finish("client connection lost")
                return
            self._upstream_outcome(flags | SHORT if self.sent < size else flags)
        if not self.leaving and upstream.backlog is None:
            self.resume()
        if self.attention:
            self._advance()
