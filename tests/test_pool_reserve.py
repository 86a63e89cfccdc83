"""Connections beyond a pool's size, and those that are kept because they were needed."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg

from tests.servers import Postgres, daemon, until


def test_who_waits_too_long_is_given_of_the_reserve(base: dict[str, Any], tmp_path: Path) -> None:
    pool = {"mode": "session", "size": 1, "reserve": 1, "reserve_after": "100ms", "idle_timeout": "500ms"}
    with daemon(tmp_path, base, pool=pool) as running:
        upstreams = functools.partial(running.metric, "switchboard_upstreams", plugin="catalog")
        with running.connect("catalog"), ThreadPoolExecutor(2) as threads:
            second = threads.submit(running.connect, "catalog").result(30)       # though there is place for one
            assert upstreams(state="active") == 2
            third = threads.submit(running.connect, "catalog")
            until(lambda: running.metric("switchboard_clients_waiting", plugin="catalog") == 1, "the third waits")
            second.close()
            third.result(30).close()
        until(lambda: upstreams() == 0, "the reserve goes back")
        with running.connect("catalog") as only:
            assert only.execute("select 1").fetchone() == (1,)


def test_as_many_as_were_needed_stay_warm(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    pool = {"mode": "session", "size": 8, "idle_timeout": "200ms", "warm_for": "10min"}
    with daemon(tmp_path, base, pool=pool) as running:
        clients = [running.connect("catalog") for _ in range(3)]
        until(lambda: running.metric("switchboard_upstreams", plugin="catalog", state="active") == 3, "three at work")
        for client in clients:
            client.close()
        ours = "select count(*) from pg_stat_activity where datname = 'backstage_plugin_catalog'"
        until(lambda: running.metric("switchboard_pool_kept", plugin="catalog") == 3, "they are kept")
        with psycopg.connect(postgres.dsn(), autocommit=True) as direct:
            direct.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'backstage_plugin_catalog'")
        until(lambda: running.metric("switchboard_connect_seconds_count", plugin="catalog") == 6, "they are dialled anew")
        assert postgres.sql(ours) == [(3,)]
