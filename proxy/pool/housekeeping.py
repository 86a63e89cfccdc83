"""What a pool does of its own accord, once a second: what is too old goes, what will be needed is dialled, nobody waits unheard.

**Reserve**: connections beyond `size`, while somebody has waited for longer than `reserve_after`.  **Warm**: as many as were at
work at once lately are kept, and dialled anew when a server restarts or they get old, so that the next rush finds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.net.ends import LAST_WORDS, ended
from proxy.pool.dialling import Dialling
from proxy.pool.lane import Place
from proxy.pool.upstream import Upstream

if TYPE_CHECKING:
    from proxy.pool.listener import Listener
    from proxy.pool.pool import Pool

CLEAR_FOR = 6.0              # seconds; DROP DATABASE waits five for others to leave (CountOtherDBBackends in procarray.c)


class Housekeeping(Dialling):
    """The half of a Pool that looks after itself."""

    if TYPE_CHECKING:
        successor: Pool | None
        listener: Listener | None
        clear_until: float
        unpooled: bool
        paused: bool

        @property
        def max_wait(self) -> float: ...
        def drop(self, upstream: Upstream) -> None: ...
        def _too_late(self) -> None: ...

    def __init__(self) -> None:
        super().__init__()
        self.needed = 0.0                     # how many were at work at once lately
        self.kept = 0                         # connections that are kept open

    def sweep(self, now: float) -> None:
        """Close what is too old or idle for too long, keep what is needed warm."""
        settings, before, self.now = self.settings, self.now, now
        pressed = self.budget is not None and self.budget.pressed
        self.plain = not (self.retired or self.paused or self.unpooled or now < self.clear_until or pressed)
        least = self.kept = self._least(before)
        self._lend()
        for upstream in [upstream for stack in self.idle.values() for upstream in stack]:
            old = upstream.expires and now > upstream.expires
            bored = settings.idle_timeout and now - upstream.idle_since > settings.idle_timeout
            if old or (bored and self.open > least) or self.reach.moved(upstream.route):
                self.drop(upstream)
        self._look_for_ends()
        closed = self.retired or self.paused or self.full or self.unpooled
        if not (closed or self._later is not None or now < self.clear_until) and self.up:
            for _ in range(least - self.open - self.coming):
                if self.budget is not None and not self.budget.allows(self._pool()):
                    break
                self._dial(frozenset())
        if self.queue:
            self.wake()

    def _least(self, before: float) -> int:
        """Connections that are kept open.  `before`: when they were last counted."""
        settings = self.settings
        if settings.warm_for:
            used = sum(upstream.idle_since >= before for stack in self.idle.values() for upstream in stack)
            faded = self.needed * 0.5 ** ((self.now - before) / settings.warm_for)
            self.needed = max(float(len(self.busy) + len(self.resting) + used), faded)
        return min(settings.size, max(settings.min_size, math.ceil(self.needed - 0.5)))

    def _lend(self) -> None:
        """Of the reserve, as long as somebody has waited too long."""
        settings = self.settings
        if settings.reserve and not self.retired:
            late = self.waiting and self.max_wait >= settings.reserve_after
            self.size = settings.size + settings.reserve if late else max(settings.size, min(self.size, self.open + self.coming))

    def _look_for_ends(self) -> None:
        """Nobody waits for ever for a server that was reset behind its last words (net/ends)."""
        ridden = {upstream.fd: upstream for upstream in (*self.busy, *self.resting) if upstream.reading}
        for fd in ended(ridden) if ridden else ():
            upstream = ridden[fd]
            for _ in range(LAST_WORDS):
                if upstream.broken or not upstream.reading:
                    break
                upstream.on_readable()

    def clear(self) -> None:
        """Close everything idle, so that nothing of ours is in the database's way, and what becomes idle in the next moments."""
        self.clear_until = self.clock() + CLEAR_FOR
        self.plain = False
        for upstream in [upstream for stack in self.idle.values() for upstream in stack]:
            self.drop(upstream)

    def retire(self, successor: Pool | None = None) -> None:
        """A newer configuration has another pool for this plugin: nothing comes back here, and who waits waits there."""
        self.retired, self.successor = True, successor
        self.clear()
        if self.listener is not None and successor is not None:
            successor.listener, self.listener = self.listener, None
            successor.listener.moves(successor)
        if successor is not None:
            waiting = [place for place in self.queue if not place.gone]
            self.queue.clear()
            self.waiting -= len(waiting)
            successor.adopt(waiting)

    def adopt(self, places: Sequence[Place]) -> None:
        """Waiters of the pool before this one, in their order."""
        for place in places:
            place.pool = self._pool()
        self.queue.extend(places)
        self.waiting += len(places)
        if places and self.alarm is None and self.settings.query_wait_timeout:
            self.alarm = self.loop.call_later(0, self._too_late)
        self.wake()
