"""Provisioning when something is in its way: credentials that are turned away, and a server that dies in the middle."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.settings import Settings
from proxy.config.target import Credential, Engine, Secret, Server, SslMode, Target, Tls
from proxy.errors import ProxyError, UpstreamRefused
from proxy.pool.outage import away
from proxy.pool.provision import Provision
from tests.servers import Daemon, Postgres, daemon, until

NOBODY = Credential(user="nobody-here", password=Secret("x"))


@pytest.fixture(scope="module")
def poor(postgres: Postgres) -> Credential:
    """Who may log in and nothing else."""
    postgres.sql("do $$ begin create role provision_poor login password 'p00r'; exception when duplicate_object then null; end $$")
    return Credential(user="provision_poor", password=Secret("p00r"))


def target(server: Postgres, own: Credential, provisioner: Credential, **more: Any) -> Target:
    return Target(plugin="catalog", engine=Engine.POSTGRES, credential=own, provisioner=provisioner,
                  server=Server(host="127.0.0.1", port=server.port, tls=Tls(mode=SslMode.DISABLE)), **{"database": "not_there", **more})


@pytest.mark.parametrize(("word", "sqlstate", "message"), [
    ("x", "28P01", "password authentication failed"), ("", "28000", "the server asks for a password")])
async def test_a_provisioner_that_is_turned_away_is_told_at_once(postgres: Postgres, poor: Credential, word: str, sqlstate: str,
                                                                 message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    who = Credential(user="nobody-here", password=Secret(word) if word else None)
    with pytest.raises(ProxyError, match=message) as caught:
        await Provision(Settings()).ensure(target(postgres, poor, who))
    assert caught.value.sqlstate == sqlstate
    assert not away(caught.value)                        # nobody is to wait for what waiting does not mend
    assert 'While provisioning database "not_there" as user "nobody-here"' in str(caught.value.detail)


async def test_what_is_there_is_served_all_the_same(postgres: Postgres, poor: Credential) -> None:
    there = target(postgres, poor, NOBODY, database="postgres")
    work = Provision(Settings())
    await work.ensure(there)
    assert work.outcomes["catalog", "existed"] == 1
    with pytest.raises(UpstreamRefused):                 # the schema is not
        await work.ensure(replace(there, schema="no_such", ensure_schema_exists=True))
    await work.ensure(replace(there, schema="public", ensure_schema_exists=True))


async def test_no_right_on_the_maintenance_database(postgres: Postgres, poor: Credential) -> None:
    postgres.sql("create database provision_closed")
    postgres.sql("revoke connect on database provision_closed from public")
    try:
        work = Provision(Settings.model_validate({"provisioning": {"maintenance_database": "provision_closed"}}))
        await work.ensure(target(postgres, poor, poor, database="postgres"))
        with pytest.raises(UpstreamRefused, match="permission denied for database"):
            await work.ensure(target(postgres, poor, poor))
    finally:
        postgres.sql("drop database provision_closed")


@pytest.fixture
def mortal() -> Any:
    server = Postgres()
    yield server
    server.remove()


def crash(server: Postgres) -> None:
    """An immediate shutdown: what was being made is not there after the recovery."""
    assert server.cluster.process is not None
    os.kill(server.cluster.process.pid, signal.SIGQUIT)
    server.cluster.process.wait(30)
    server.cluster.stop()


def blocked(server: Postgres) -> psycopg.Connection[Any]:
    """Creating a database waits for as long as this lock is held."""
    holder = psycopg.connect(server.dsn())
    holder.execute("lock table pg_catalog.pg_database in share mode")
    return holder


def creating(server: Postgres) -> bool:
    return server.sql("select 1 from pg_stat_activity where query like 'CREATE DATABASE%' and wait_event_type = 'Lock'") != []


def base(server: Postgres) -> dict[str, Any]:
    return {"client": "pg", "connection": {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password}}


def ask(running: Daemon, plugin: str) -> str:
    with running.connect(plugin) as connection:
        row = connection.execute("select current_database()").fetchone()
        assert row is not None
        return str(row[0])


def test_a_server_that_dies_in_the_middle_and_comes_back(mortal: Postgres, tmp_path: Path) -> None:
    """Who asked is held over the restart; it is made once, by one of several that wait."""
    with daemon(tmp_path, base(mortal), upstream={"retry_delay": "50ms"}) as running, ThreadPoolExecutor(3) as threads:
        assert ask(running, "search") == "backstage_plugin_search"       # the server has been there
        holder = blocked(mortal)
        asked = [threads.submit(ask, running, "catalog") for _ in range(3)]
        until(lambda: creating(mortal), "CREATE DATABASE")
        crash(mortal)
        holder.close()
        running.logged("msg=.provisioning failed")
        assert not any(one.done() for one in asked)
        mortal.start()
        assert [one.result(60) for one in asked] == ["backstage_plugin_catalog"] * 3
        assert running.metric("switchboard_provisioning_total", plugin="catalog", outcome="created") == 1
        assert running.metric("switchboard_provisioning_total", plugin="catalog", outcome="failed") >= 1


def test_a_server_that_dies_in_the_middle_and_stays_away(mortal: Postgres, tmp_path: Path) -> None:
    """Who asked is told, and the next one after it is back is served."""
    patience = {"retry_delay": "50ms", "hold_timeout": 0}
    with daemon(tmp_path, base(mortal), upstream=patience) as running, ThreadPoolExecutor(1) as threads:
        holder = blocked(mortal)
        asked = threads.submit(ask, running, "catalog")
        until(lambda: creating(mortal), "CREATE DATABASE")
        crash(mortal)
        holder.close()
        with pytest.raises(psycopg.OperationalError) as caught:
            asked.result(60)
        assert mortal.password not in str(caught.value) + running.log
        mortal.start()
        assert until(lambda: again(running, "catalog"), "the server's return") == "backstage_plugin_catalog"


def again(running: Daemon, plugin: str) -> str:
    try:
        return ask(running, plugin)
    except psycopg.OperationalError:
        return ""


async def test_a_timeout_while_it_is_made(postgres: Postgres) -> None:
    """It is told as such; what the server made of it nevertheless is found the next time."""
    who = Credential(user="postgres", password=Secret(postgres.password))
    slow = target(postgres, who, who, database="provision_slow")
    holder = blocked(postgres)
    work = Provision(Settings.model_validate({"provisioning": {"timeout": "300ms"}}))
    with pytest.raises(ProxyError, match="took too long"):
        await work.ensure(slow)
    holder.close()
    work.settings = Settings()
    await work.ensure(slow)
    assert "provision_slow" in postgres.databases()
    postgres.sql("drop database provision_slow")
