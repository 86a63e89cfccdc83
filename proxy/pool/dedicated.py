"""A pool of one, for a client that shares with nobody: replication connections, and what listens for clients at rest.

A walsender keeps its connection for itself: it cannot be reset, counts against no pool's size and ends with its client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from proxy.config.mode import Mode
from proxy.pool.pool import Pool
from proxy.pool.upstream import Upstream


class Dedicated(Pool):
    def __init__(self, like: Pool, state: str = "replication") -> None:
        self.state = state
        settings = like.settings.model_copy(update={"mode": Mode.SESSION, "size": 1, "min_size": 0})
        # A walsender for physical replication runs no SET ROLE.
        super().__init__(replace(like.target, role=None), settings, like.dialling, like.ensure, like.forget, like.reach)

    def give_back(self, upstream: Upstream, *, statements: Sequence[str] = ()) -> None:
        self.busy.discard(upstream)
        upstream.rider = None
        self.drop(upstream)
