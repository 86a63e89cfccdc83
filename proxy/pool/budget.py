"""One budget of connections to a server, for all plugins that live there.

A pool that wants one more asks.  Within the budget, and with what others are guaranteed left alone, it may dial.  Where the
budget is spent, the connection that was idle for longest in another pool makes room; while there is none, the pool is
**hungry**, and what comes back next to a pool that has more than its share is closed for it.  A share is what the weights
of those who want something make of the budget.  So nobody starves, and nobody who is alone is held back.

What was told to go counts until the server has closed it (pool/leaving).  So room comes a moment after it was made, and
while enough is on its way nothing more is told to go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.pool.pool import Pool

SLICE = 0.1                # seconds that the hungry wait before who has work of its own must give: a dial is dear


class Budget:
    """Of one server.  `limit`: connections at most, those on their way in and out counted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pools: list[Pool] = []
        self.hungry: dict[Pool, float] = {}    # since when

    @property
    def used(self) -> int:
        return sum(_has(pool) + len(pool.leaving) for pool in self.pools)

    def allows(self, pool: Pool) -> bool:
        """May `pool` dial now?  If not, it is remembered."""
        if self._room(pool):
            self.hungry.pop(pool, None)
            return True
        if pool not in self.hungry:
            self.hungry[pool] = pool.clock()
            for other in self.pools:
                other.plain = False            # what comes back is looked at
        if self._wanted() > self._on_their_way():
            self._evict(pool)
        return False

    def spares_for(self, pool: Pool) -> bool:
        """Is there room to dial, or would what `pool` listens with be the last connection of all?"""
        return self._room(pool) or sum(each.open for each in self.pools if each.apart) >= self.limit - 1

    def claims(self, pool: Pool) -> bool:
        """Must `pool` give up a connection that has just come back to it?"""
        self._forget_the_fed()
        if not self.hungry or (pool in self.hungry and len(self.hungry) == 1):
            return False
        if _has(pool) <= pool.settings.guaranteed or self._wanted() <= self._on_their_way():
            return False
        if not pool.waiting:
            return True
        waited = pool.clock() - min(since for other, since in self.hungry.items() if other is not pool)
        return waited >= SLICE and _has(pool) > self._share(pool)

    def freed(self) -> None:
        """A connection has gone: the next in turn."""
        self._forget_the_fed()
        for pool in sorted(self.hungry, key=lambda pool: (_has(pool) / pool.settings.weight, self.hungry[pool])):
            if self._room(pool):
                pool.wake()

    def _wanted(self) -> int:
        """Dials that the hungry would make."""
        return sum(max(1, pool.waiting - pool.coming) for pool in self.hungry)

    def _on_their_way(self) -> int:
        """Connections that are going at this moment."""
        return sum(leaving.soon for pool in self.pools for leaving in pool.leaving)

    def _room(self, pool: Pool) -> bool:
        promised = sum(max(0, min(other.settings.guaranteed, other.size) - _has(other)) for other in self.pools if other is not pool)
        used = self.used
        mine = _has(pool) < pool.settings.guaranteed
        return used < self.limit and (mine or used + promised < self.limit)

    def _evict(self, pool: Pool) -> None:
        """Close what was idle for longest, of a pool that can spare it."""
        found = [(upstream.idle_since, at, upstream, other) for at, other in enumerate(self.pools) if other is not pool
                 and _has(other) > other.settings.guaranteed for stack in other.idle.values() for upstream in stack]
        if not found:
            return
        _, _, upstream, other = min(found, key=lambda one: one[:2])
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
