"""Several replicas of one real Backstage on few connections, with a spy in each plugin (spies.cjs), counted in the real server.

What is wrong is a line of text in `Verdict.faults`; all else are numbers.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg

from tests.backstage.backend import PATIENCE, Backstage, backstage
from tests.servers import Postgres, daemon, until

PLUGINS = ("auth", "catalog", "events", "notifications", "scaffolder", "search", "user-settings")
DIVISIONS = ("database", "schema", "role")
SHARED = "developer_portal"
"""The one database of schema mode."""
CONNECTIONS = 12
SLEEPERS = "select query from pg_stat_activity where state = 'active' and query like 'select pg_sleep(600)%'"
UNHEARD = 30.0
"""Seconds; the events plugin gives up after 55."""


@dataclass
class Verdict:
    """Of one run.  `most`: upstream connections at once, as the server saw it; `looks`: comparisons of the spies."""

    division: str
    replicas: int
    most: int = 0
    counts: int = 0
    looks: int = 0
    cancels: int = 0
    events: int = 0
    rounds: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        least = min(self.rounds.values(), default=0)
        return (f"{self.division}: {self.replicas} replicas, each spy at least {least} rounds, {self.looks} looks, "
                f"{self.cancels} cancels, {self.events} events across; at most {self.most} connections, counted {self.counts} times; "
                f"{len(self.faults)} differences")


class Census(threading.Thread):
    """Counts what is logged in at the server, but for itself, again and again."""

    def __init__(self, server: Postgres) -> None:
        super().__init__(name="census")
        self.connection = psycopg.connect(server.dsn(), autocommit=True)
        self.most = self.counts = 0
        self.seen: list[tuple[str, ...]] = []       # who was there at the worst moment
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.003):
            rows = self.connection.execute(
                "select datname, usename, application_name, state, left(query, 60) from pg_stat_activity "
                "where backend_type = 'client backend' and pid <> pg_backend_pid()").fetchall()
            self.counts += 1
            if len(rows) > self.most:
                self.most, self.seen = len(rows), sorted(tuple(map(str, row)) for row in rows)

    def stop(self) -> None:
        self.over.set()
        self.join()
        self.connection.close()


@contextlib.contextmanager
def census(server: Postgres) -> Iterator[Census]:
    found = Census(server)
    try:
        yield found
    finally:
        found.stop()


def accounts(server: Postgres, division: str) -> None:
    """`app` may log in, `maker` creates; in `role` each plugin's things belong to a role of its own."""
    server.sql("create role app login password 'a99'")
    server.sql("create role maker login createdb password 'm4ker'")
    server.sql("grant app to maker")
    for plugin in PLUGINS if division == "role" else ():
        server.sql(f'create role "{owner(plugin)}"')
        server.sql(f'grant "{owner(plugin)}" to app, maker')


def owner(plugin: str) -> str:
    return f"owner of {plugin}"


def configuration(port: int, division: str, user: str, password: str) -> dict[str, Any]:
    """backend.database, the same for the proxy and for Backstage but for where it points."""
    connection: dict[str, Any] = {"host": "127.0.0.1", "port": port, "user": user, "password": password}
    if division == "schema":
        return {"client": "pg", "pluginDivisionMode": "schema", "connection": {**connection, "database": SHARED}}
    roles = {plugin: {"role": owner(plugin)} for plugin in PLUGINS} if division == "role" else {}
    return {"client": "pg", "connection": connection, **({"plugin": roles} if roles else {})}


def expected(division: str) -> dict[str, dict[str, str]]:
    """What each plugin is to find: where it is, and who."""
    if division == "schema":
        return {plugin: {"database": SHARED, "schema": plugin, "role": "app"} for plugin in PLUGINS}
    return {plugin: {"database": f"backstage_plugin_{plugin}", "schema": "public",
                     "role": owner(plugin) if division == "role" else "app"} for plugin in PLUGINS}


def told(replica: Backstage) -> Iterator[dict[str, Any]]:
    """What its spies have said."""
    for line in replica.log.splitlines():
        if line.startswith("SPY {") and line.endswith("}"):
            yield json.loads(line[4:])


def done(replicas: list[Backstage]) -> dict[str, Counter[str]]:
    """What each spy has done, by plugin and replica."""
    found: dict[str, Counter[str]] = {}
    for replica in replicas:
        for word in told(replica):
            if "done" in word:
                found[f"{word['plugin']} of {word['replica']}"] = Counter(word["done"])
    return found


