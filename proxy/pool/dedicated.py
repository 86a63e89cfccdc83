"""A pool of one, for a client that shares with nobody: replication connections, and what listens for clients at rest.

A walsender keeps its connection for itself: it cannot be reset, counts against no pool's size and ends with its client.
What listens is one of the server's budget, since it spares others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from proxy.config.mode import Mode
from proxy.pool.pool import Pool
from proxy.pool.upstream import Upstream

LISTENING = "listening"


class Dedicated(Pool):
    apart = True

    def __init__(self, like: Pool, state: str = "replication") -> None:
        self.state = state
        settings = like.settings.model_copy(update={"mode": Mode.SESSION, "size": 1, "min_size": 0, "guaranteed": 0})
        budget = like.budget if state == LISTENING else None
        # A walsender for physical replication runs no SET ROLE.
        super().__init__(replace(like.target, role=None), settings, like.dialling, like.ensure, like.forget, like.reach,
                         budget)
        if budget is not None:
            budget.pools.append(self)

    def adopt_one(self, upstream: Upstream) -> None:
        """It was another pool's, and is this one's from now on."""
        upstream.pool.busy.discard(upstream)
        upstream.pool = self
        self.busy.add(upstream)

    def give_back(self, upstream: Upstream, *, statements: Sequence[str] = ()) -> None:
        self.busy.discard(upstream)
        upstream.rider = None
        self.drop(upstream)
