"""One budget of connections to a server, for all plugins that live there.

A pool that wants one more asks.  Within the budget, and with what others are guaranteed left alone, it may dial.  Where the
budget is spent, the connection that was idle for longest in another pool makes room; while there is none, the pool is
**hungry**, and what comes back next to a pool that has more than its share is closed for it.  A share is what the weights
of those who want something make of the budget.  What was dialled a moment ago is left alone, else connections would be made
for single statements.  So nobody starves, and nobody who is alone is held back.

What was told to go counts until the server has closed it (pool/leaving).  So room comes a moment after it was made, and
while enough is on its way nothing more is told to go.  **Errands** are connections of no pool: provisioning's, for a moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.pool.pool import Pool
    from proxy.pool.upstream import Upstream

SLICE = 0.1                # seconds that a connection stays with who has dialled it, and that the hungry wait before who has work of
                           # its own must give: a dial is dear


class Budget:
    """Of one server.  `limit`: connections at most, those on their way in and out counted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pools: list[Pool] = []
        self.hungry: dict[Pool, float] = {}    # since when
        self.errands = 0                       # under way
        self.turns: deque[asyncio.Future[None]] = deque()      # of errands that wait
        self.later: asyncio.Handle | None = None          # another look at what is idle

    @property
    def used(self) -> int:
        return sum(_has(pool) + len(pool.leaving) for pool in self.pools) + self.errands

    @property
    def pressed(self) -> bool:
        """Does somebody wait for room?"""
        return bool(self.hungry or self.turns)

    def allows(self, pool: Pool) -> bool:
        """May `pool` dial now?  If not, it is remembered."""
        if self._room(pool):
            self.hungry.pop(pool, None)
            return True
        if pool not in self.hungry:
            self.hungry[pool] = pool.clock()
            self._look()
        self._make_room(pool)
        return False

    @asynccontextmanager
    async def errand(self) -> AsyncIterator[None]:
        """One more connection, for a while; waits for room, ahead of pools."""
        if self.turns or self.used >= self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.turns.append(turn)
            self._look()
            self._make_room()
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self.turns:
                    self.turns.remove(turn)
                elif not turn.cancelled():
                    self._ended()              # it had its turn already
                raise
        else:
            self.errands += 1
        try:
            yield
        finally:
            self._ended()

    def _ended(self) -> None:
        self.errands -= 1
        self.freed()

    def _look(self) -> None:
        """Somebody waits: what comes back is looked at."""
        for pool in self.pools:
            pool.plain = False

    def spares_for(self, pool: Pool) -> bool:
        """Is there room to dial, or would what `pool` listens with be the last connection of all?"""
        return self._room(pool) or sum(each.open for each in self.pools if each.apart) >= self.limit - 1

    def claims(self, pool: Pool, upstream: Upstream) -> bool:
        """Must `pool` give up this one, which has just come back to it?"""
        self._forget_the_fed()
        if not self.turns and (not self.hungry or (pool in self.hungry and len(self.hungry) == 1)):
            return False
        if _has(pool) <= pool.settings.guaranteed or self.wanted <= self._on_their_way():
            return False
        if self.turns:
            return True
        if pool.clock() - upstream.born < SLICE:
            return False
        if not pool.waiting:
            return True
        waited = pool.clock() - min(since for other, since in self.hungry.items() if other is not pool)
        return waited >= SLICE and _has(pool) > self._share(pool)

    def freed(self) -> None:
        """A connection has gone: the next in turn."""
        self._forget_the_fed()
        while self.turns and self.used < self.limit:
            turn = self.turns.popleft()
            if not turn.done():
                self.errands += 1
                turn.set_result(None)
        for pool in sorted(self.hungry, key=lambda pool: (_has(pool) / pool.settings.weight, self.hungry[pool])):
            if self._room(pool):
                pool.wake()

    @property
    def wanted(self) -> int:
        """Connections that somebody waits for, and there is no room for."""
        return sum(max(1, pool.waiting - pool.coming) for pool in self.hungry) + len(self.turns)

    def _on_their_way(self) -> int:
        """Connections that are going at this moment."""
        return sum(leaving.soon for pool in self.pools for leaving in pool.leaving)

    def _room(self, pool: Pool) -> bool:
        promised = sum(max(0, min(other.settings.guaranteed, other.size) - _has(other)) for other in self.pools if other is not pool)
        used = self.used
        mine = _has(pool) < pool.settings.guaranteed
        return used < self.limit and (mine or used + promised < self.limit)

    def offered(self, pool: Pool) -> None:
        """One of `pool` is idle, and somebody waits for room."""
        if self.later is None:
            self.later = pool.loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        self.later = None
        self._forget_the_fed()
        self._make_room()

    def _make_room(self, pool: Pool | None = None) -> None:
        """Close what was idle for longest, of pools that can spare it, as far as somebody waits; what is too young, soon."""
        while self.wanted > self._on_their_way():
            found = [(upstream.idle_since, at, upstream, other) for at, other in enumerate(self.pools)
                     if other is not pool and other not in self.hungry and _has(other) > other.settings.guaranteed
                     for stack in other.idle.values() for upstream in stack]
            if not found:
                return
            now = found[0][-1].clock()
            old = [one for one in found if self.turns or now - one[2].born >= SLICE]
            if not old:
                if self.later is None:
                    age = max(now - one[2].born for one in found)
                    self.later = found[0][-1].loop.call_later(SLICE - age, self._look_again)
                return
            _, _, upstream, other = min(old, key=lambda one: one[:2])
            other.drop(upstream)
            other.counters.evicted += 1

    def _share(self, pool: Pool) -> float:
        wanting = [other for other in self.pools if other.waiting or other.busy]
        return self.limit * pool.settings.weight / max(1, sum(other.settings.weight for other in wanting))

    def _forget_the_fed(self) -> None:
        for pool in [pool for pool in self.hungry if not pool.waiting or pool.retired]:
            del self.hungry[pool]


def _has(pool: Pool) -> int:
    return pool.open + pool.coming