def events(replicas: list[Backstage], number: int) -> list[str]:
    """One event; a reader at each other replica waits for it already, and NOTIFY wakes it.  What went wrong."""
    publisher, topic, bus = replicas[number % len(replicas)], f"bell-{number}", "/api/events/bus/v1"
    waiting: dict[Backstage, HTTPConnection] = {}
    faults = []
    for reader in replicas:
        if reader is not publisher:
            path = f"{bus}/subscriptions/{topic}-{reader.port}"
            reader.ask("PUT", path, {"topics": [topic]})
            waiting[reader] = HTTPConnection("127.0.0.1", reader.port, timeout=UNHEARD)
            waiting[reader].request("GET", f"{path}/events", headers={"authorization": f"Bearer {reader.token}"})
    answers = {reader: connection.getresponse() for reader, connection in waiting.items()}      # their head: they listen
    faults += [f"{topic}: a reader is told {answer.status} before there is anything" for answer in answers.values()
               if answer.status != 202]
    publisher.ask("POST", f"{bus}/events", {"event": {"topic": topic, "payload": {"number": number}}})
    for reader, answer in answers.items():
        try:
            answer.read()
        except TimeoutError:
            faults.append(f"{topic}: a replica was not woken")
        waiting[reader].close()
        found = reader.ask("GET", f"{bus}/subscriptions/{topic}-{reader.port}/events")
        if found != {"events": [{"topic": topic, "payload": {"number": number}}]}:
            faults.append(f"{topic}: a replica was told {found}")
    return faults


def sleepers(division: str, replica: int, replicas: int) -> list[str]:
    """Whose queries sleep until they are cancelled.  In schema mode knex's cancel begins with a `set search_path`, which needs a
    connection like any other: there must be one that does not sleep."""
    return [plugin for at, plugin in enumerate(PLUGINS) if division != "schema" or at % replicas == replica - 1]


def play(server: Postgres, modules: Path, folder: Path, division: str, *, replicas: int = 4, rounds: int, bells: int) -> Verdict:
    """Start them, until each spy has made its rounds and each bell was heard; then what was seen."""
    verdict = Verdict(division, replicas)
    accounts(server, division)
    maker = {"server": f"127.0.0.1:{server.port}", "user": "maker", "password": "m4ker"}
    with census(server) as counted, daemon(
            folder, configuration(server.port, division, "app", "a99"), pool={"mode": "auto"}, upstream={"budget": CONNECTIONS},
            provisioning={"credentials": [maker]}) as proxy, contextlib.ExitStack() as stack:
        running: list[Backstage] = []
        pointed = configuration(proxy.port, division, "backstage", "s3cret")
        for number in range(1, replicas + 1):       # knex lets one at a time migrate; who comes second would give up
            place = folder / str(number)
            place.mkdir()
            spies = json.dumps({"replica": number, "expected": expected(division), "sleepers": sleepers(division, number, replicas)})
            running.append(stack.enter_context(backstage(place, pointed, modules, BACKSTAGE_SPIES=spies)))
        for number in range(bells):
            verdict.faults += events(running, number)
            verdict.events += replicas - 1

        def made() -> bool:
            now = done(running)
            return len(now) == replicas * len(PLUGINS) and all(each["rounds"] >= rounds for each in now.values())
        until(made, f"{rounds} rounds of each spy", PATIENCE * rounds)
        stack.close()
        summed(verdict, running)
        until(lambda: not counted.connection.execute(SLEEPERS).fetchall(), "the end of all that was cancelled", UNHEARD)
    verdict.most, verdict.counts = counted.most, counted.counts
    if counted.most > CONNECTIONS:
        verdict.faults.append(f"{counted.most} connections at once: {counted.seen}")
    return verdict


def summed(verdict: Verdict, running: list[Backstage]) -> None:
    sums = done(running)
    verdict.looks = sum(each["looks"] for each in sums.values())
    verdict.cancels = sum(each["cancels"] for each in sums.values())
    verdict.rounds = {who: each["rounds"] for who, each in sums.items()}
    verdict.faults += [json.dumps(word) for replica in running for word in told(replica) if "fault" in word]
