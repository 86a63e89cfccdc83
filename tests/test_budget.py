"""One budget of connections to a server: no plugin starves, none holds what others are guaranteed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until

TRUST: dict[str, Any] = {"auth": {"method": "trust"}, "users": {"backstage": {}}}
PLUGINS = [f"budget{number}" for number in range(8)]


@pytest.fixture(scope="module", params=["transaction", "auto"])
def tight(request: pytest.FixtureRequest, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Three connections for all."""
    plugins = {"budget0": {"pool": {"guaranteed": 1}}}
    with daemon(tmp_path_factory.mktemp("budget"), base, **TRUST, upstream={"budget": 3}, plugin=plugins,
                pool={"mode": request.param, "size": 5, "query_wait_timeout": "30s"}) as running:
        yield running


def ours(postgres: Postgres, plugins: str = "budget") -> int:
    return int(postgres.sql(f"select count(*) from pg_stat_activity where datname like 'backstage_plugin_{plugins}%'")[0][0])


def test_many_plugins_share_a_few_connections(tight: Daemon, postgres: Postgres) -> None:
    clients = [tight.connect(plugin, autocommit=True, prepare_threshold=None) for plugin in PLUGINS for _ in range(4)]
    most = 0
    failed: list[BaseException] = []

    def work(client: psycopg.Connection[Any], which: int) -> None:
        try:
            for number in range(15):
                row = client.execute("select current_database(), %s::int", (number,)).fetchone()
                assert row == (f"backstage_plugin_{PLUGINS[which // 4]}", number)
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(client, which)) for which, client in enumerate(clients)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        most = max(most, ours(postgres))
    assert failed == []
    assert 1 <= most <= 3
    for client in clients:
        client.close()


def test_who_is_busy_makes_room_for_who_waits(tight: Daemon, postgres: Postgres) -> None:
    """Five clients of one plugin take whatever comes back; another plugin's one is served all the same."""
    done = threading.Event()
    turns = [0]

    def hog() -> None:
        with tight.connect("budget1", autocommit=True, prepare_threshold=None) as client:
            while not done.is_set():
                client.execute("select 1 + 1")
                turns[0] += 1

    hogs = [threading.Thread(target=hog) for _ in range(5)]
    for each in hogs:
        each.start()
    until(lambda: turns[0] > 50, "all at work")
    try:
        for plugin in PLUGINS[2:6]:
            with tight.connect(plugin, autocommit=True) as client:
                assert client.execute("select current_database()").fetchone() == (f"backstage_plugin_{plugin}",)
    finally:
        done.set()
        for each in hogs:
            each.join()
    until(lambda: tight.metric("switchboard_evicted_total", plugin="budget1") > 0, "counted")


def test_what_is_guaranteed_is_left_alone(tight: Daemon, postgres: Postgres) -> None:
    """Transactions hold all that may be held; the guaranteed one is still to be had."""
    holders = [tight.connect(plugin) for plugin in PLUGINS[1:3]]
    for holder in holders:
        holder.execute("begin")
    with tight.connect("budget0", autocommit=True) as client:
        assert client.execute("select 1").fetchone() == (1,)
    until(lambda: ours(postgres) <= 3, "no more than three")
    for holder in holders:
        holder.close()


def test_what_a_lost_client_left_running_counts(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    """As with no proxy between, the query goes on; its connection is one of the budget until it has ended."""
    with daemon(tmp_path, base, **TRUST, upstream={"budget": 2}, pool={"size": 5}) as running:
        lost = running.connect("lost5")
        lost.pgconn.send_query(b"select pg_sleep(600)")
        lost.pgconn.flush()
        sleeps = "select pid from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'"
        sleeper, = until(lambda: postgres.sql(sleeps), "the query")[0]
        with socket.socket(fileno=os.dup(lost.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)                # no goodbye
        until(lambda: running.metric("switchboard_upstreams", plugin="lost5", state="closing") == 1, "what is left of it")
        served: list[Any] = []

        def ask() -> None:
            with running.connect("lost7") as client:
                served.extend(client.execute("select 7").fetchall())

        waiting = threading.Thread(target=ask)
        with running.connect("lost6") as holder:
            holder.execute("begin")
            waiting.start()
            until(lambda: running.metric("switchboard_clients_waiting", plugin="lost7") == 1, "a client that waits")
            assert (ours(postgres, 'lost'), served) == (2, [])
            postgres.sql(f"select pg_terminate_backend({sleeper})")
            waiting.join()
        assert served == [(7,)]
        lost.close()


def test_provisioning_is_of_the_budget(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    """What clients ask `postgres` for, and what is created for who comes unasked, while others work."""
    there = ("select count(*) from pg_stat_activity where datname like 'backstage_plugin_made%' "
             "or (application_name = 'switchboard' and backend_type = 'client backend')")
    failed: list[BaseException] = []
    with daemon(tmp_path, base, **TRUST, upstream={"budget": 2}, pool={"size": 5}) as running:
        def work(number: int) -> None:
            try:
                if number % 2:
                    with running.connect("postgres") as client:
                        client.execute(f"create database backstage_plugin_made{number}")
                for _ in range(5):
                    with running.connect(f"made{number}") as client:
                        assert client.execute("select current_database()").fetchone() == (f"backstage_plugin_made{number}",)
            except BaseException as error:
                failed.append(error)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for worker in workers:
            worker.start()
        most = 0
        with psycopg.connect(postgres.dsn(), autocommit=True) as census:
            while any(worker.is_alive() for worker in workers):
                most = max(most, census.execute(there).fetchone()[0])  # type: ignore[index]
        assert (failed, most) == ([], 2)


def test_a_plugin_that_is_alone_has_it_all(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base, **TRUST, upstream={"budget": 3}, pool={"mode": "transaction", "size": 5}) as running:
        holders = [running.connect("budget7") for _ in range(3)]
        for holder in holders:
            holder.execute("begin")
        alone = "select count(*) from pg_stat_activity where datname = 'backstage_plugin_budget7' and state = 'idle in transaction'"
        assert postgres.sql(alone) == [(3,)]
        for holder in holders:
            holder.close()
