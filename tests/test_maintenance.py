"""The maintenance database, and the shared database of schema mode, as Backstage and psql ask them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from proxy.gateway.translate import translate
from tests.servers import Postgres, daemon

NAMED = [
    "select version()", "select pg_catalog.version()", "select now()", "select current_timestamp", "select count(*) from pg_database",
    "select 1", "select 1::int", "select 'a'::text", "select current_setting('TimeZone')::text", "select current_user",
    "select current_database() as here", "select datname, datname as name from pg_database", "select (datname) from pg_database",
    "select max(oid) from pg_database", "select case when true then 1 end", "select coalesce(datname, 'x') from pg_database",
    "select exists (select 1)", "select (select datname from pg_database limit 1)", "select session_user", "select -1",
    "select true::boolean",
    "select case when true then 1 else oid end from pg_database",
    "select '1'::bigint", "select pg_is_in_recovery()", "select 1 + 1 as two, 'x' || 'y'",
]


@pytest.mark.parametrize("query", NAMED)
def test_columns_are_named_as_postgresql_names_them(postgres: Postgres, query: str) -> None:
    with psycopg.connect(postgres.dsn()) as connection:
        described = connection.execute(query).description  # type: ignore[call-overload]
    assert described is not None
    assert translate(query)[1] == [column.name for column in described]


def test_databases(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base) as running, running.connect("postgres") as connection:
        lookup = "select count(*) from pg_database where datname = %s"
        name = "backstage_plugin_by-maintenance"
        assert connection.execute(lookup, (name,)).fetchone() == (0,)
        connection.execute(f'CREATE DATABASE "{name}"')
        assert connection.execute(lookup, (name,)).fetchone() == (1,)
        assert name in postgres.databases()
        with pytest.raises(psycopg.errors.DuplicateDatabase):
            connection.execute(f'CREATE DATABASE "{name}"')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE DATABASE stray")
        assert "stray" not in postgres.databases()
        assert connection.execute("select 1").fetchone() == (1,)
        row = connection.execute("select version()").fetchone()
        assert row is not None
        assert row[0].startswith("PostgreSQL 16")


async def test_a_drivers_pool_cleans_its_connections(base: dict[str, Any], tmp_path: Path) -> None:
    """By one text of four statements, the first of which calls pg_advisory_unlock_all()."""
    with daemon(tmp_path, base) as running:
        async with asyncpg.create_pool(running.dsn("postgres"), min_size=1, max_size=1) as pool:
            for _ in range(2):
                async with pool.acquire() as connection:
                    assert await connection.fetchval("select current_database()") == "postgres"
                    assert await connection.fetch("select pg_advisory_unlock_all()") == [(None,)]


@pytest.fixture
def shared(base: dict[str, Any]) -> dict[str, Any]:
    return {**base, "pluginDivisionMode": "schema", "connection": {**base["connection"], "database": "shared"},
            "plugin": {"search": {"role": "searcher"}}}


def test_schemas_of_the_shared_database(shared: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    postgres.sql("create role searcher")
    users = {"backstage": {"password": "s3cret"}, "narrow": {"password": "n", "plugins": ["catalog"]},
             "plain": {"password": "p", "maintenance": False}}
    with daemon(tmp_path, shared, users=users) as running, running.connect("shared") as connection:
        told: list[str | None] = []
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
        connection.execute('CREATE SCHEMA IF NOT EXISTS "catalog"')
        assert told == []
        connection.execute('CREATE SCHEMA IF NOT EXISTS "catalog"')
        assert told == ['schema "catalog" already exists, skipping']
        with pytest.raises(psycopg.errors.DuplicateSchema):
            connection.execute("create schema catalog")
        connection.execute("create schema if not exists search authorization searcher")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="SET ROLE"):
            connection.execute("create schema if not exists scaffolder authorization searcher")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute('create schema "not a plugin"')
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            connection.execute("create table stray (a int)")
        schemas = connection.execute("select nspname from pg_namespace order by 1").fetchall()
        assert schemas == [("public",), ("search",)]      # of those that are configured; others only when asked for by name
        assert connection.execute("select count(*) from information_schema.schemata where schema_name = %s",
                                  ("catalog",)).fetchone() == (1,)
        assert connection.execute("select current_database()").fetchone() == ("shared",)
        owners = postgres.sql("select nspname, pg_get_userbyid(nspowner) from pg_namespace where nspname in "
                              "('catalog', 'search', 'scaffolder') order by 1", "shared")
        assert owners == [("catalog", "postgres"), ("search", "searcher")]
        with running.connect("shared", "narrow", "n") as other, pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute("create schema if not exists search")
        with pytest.raises(psycopg.OperationalError, match="does not say which plugin is meant"):
            running.connect("shared", "plain", "p")


def test_a_schema_that_exists_needs_no_rights(shared: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    """PostgreSQL itself refuses CREATE SCHEMA IF NOT EXISTS without CREATE on the database, even where it would do nothing."""
    postgres.sql("create role tenant login password 't'")
    postgres.sql("create database shared_by_tenant")
    postgres.sql("create schema catalog authorization tenant", "shared_by_tenant")
    config = {**shared, "connection": {**shared["connection"], "user": "tenant", "password": "t", "database": "shared_by_tenant"}}
    with daemon(tmp_path, config) as running, running.connect("shared_by_tenant") as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS catalog")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for database") as caught:
            connection.execute("CREATE SCHEMA IF NOT EXISTS scaffolder")
        assert caught.value.diag.message_hint is not None
        assert 'GRANT CREATE ON DATABASE "shared_by_tenant" TO "tenant";' in caught.value.diag.message_hint


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_psql_lists_schemas(shared: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, shared) as running:
        done = subprocess.run(["psql", "-Atqc", r"\dn", running.dsn("shared")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "public|" in done.stdout
