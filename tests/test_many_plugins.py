"""Forty plugins of four replicas each on twenty connections: never one more, none starves, who waits is seen.

160 clients do what Backstage's plugins do: transactions, reads, `select 1`.  Progress is counted in rounds of all, not in time.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon

PLUGINS = [f"many{number:02}" for number in range(40)]
REPLICAS = 4
BUDGET = 20
SURE = PLUGINS[7]
"""Two of the connections are this one's, whoever else wants them."""
THERE = "select datname, pid from pg_stat_activity where datname like 'backstage_plugin_many%' or application_name = 'switchboard'"


@pytest.fixture
def crowd(base: dict[str, Any], tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path, base, auth={"method": "trust"}, users={"backstage": {}}, upstream={"budget": BUDGET},
                plugin={SURE: {"pool": {"guaranteed": 2}}}, pool={"mode": "auto"}) as running:
        yield running


class Census(threading.Thread):
    """Who is there, asked of the server itself again and again."""

    def __init__(self, postgres: Postgres, proxy: Daemon) -> None:
        super().__init__()
        self.postgres, self.proxy = postgres, proxy
        self.most = self.waiting = self.counts = 0
        self.longest = 0.0                          # that a client of the first plugin was seen to wait
        self.sure: list[frozenset[int]] = []        # the server processes of SURE, each time they changed
        self.over = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            while not self.over.wait(0.002):
                rows = connection.execute(THERE).fetchall()
                self.counts += 1
                self.most = max(self.most, len(rows))
                sure = frozenset(pid for name, pid in rows if name == f"backstage_plugin_{SURE}")
                if not self.sure or self.sure[-1] != sure:
                    self.sure.append(sure)
                if not self.counts % 50:
                    self.waiting = max(self.waiting, int(self.proxy.metric("switchboard_clients_waiting")))
                    self.longest = max(self.longest, self.proxy.metric("switchboard_max_wait_seconds", plugin=PLUGINS[0]))


class Crowd:
    """All work until each plugin has made its rounds.  `gaps`: how many rounds of others there were at most between two of its own."""

    def __init__(self, proxy: Daemon, rounds: int) -> None:
        self.proxy, self.rounds = proxy, rounds
        self.made: Counter[str] = Counter()
        self.last: Counter[str] = Counter()
        self.gaps: Counter[str] = Counter()
        self.ready = asyncio.Barrier(len(PLUGINS) * REPLICAS)

    @property
    def over(self) -> bool:
        return len(self.made) == len(PLUGINS) and min(self.made.values()) >= self.rounds

    async def client(self, plugin: str, replica: int) -> None:
        connection = await asyncpg.connect(host="127.0.0.1", port=self.proxy.port, user="backstage", database=plugin, timeout=120)
        try:
            if not replica:
                await connection.execute("create table work (replica int primary key, round int)")
            await self.ready.wait()
            number = 0
            while not self.over:
                number += 1
                async with connection.transaction():
                    await connection.execute("insert into work values ($1, $2) on conflict (replica) do update set round = $2",
                                             replica, number)
                    async with connection.transaction():
                        assert await connection.fetchval("select round from work where replica = $1 for update", replica) == number
                await connection.execute("select 1")
                assert await connection.fetchval("select current_database()") == f"backstage_plugin_{plugin}"
                self.count(plugin)
        finally:
            await connection.close()

    def count(self, plugin: str) -> None:
        self.made[plugin] += 1
        total = self.made.total()
        self.gaps[plugin] = max(self.gaps[plugin], total - self.last[plugin])
        self.last[plugin] = total

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for plugin in PLUGINS:
                for replica in range(REPLICAS):
                    group.create_task(self.client(plugin, replica))


async def plays(proxy: Daemon, postgres: Postgres, rounds: int) -> None:
    census, crowd = Census(postgres, proxy), Crowd(proxy, rounds)
    census.start()
    try:
        await crowd.run()
    finally:
        census.over.set()
        await asyncio.to_thread(census.join)
    widest, who = max((gap, plugin) for plugin, gap in crowd.gaps.items())
    most, least = max(crowd.made.values()), min(crowd.made.values())
    waits = {plugin: proxy.metric("switchboard_wait_seconds_count", plugin=plugin) for plugin in PLUGINS}
    waited = {plugin: proxy.metric("switchboard_wait_seconds_sum", plugin=plugin) for plugin in PLUGINS}
    print(f"{crowd.made.total()} rounds, {least} to {most} of a plugin, at most {widest} of others between two of its own ({who}); "
          f"at most {census.most} connections, counted {census.counts} times; {census.waiting} waited at once; "
          f"{int(proxy.metric('switchboard_evicted_total'))} made room; waits of {sum(waited.values()) / sum(waits.values()):.3f} s")
    assert census.most == BUDGET
    assert widest <= 50 * len(PLUGINS)                  # while one waits, the others make fifty each at most
    assert min(waits.values()) > 0
    assert min(waited.values()) > 0
    assert census.waiting > len(PLUGINS)
    assert census.longest > 0
    full = next(at for at, processes in enumerate(census.sure) if len(processes) >= 2)
    assert min(map(len, census.sure[full:])) >= 2       # nobody else ever had one of them
    assert crowd.made[SURE] > sorted(crowd.made.values())[len(PLUGINS) // 2]
    assert proxy.metric("switchboard_errors_total") == 0


async def test_forty_plugins_share_twenty_connections(crowd: Daemon, postgres: Postgres) -> None:
    await plays(crowd, postgres, 40)


@pytest.mark.long
async def test_forty_plugins_share_twenty_connections_for_long(crowd: Daemon, postgres: Postgres) -> None:
    await plays(crowd, postgres, 500)
