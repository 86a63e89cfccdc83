"""The pools of a worker: one a plugin, made on first use, replaced by a reload, within their server's budget."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from proxy.config.mode import Mode
from proxy.config.target import Engine, Target
from proxy.errors import TooManyConnections
from proxy.pool.budget import Budget
from proxy.pool.dedicated import Dedicated
from proxy.pool.pool import Pool

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration
    from proxy.config.settings import Pool as PoolSettings
    from proxy.config.settings import Settings
    from proxy.pool.provision import Provision
    from proxy.pool.reach import Reach
    from proxy.pool.tally import Tally
    from proxy.server.client import Client
    from proxy.server.mysql_door import MysqlDoor

MAX_UNLISTED = 200          # plugins in use that the configuration does not name; a big Backstage has some fifty
_ABOUT_DATABASES = re.compile(rb"\b(?:create|drop|alter)(?:\s|/\*.*?\*/|--[^\n]*\n)+database\b", re.IGNORECASE | re.DOTALL)


class Pools:
    """The half of a Worker that keeps them."""

    if TYPE_CHECKING:
        settings: Settings
        configuration: Configuration
        provision: Provision
        reach: Reach
        mysql: MysqlDoor
        clients: Iterable[Client]
        pools: dict[str, Pool]
        old_pools: list[Pool]
        budgets: dict[str, Budget]
        tallies: dict[tuple[str, str, str], Tally]

    def pool(self, target: Target, mode: Mode | None = None) -> Pool:
        """The pool of a target; made on first use.  `mode`: a user's own, whose clients share connections of their own."""
        pool = self._pool(target)
        if mode is None or mode is pool.settings.mode or target.engine is Engine.MYSQL:
            return pool
        other = pool.others.get(mode)
        if other is None:
            other = pool.others[mode] = self._new(target, pool.settings.model_copy(update={"mode": mode}))
            if other.budget is not None:
                other.budget.pools.append(other)
        return other

    def _pool(self, target: Target) -> Pool:
        pool = self.pools.get(target.plugin)
        if pool is None and target.plugin not in self.configuration.listed:
            self._make_room()
        settings = self.settings.pool_for(target.plugin)
        if target.engine is Engine.MYSQL:
            settings = settings.model_copy(update={"mode": Mode.SESSION})      # what a MySQL session holds, nobody can see
        if pool is None or pool.target != target or pool.settings != settings:
            old = pool
            pool = self.pools[target.plugin] = self._new(target, settings)
            if pool.budget is not None:
                pool.budget.pools.append(pool)
            if old is not None:
                old.retire(pool)
                self.old_pools.append(old)
                for mode, other in old.others.items():
                    other.retire(self.pool(target, mode))
                    self.old_pools.append(other)
                old.others.clear()
        return pool

    def _new(self, target: Target, settings: PoolSettings) -> Pool:
        if target.engine is Engine.MYSQL:
            return self.mysql.pool(target, settings)
        return Pool(target, settings, self.settings.upstream, self.provision.ensure, self.provision.forget, self.reach,
                    self.budget_of(target))

    def budget_of(self, target: Target) -> Budget | None:
        limit = self.settings.upstream.budget
        if not limit:
            return None
        budget = self.budgets.setdefault(str(target.server), Budget(limit))
        budget.limit = limit
        there = set(self.all_pools())
        budget.pools = [pool for pool in budget.pools if pool in there]
        return budget

    def dedicated(self, target: Target) -> Pool:
        """A connection for one client alone.  `apart` counts it, once it is there."""
        return Dedicated(self._pool(target))

    def apart(self, pool: Pool) -> None:
        self.old_pools.append(pool)

    def _make_room(self) -> None:
        """Plugins that nobody listed are named by clients: their number, and so that of labels, has an end."""
        strangers = [pool for plugin, pool in self.pools.items() if plugin not in self.configuration.listed]
        if len(strangers) < MAX_UNLISTED:
            return
        riding = {client.plugin for client in self.clients}
        unused = [pool for pool in strangers if pool.target.plugin not in riding
                  and not any(each.open or each.waiting or each.coming for each in (pool, *pool.others.values()))]
        if not unused:
            raise TooManyConnections("too many plugins are in use", limit="plugins", hint="List them under backend.database.plugin.")
        plugin = min(unused, key=lambda pool: pool.used_at).target.plugin
        del self.pools[plugin]
        for key in [key for key in self.tallies if key[0] == plugin]:
            del self.tallies[key]
        for outcome in [key for key in self.provision.outcomes if key[0] == plugin]:
            del self.provision.outcomes[outcome]

    def concerns_databases(self, pool: Pool, statement: bytes) -> None:
        """A client is about to CREATE, DROP or ALTER a database: our idle connections must not be in its way."""
        if _ABOUT_DATABASES.search(statement) is None:
            return
        for other in self.all_pools():
            if other.server == pool.server and other is not pool:
                other.clear()
        pool.clear()

    def all_pools(self) -> list[Pool]:
        self.old_pools = [pool for pool in self.old_pools if pool.open or pool.waiting or pool.coming or pool.leaving]
        ours = [each for pool in self.pools.values() for each in (pool, *pool.others.values())]
        listening = [pool.listener.apart for pool in ours if pool.listener is not None]
        return [*ours, *self.old_pools, *(pool for pool in listening if pool is not None and (
            pool.open or pool.waiting or pool.coming or pool.leaving))]
