"""Bad networks on both sides, under load: no wrong row, nobody hangs, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from tests.servers import Daemon, Postgres, daemon, until
from tests.storm import Storm, storm

CLIENTS = 24
SIZE = 16
DEADLINE = 30.0         # of a single step of a client; all limits of the daemon that add up to it are shorter
LIMITS = {"mode": "session", "size": SIZE, "query_timeout": "3s", "idle_transaction_timeout": "3s", "client_idle_timeout": "5s",
          "query_wait_timeout": "8s", "check_delay": "1s"}
# What a cut may look like; anything else is a fault of ours.
HONEST = ("server closed the connection unexpectedly", "connection reset", "the connection is closed", "connection is lost",
          "broken pipe", "query_wait_timeout", "query timeout", "idle transaction timeout", "client_idle_timeout", "cannot connect",
          "canceling authentication due to timeout", "took too long", "closed the connection",
          "unexpected eof on client connection")


@dataclass
class Ledger:
    """What is known at the end."""

    told: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def rows(name: str, seed: int, count: int, width: int) -> list[tuple[Any, ...]]:
    """What a query of `name` must answer, computed here."""
    return [(name, number, hashlib.md5(f"{name}-{seed}-{number}".encode()).hexdigest() * width) for number in range(1, count + 1)]


QUERY = ("select current_setting('application_name'), g, repeat(md5('{name}-{seed}-' || g), {width}) "
         "from generate_series(1, {count}) g")


class Caller:
    def __init__(self, number: int, port: int, ledger: Ledger) -> None:
        self.name = f"caller{number}"
        self.port = port
        self.ledger = ledger
        self.chance = random.Random(number)
        self.serial = 0
        self.step: object = None
        self.odd = ""

    async def run(self, ended: asyncio.Event) -> None:
        while not ended.is_set() and not self.ledger.problems:
            try:
                await self._session(ended)
            except TimeoutError:
                self.ledger.problems.append(f"{self.name} hung in step {self.serial}, {self.step} {self.odd}")
            except AssertionError as wrong:
                self.ledger.problems.append(f"{self.name}: {str(wrong)[:500]}")
            except psycopg.Error as fault:
                text = str(fault).strip()
                self.ledger.told[text[:90]] += 1
                if not isinstance(fault, psycopg.OperationalError | psycopg.InterfaceError) or not any(
                        words in text.lower() for words in HONEST):
                    self.ledger.problems.append(f"{self.name}: {type(fault).__name__} {text}")

    async def _session(self, ended: asyncio.Event) -> None:
        async with asyncio.timeout(DEADLINE):
            connection = await AsyncConnection.connect(
                f"host=127.0.0.1 port={self.port} user=backstage password=s3cret dbname=stormy sslmode=disable "
                f"application_name={self.name}", autocommit=True, prepare_threshold=None)
        try:
            for _ in range(self.chance.randrange(1, 40)):
                if ended.is_set():
                    return
                self.serial += 1
                steps = (self.simple, self.extended, self.pipeline, self.copy_out, self.copy_in, self.insert)
                self.step = step = self.chance.choice(steps)
                async with asyncio.timeout(DEADLINE):
                    try:
                        await step(connection)
                    except (psycopg.InternalError, ValueError) as odd:
                        self.odd = repr(odd)
                        # psycopg's way to say that behind the answer there came another one: it can only be the last words.
                        await the_end(connection)
                        self.ledger.told["an answer and the end in one breath"] += 1
                        return
                self.ledger.done[step.__name__] += 1
        finally:
            connection.pgconn.finish()           # without a goodbye, as one who is lost

    def _query(self) -> tuple[str, list[tuple[Any, ...]]]:
        count, width = self.chance.choice(((1, 1), (3, 40), (200, 2), (2000, 1), (20, 500)))
        words = {"name": self.name, "seed": self.serial, "count": count, "width": width}
        return QUERY.format(**words), rows(self.name, self.serial, count, width)

    async def simple(self, connection: AsyncConnection[Any]) -> None:
        text, wanted = self._query()
        assert await (await connection.execute(text)).fetchall() == wanted  # type: ignore[call-overload]

    async def extended(self, connection: AsyncConnection[Any]) -> None:
        text, wanted = self._query()
        cursor = await connection.execute(text + " where g <> %s", (-1,), prepare=self.chance.random() < 0.1)  # type: ignore[call-overload]
        assert await cursor.fetchall() == wanted

    async def pipeline(self, connection: AsyncConnection[Any]) -> None:
        asked = [self._query() for _ in range(5)]
        async with connection.pipeline():
            cursors = [await connection.execute(text) for text, _ in asked]  # type: ignore[call-overload]
            for cursor, (_, wanted) in zip(cursors, asked, strict=True):
                assert await cursor.fetchall() == wanted

    async def copy_out(self, connection: AsyncConnection[Any]) -> None:
        text, wanted = self._query()
        async with connection.cursor().copy(f"copy ({text}) to stdout") as copy:  # type: ignore[call-overload]
            copy.set_types(["text", "int4", "text"])
            assert [row async for row in copy.rows()] == wanted

    async def copy_in(self, connection: AsyncConnection[Any]) -> None:
        _, wanted = self._query()
        async with connection.transaction():
            await connection.execute("create temp table mine (name text, number int, word text) on commit drop")
            async with connection.cursor().copy("copy mine from stdin") as copy:
                for row in wanted:
                    await copy.write_row(row)
            assert await (await connection.execute("select * from mine order by number")).fetchall() == wanted

    async def insert(self, connection: AsyncConnection[Any]) -> None:
        async with connection.transaction():
            await connection.execute("insert into ledger values (%s, %s)", (self.name, self.serial))
        self.ledger.acknowledged.add((self.name, self.serial))


async def the_end(connection: AsyncConnection[Any]) -> None:
    """Wait for the end of a connection; who has more to say than an error is a stranger."""
    pgconn = connection.pgconn
    loop = asyncio.get_running_loop()
    while pgconn.status == psycopg.pq.ConnStatus.OK:
        readable = asyncio.Event()
        loop.add_reader(pgconn.socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(pgconn.socket)
        with contextlib.suppress(psycopg.OperationalError):
            pgconn.consume_input()
        while not pgconn.is_busy() and (result := pgconn.get_result()) is not None:
            assert result.status == psycopg.pq.ExecStatus.FATAL_ERROR, result


def descriptors(running: Daemon) -> int:
    return len(os.listdir(f"/proc/{running.process.pid}/fd"))


def left_behind(running: Daemon, postgres: Postgres, before: tuple[int, float]) -> str:
    """What of the storm is still there; nothing is the answer."""
    states = {state: running.metric("switchboard_upstreams", plugin="stormy", state=state)
              for state in ("idle", "active", "resetting", "cancelling", "connecting", "closing")}
    idle = states.pop("idle")
    found = {**states, "clients": running.metric("switchboard_clients_connected"),
             "waiting": running.metric("switchboard_clients_waiting"),
             "descriptors": descriptors(running) - before[0] - idle,
             "tasks": running.metric("switchboard_tasks") - before[1],
             "backends": postgres.sql("select count(*) from pg_stat_activity where datname = 'backstage_plugin_stormy'")[0][0] - idle}
    return str({name: value for name, value in found.items() if value}) if any(found.values()) else ""


async def weather(running: Daemon, front: Storm, back: Storm, ledger: Ledger, cuts: int) -> None:
    ended = asyncio.Event()
    front.raging = back.raging = True
    async with asyncio.TaskGroup() as callers:
        for number in range(CLIENTS):
            callers.create_task(Caller(number, front.port, ledger).run(ended))
        while front.cuts + back.cuts < cuts and not ledger.problems:
            await asyncio.sleep(0.05)            # a poll of the storm's own count
        front.over()
        back.over()
        enough = sum(ledger.done.values()) + 2 * CLIENTS
        while sum(ledger.done.values()) < enough and not ledger.problems:
            await asyncio.sleep(0.05)            # and everybody is served again
        ended.set()


@pytest.mark.parametrize("cuts", [300, pytest.param(5000, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", ["session", "transaction", "auto"])
def test_cuts_under_load(postgres: Postgres, base: dict[str, Any], tmp_path: Path, mode: str, cuts: int) -> None:
    asyncio.run(_cuts_under_load(postgres, base, tmp_path, mode, cuts))


async def _cuts_under_load(postgres: Postgres, base: dict[str, Any], tmp_path: Path, mode: str, cuts: int) -> None:
    ledger = Ledger()
    async with storm(postgres.port, 1, (8, 22), None) as back:
        through = {**base, "connection": {**base["connection"], "port": back.port}}
        with contextlib.ExitStack() as stack:
            running: Daemon = await asyncio.to_thread(stack.enter_context, daemon(
                tmp_path, through, pool={**LIMITS, "mode": mode}, auth={"login_timeout": "6s", "throttle_failures": 0},
                upstream={"connect_timeout": "2s", "retry_delay": "0.1s", "hold_timeout": "8s"}, log={"connections": False}))
            await asyncio.to_thread(_prepare, running)
            before = await asyncio.to_thread(_at_rest, running)
            async with storm(running.port, 2, (4, 20), 2.0) as front:
                await weather(running, front, back, ledger, cuts)
                print(mode, dict(front.fates), dict(back.fates), dict(ledger.done), dict(ledger.told))
                assert not ledger.problems
            kept = set(await asyncio.to_thread(postgres.sql, "select name, number from ledger", "backstage_plugin_stormy"))
            twice = await asyncio.to_thread(postgres.sql, "select 1 from ledger group by name, number having count(*) > 1",
                                            "backstage_plugin_stormy")
            assert ledger.acknowledged <= kept
            assert not twice
            try:
                await asyncio.to_thread(until, lambda: not left_behind(running, postgres, before), "the end of it all", 20)
            except AssertionError:
                raise AssertionError(f"left behind: {left_behind(running, postgres, before)}") from None


def _prepare(running: Daemon) -> None:
    with running.connect("stormy") as connection:
        connection.execute("drop table if exists ledger")
        connection.execute("create table ledger (name text, number int)")


def _at_rest(running: Daemon) -> tuple[int, float]:
    """Descriptors and tasks without clients and without upstreams."""
    until(lambda: not running.metric("switchboard_clients_connected"), "everybody's leave")
    idle = running.metric("switchboard_upstreams", plugin="stormy", state="idle")
    return descriptors(running) - int(idle), running.metric("switchboard_tasks")
