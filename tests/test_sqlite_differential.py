"""The same statements on a SQLite file behind the gateway and on PostgreSQL: the same rows, names of columns and SQLSTATEs.

What is refused there (0A000) is counted; what runs must be equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon

TABLES = """
create table team (id integer primary key, name varchar(40) not null unique, open boolean not null default true);
create table member (id bigint primary key, team integer references team (id) on delete cascade, name text,
  age integer check (age >= 0), height double precision, born timestamp, joined date, seen timestamptz, data jsonb, raw bytea);
insert into team (id, name, open) values (1, 'red', true), (2, 'blue', false), (3, 'Grün', true), (4, 'none', 'f');
insert into member (id, team, name, age, height, born, joined, seen, data, raw) values
  (1, 1, 'Ann', 30, 1.75, '1990-02-03 04:05:06', '2020-01-31', '2024-05-06 07:08:09.5+02',
   '{"a": {"b": [1, 2.50, true]}, "c": null}', '\\x0001ff'),
  (2, 1, 'bob', 41, 1.8, '1980-12-31', '2020-02-29', null, '[1, "x"]', null),
  (3, 2, 'Çelik', 25, null, null, null, '2024-05-06', null, ''),
  (4, null, 'ann_e', 0, 2, '2000-01-01 00:00:00.123456', '1999-12-31', now(), '{}', '\\x61');
"""

QUERIES = [*(Path(__file__).parent / "sqlite_statements.txt").read_text().splitlines(), "", ";"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("files")
    with daemon(folder, {"client": "better-sqlite3", "connection": {"directory": str(folder / "data")}}) as one:
        with one.connect("catalog") as connection:
            connection.execute(TABLES)
        yield one


@pytest.fixture(scope="module")
def peer(postgres: Postgres) -> Iterator[str]:
    postgres.sql("create database beside_sqlite template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C.UTF-8'")
    with psycopg.connect(postgres.dsn("beside_sqlite")) as connection:
        connection.execute(TABLES)
        connection.execute("set timezone to 'UTC'; alter database beside_sqlite set timezone to 'UTC'")
    yield postgres.dsn("beside_sqlite")
    postgres.sql("drop database beside_sqlite")


def _even(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _asked(connection: psycopg.Connection[Any], query: str, **more: Any) -> tuple[Any, ...]:
    """What came: names, rows, the tag; or the SQLSTATE."""
    with connection.cursor(**more) as cursor:
        try:
            cursor.execute(query)
            names = [column.name for column in cursor.description or ()]
            rows = [tuple(map(_even, row)) for row in cursor.fetchall()] if cursor.description else []
            return names, rows, cursor.statusmessage
        except psycopg.Error as error:
            return (error.sqlstate,)
        finally:
            connection.rollback()


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("binary", [False, True])
def test_rows_and_errors(running: Daemon, peer: str, query: str, binary: bool) -> None:
    with running.connect("catalog", autocommit=False) as connection:
        got = _asked(connection, query, **({"binary": True} if binary else {}))
    if got == ("0A000",):
        pytest.skip("refused")
    with psycopg.connect(peer) as connection:
        wanted = _asked(connection, query, **({"binary": True} if binary else {}))
    assert got == wanted
