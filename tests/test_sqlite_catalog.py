"""PostgreSQL's catalog of a SQLite file: psql's commands, SQLAlchemy's reflection."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy

from tests.servers import Daemon, daemon

TABLES = """
create table team (id integer primary key autoincrement, name varchar(40) not null unique, made datetime default CURRENT_TIMESTAMP);
create table member (id char(36), team integer not null references team (id) on delete cascade, data json, ok boolean default 1,
  primary key (id));
create index member_team on member (team, ok);
create view names as select name from team;
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    """The tables are another program's."""
    folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))         # PostgreSQL's own user must get there
    folder.chmod(0o711)
    with sqlite3.connect(folder / "catalog.sqlite") as program:
        program.executescript(TABLES)
        program.execute("insert into team (name) values ('red')")
    program.close()
    with daemon(folder, {"client": "better-sqlite3", "connection": {"directory": str(folder)}, "plugin": {"catalog": {}}}) as one:
        yield one
    shutil.rmtree(folder, ignore_errors=True)


def psql(running: Daemon, *commands: str) -> str:
    asked = [part for command in commands for part in ("-c", command)]
    return subprocess.run([str(shutil.which("psql")), "-X", running.dsn("catalog"), *asked], text=True, capture_output=True,
                          check=False, timeout=60).stdout


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_psql(running: Daemon) -> None:
    told = psql(running, r"\dt", r"\dv", r"\d team", r"\d member", r"\di", r"\l")
    assert " public | team   | table" in told
    assert " public | names | view" in told
    assert " name   | character varying(40)       |           | not null |" in told
    assert '"team_name_key" UNIQUE CONSTRAINT, btree (name)' in told
    assert 'TABLE "member" CONSTRAINT "member_team_fkey" FOREIGN KEY (team) REFERENCES team(id) ON DELETE CASCADE' in told
    assert '"member_team" btree (team, ok)' in told
    assert " catalog" in told.partition("List of databases")[2]


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_tables_that_another_program_makes_are_seen(running: Daemon) -> None:
    path = next(iter(running.folder.glob("*.sqlite")))
    with sqlite3.connect(path) as program:
        program.execute("create table later (a text)")
        program.commit()
        assert "later" in psql(running, r"\dt")
        program.execute("drop table later")
        program.commit()
    program.close()
    assert "later" not in psql(running, r"\dt")


def test_reflection(running: Daemon) -> None:
    engine = sqlalchemy.create_engine(running.dsn("catalog").replace("postgresql://", "postgresql+psycopg://"))
    found = sqlalchemy.inspect(engine)
    assert set(found.get_table_names()) == {"team", "member"}
    assert found.get_view_names() == ["names"]
    assert found.get_pk_constraint("team")["constrained_columns"] == ["id"]
    assert [(key["constrained_columns"], key["referred_table"], key["options"]) for key in found.get_foreign_keys("member")] == [
        (["team"], "team", {"ondelete": "CASCADE"})]
    assert [(index["name"], index["column_names"]) for index in found.get_indexes("member")] == [("member_team", ["team", "ok"])]
    table = sqlalchemy.Table("member", sqlalchemy.MetaData(), autoload_with=engine)
    assert [str(column.type) for column in table.columns] == ["VARCHAR(36)", "BIGINT", "JSON", "BOOLEAN"]
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)).scalar() == 0
    engine.dispose()


async def test_binary_answers(running: Daemon) -> None:
    """asyncpg asks in binary, and for its prepared statements' types."""
    connection = await asyncpg.connect(running.dsn("catalog"))
    try:
        rows = await connection.fetch(
            "select oid, relname, relkind, reltuples from pg_catalog.pg_class where relname = any($1::text[])", ["team"])
        assert [(row["relname"], row["relkind"]) for row in rows] == [("team", b"r")]
        assert await connection.fetchval("select count(*) from information_schema.columns where table_name = $1", "team") == 3
    finally:
        await connection.close()


@pytest.mark.parametrize(("question", "sqlstate"), [
    ("select relname, (select count(*) from team) from pg_class", "0A000"), ("select * from pg_class, team", "0A000"),
    ("select * from pg_authid", "42501"), ("select pg_read_file('/etc/passwd'), relname from pg_class", "42501"),
    ("select * from pg_stat_activity", "42501"), ("select pg_terminate_backend(pid) from pg_locks", "42501"),
    ("with x as (delete from team returning 1) select * from x, pg_class", "25006"), ("select pg_sleep(1) from pg_class", "42501"),
    ("select pg_notify('bell', 'rings')", "0A000"),
    ("select set_config('role', 'postgres', false) from pg_class", "42501"), ("select lo_create(0) from pg_class", "25006"),
    ("select nope from pg_class", "42703"), ("select pg_advisory_lock(1) from pg_class", "0A000")])
def test_nothing_else_is_reached_that_way(running: Daemon, question: str, sqlstate: str) -> None:
    with running.connect("catalog", autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(question)  # type: ignore[call-overload]
        assert caught.value.sqlstate == sqlstate
        assert connection.execute("select name from team").fetchall() == [("red",)]


def test_nothing_stays_for_the_next(running: Daemon) -> None:
    with running.connect("catalog", autocommit=True) as connection:
        connection.execute("select set_config('search_path', 'nowhere', false) from pg_catalog.pg_class limit 1")
        row: Any = connection.execute("select pg_catalog.current_setting('search_path') from pg_catalog.pg_class limit 1").fetchone()
        assert "nowhere" not in row[0]


def test_without_a_postgresql_of_our_own(tmp_path: Path) -> None:
    base = {"client": "better-sqlite3", "connection": {"directory": str(tmp_path)}}
    with daemon(tmp_path, base, sqlite={"catalog": False}) as one, one.connect("catalog") as connection:
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="PostgreSQL's catalog is not supported"):
            connection.execute("select * from pg_class")
        assert connection.execute("select 1").fetchone() == (1,)
