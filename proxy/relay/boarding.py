"""While a client has no upstream: its first lease, the settings that it is to find each time, a cancel of what waits.

In transaction mode a client is told what a server says of its settings, and must find them again on every upstream.  What
was learnt for one client serves the next with the same wishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.pool.dialling import MAX_REMEMBERED
from proxy.pool.lane import Place
from proxy.pool.pool import Pool
from proxy.pool.upstream import TRACKED, Key, Settings, Upstream, intern
from proxy.relay.pump import BROKEN, BUF, SHORT, VIEW, WOULD_BLOCK, Pump
from proxy.session.link import BEGAN, TERMINATE, THINK
from proxy.session.queued import CANCELED, UpToSync, first_request, flushed
from proxy.wire import messages

HELD_LIMIT = 65_536       # bytes of a client without an upstream, before it is no longer read
MARK = messages.message(b"H")
_LATE = frozenset(b"dcf")


class Boarding(Pump):
    """The half of a Relay that waits."""

    __slots__ = ()
    if TYPE_CHECKING:
        loop: asyncio.AbstractEventLoop
        pool: Pool
        key: Key
        settings: Settings | None
        waiter: asyncio.Future[Upstream] | None
        upstream: Upstream | None
        place: Place | None
        held: bytes
        backlog: bytearray | None
        leaving: bool
        skip: UpToSync | None
        draining: bool

        @property
        def adapts(self) -> bool: ...
        def _think(self) -> None: ...
        def _leave(self) -> None: ...
        def _mount(self, upstream: Upstream) -> None: ...
        def _push_rest(self) -> None: ...
        def _upstream_broken(self) -> None: ...
        def pause(self) -> None: ...
        drop_left: int
        swift: bool
        def granted(self, upstream: Upstream) -> None: ...
        def failed(self, fault: ProxyError) -> None: ...
        def _request(self) -> None: ...
        def _withdraw(self) -> None: ...
        def _board(self, upstream: Upstream) -> None: ...
        def resume(self) -> None: ...
        def _client_writable(self) -> None: ...
        def _end_of_work(self) -> None: ...
        def _dismount(self) -> Upstream | None: ...
        def _upstream_fault(self, fault: Exception) -> None: ...
        def finish(self, reason: str, fault: ProxyError | None = None) -> None: ...

    async def lease(self) -> Upstream:
        """Wait for an upstream, before the relay runs."""
        future: asyncio.Future[Upstream] = self.loop.create_future()
        self.waiter = future
        self._request()
        try:
            return await future
        finally:
            self.waiter = None
            if not future.done() or future.cancelled():
                self._withdraw()

    def lease_now(self) -> Upstream | None:
        """An upstream without waiting for it, when an idle one fits."""
        upstream = self.pool.take(self)
        if upstream is not None:
            self.tally.wait_time.observe(0.0)
            self._board(upstream)
        return upstream

    def remembered(self, wants: Mapping[str, str]) -> dict[str, str] | None:
        """Transaction mode: what an earlier client with the same wishes was told; None for the first one.

        `wants` are tracked settings of the startup packet, in the client's own spelling; the server's canonical
        spelling is learnt once for each wish and kept.
        """
        base = self.pool.baselines.get(self.key)
        return self._told(wants, base) if base is not None else None

    def _told(self, wants: Mapping[str, str], base: Settings) -> dict[str, str] | None:
        assert isinstance(base, tuple)
        if "DateStyle" in wants:
            wants = {**wants, "DateStyle": _whole_date_style(wants["DateStyle"], base[TRACKED.index("DateStyle")] or "")}
        self.settings = intern(tuple(map(wants.get, TRACKED, base)))
        known = self.pool.welcomes.get((self.key, self.settings))
        if known is None:
            return None
        self.settings = known[1]
        return known[0]

    async def settle(self, wants: Mapping[str, str]) -> dict[str, str]:
        """Transaction mode: find out what settings this client is to find each time.  Returns what it is told."""
        base = self.pool.baselines.get(self.key)
        if base is None:
            base = (await self.lease()).fresh
            self.unboard()
        told = self._told(wants, base)
        if told is None:
            wanted = self.settings
            upstream = await self.lease()
            told, self.settings = dict(upstream.parameters), upstream.settings
            if len(self.pool.welcomes) >= MAX_REMEMBERED:
                self.pool.welcomes.clear()
            self.pool.welcomes[self.key, wanted] = told, self.settings
            self.unboard()
        return told

    def _without_upstream(self, n: int) -> None:  # hot
        """Bytes of a client that holds no lease: keep them, and ask for one when a whole message is there."""
        if not self.held and self.place is None and not self.drop_left and BUF[0] not in _LATE:
            flags = self.from_client(BUF, n)
            if flags == BEGAN and (self.used or self.open or self.owed) and not self.partial:
                upstream = self.pool.take(self)
                if upstream is None:
                    self.held = bytes(VIEW[:n])
                    self._request()
                    return
                self.tally.wait_time.observe(0.0)
                self._mount(upstream)
                outcome = self.swift_push(n) if self.swift else self.push_client(n)
                if outcome:
                    if outcome & SHORT:
                        self._push_rest()
                    elif outcome & BROKEN:
                        self._upstream_broken()
                return
            data = bytes(VIEW[:n])
        else:
            data = self._skip_late_copy(bytes(VIEW[:n]))
            if not data:
                return
            flags = self.from_client(bytearray(data), len(data))
        self._hold(data, flags)

    def _hold(self, data: bytes, flags: int) -> None:
        if flags & THINK:
            self._think()
        if self.skip is not None:
            goodbye = flags & TERMINATE
            rest = self.skipped(data[:self.cut] if goodbye else data)
            if rest is None and goodbye:
                self.finish("client said goodbye")
            if rest is None or not (rest or goodbye):
                return
            data, self.cut = rest, len(rest)
        if flags & TERMINATE:
            self.held += data[:self.cut]
            self._leave()
            if not self.leaving:
                return
        else:
            self.held += data
        if self.place is not None:
            if len(self.held) >= HELD_LIMIT:
                self.pause()
            return
        held = self.held
        if len(held) < 16_384 and (len(held) <= int.from_bytes(held[1:5]) or not (self.used or self.open or self.owed)):
            return                             # not one whole message yet: a slow sender holds no upstream
        upstream = self.pool.take(self)
        if upstream is not None:
            self.tally.wait_time.observe(0.0)
            self._board(upstream)
        else:
            self._request()

    def _skip_late_copy(self, data: bytes) -> bytes:
        """CopyData, CopyDone and CopyFail behind a COPY that failed are ignored, as PostgreSQL does."""
        if self.drop_left:
            cut = min(self.drop_left, len(data))
            self.drop_left -= cut
            data = data[cut:]
        while len(data) >= 5 and data[0] in b"dcf" and not self.held and not self.c_left and not self.c_part:
            size = int.from_bytes(data[1:5]) + 1
            self.drop_left = max(0, size - len(data))
            data = data[size:]
        return data

    def cancel_wait(self) -> None:
        """The client cancels what waits for an upstream: its first request fails as at the server, the rest waits on."""
        if self.place is None or self.waiter is not None or self.upstream is not None:
            return
        cut = first_request(self.held)
        if cut is None:
            self._cancel_flushed()
            return
        ready = messages.ready_for_query()
        counted = CANCELED + ready * cut.owed
        self.from_upstream(bytearray(counted), len(counted))
        self.held = self.held[cut.end:]
        self._forget_what_never_ran(self.held)
        if not self.owed:
            self.used = False
            if not self.open or not self.held:
                self._withdraw()
        self._say(CANCELED + ready)
        if (self.draining or self.leaving) and not (self.owed or self.held):
            self._end_of_work()
        elif not self.leaving:
            self.resume()

    def _cancel_flushed(self) -> None:
        """A request that wants its answers without a Sync: it fails, and what comes up to the Sync is thrown away."""
        owed = flushed(self.held)
        if owed is None:
            return
        self._withdraw()
        self.skip = UpToSync()
        self.skip.owed = owed
        self.from_upstream(bytearray(CANCELED), len(CANCELED))
        self.held = MARK                       # who holds bytes is given no upstream behind our back
        self._say(CANCELED)
        if not self.leaving:
            self.resume()

    def _forget_what_never_ran(self, rest: bytes) -> None:
        """A client without an upstream was not pinned before what it sent."""
        if not rest:
            self.pinned, self.dirty = None, False

    def skipped(self, data: bytes) -> bytes | None:
        """What stands behind the Sync of a request that was cancelled while it waited: that one is answered here.  None while it
        has not come."""
        assert self.skip is not None
        rest = self.skip.feed(data)
        if rest is None:
            return None
        ready = messages.ready_for_query()
        counted = ready * self.skip.owed
        self.skip, self.held = None, b""
        self.from_upstream(bytearray(counted), len(counted))
        self._forget_what_never_ran(rest)
        if not self.owed:
            self.used = False
        self._say(ready)
        if self.draining and not (self.owed or rest):
            self._end_of_work()
        return rest

    def _say(self, message: bytes) -> None:
        """Words of ours to a client that has no upstream."""
        if self.backlog is not None:
            self.backlog += message
            return
        try:
            sent = self.sock.send(message)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            return                             # the reader will see why
        if sent < len(message):
            self.backlog = bytearray(message[sent:])
            self.loop.add_writer(self.fd, self._client_writable)

    def unseat(self) -> None:
        """The server went away under a client that has asked it for nothing: the next request asks the pool for another."""
        upstream = self._dismount()
        if upstream is not None:
            upstream.close()
            self.pool.lost(upstream)
        if self.draining:
            self._end_of_work()

    def overheard(self, data: bytes) -> None:
        """What the server has said unasked, read by somebody else (relay/unused)."""
        try:
            self.from_upstream(bytearray(data), len(data))
        except ProxyError as fault:
            self._upstream_fault(fault)
        else:
            self._say(data)

    def unboard(self) -> None:
        """Give back an upstream that was leased for the login alone."""
        upstream = self._dismount()
        if upstream is not None:
            self.pool.give_back(upstream)


def _whole_date_style(wish: str, base: str) -> str:
    """DateStyle is a style and an order: what a wish leaves out is the server's own, not that of the last client."""
    words = wish.lower().replace(" ", "").split(",")
    style, _, order = base.partition(", ")
    if not order or any(word.startswith(("german", "default")) for word in words):
        return wish                            # those name both
    if not any(word.startswith(("iso", "sql", "postgres")) for word in words):
        return f"{style}, {wish}"
    if not any(word.startswith(("ymd", "dmy", "mdy", "us", "euro", "noneuro")) for word in words):
        return f"{wish}, {order}"
    return wish
