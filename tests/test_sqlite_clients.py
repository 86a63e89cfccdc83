"""A SQLite file as programs see it that think it is PostgreSQL: transactions, portals, cancels, locks, floods of rows."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest

from tests.servers import Daemon, daemon, until

SLOW = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"


def files(folder: Path, **more: Any) -> contextlib.AbstractContextManager[Daemon]:
    return daemon(folder, {"client": "better-sqlite3", "connection": {"directory": str(folder / "data")}},
                  **{"sqlite": {"catalog": False, "busy_timeout": "300ms"}, **more})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with files(tmp_path_factory.mktemp("files")) as one:
        yield one


@pytest.fixture
def connection(running: Daemon) -> Iterator[psycopg.Connection[Any]]:
    with running.connect("catalog") as one:
        one.execute("create table if not exists t (id integer primary key, name text, unique (name))")
        one.execute("delete from t")
        yield one


def path_of(running: Daemon, plugin: str = "catalog") -> Path:
    return running.folder / "data" / f"{plugin}.sqlite"


def test_a_file_is_another_programs_too(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    """What one writes the other reads, while both have it open."""
    program = sqlite3.connect(path_of(running))
    connection.execute("insert into t values (1, 'ours')")
    assert program.execute("select name from t").fetchall() == [("ours",)]
    program.execute("insert into t values (2, 'theirs')")
    program.commit()
    assert connection.execute("select name from t order by id").fetchall() == [("ours",), ("theirs",)]
    program.execute("create table later (a boolean, b datetime)")
    program.execute("insert into later values (1, 1700000000123)")
    program.commit()
    assert connection.execute("select * from later").fetchall() == [(True, datetime.datetime(2023, 11, 14, 22, 13, 20, 123000))]
    program.execute("drop table later")
    program.commit()
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("select * from later")
    program.close()


def test_who_is_locked_out_is_told(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    program = sqlite3.connect(path_of(running), isolation_level=None)
    program.execute("begin immediate")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        connection.execute("insert into t values (1, 'x')")
    assert connection.execute("select count(*) from t").fetchone() == (0,)
    program.execute("rollback")
    connection.execute("insert into t values (1, 'x')")
    program.close()


def test_who_waits_gets_its_turn(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    """Two clients that write; the second waits for the first, without the thread."""
    with running.connect("catalog", autocommit=False) as first:
        first.execute("insert into t values (1, 'first')")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("insert into t values (2, 'second')")
        first.commit()
    connection.execute("insert into t values (2, 'second')")
    with running.connect("catalog", autocommit=False) as one, running.connect("catalog") as two:
        one.execute("select * from t")
        two.execute("insert into t values (3, 'third')")
        with pytest.raises(psycopg.errors.SerializationFailure):
            one.execute("insert into t values (4, 'fourth')")


def test_transactions(connection: psycopg.Connection[Any]) -> None:
    connection.autocommit = False
    connection.execute("insert into t values (1, 'a')")
    assert connection.info.transaction_status.name == "INTRANS"
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        connection.execute("insert into t values (2, 'a')")
    assert caught.value.diag.table_name == "t"
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        connection.execute("select 1")
    assert connection.info.transaction_status.name == "INERROR"
    connection.rollback()
    assert connection.execute("select count(*) from t").fetchone() == (0,)
    connection.execute("insert into t values (1, 'a')")
    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        connection.execute("insert into t values (1, 'b')")
    connection.execute("insert into t values (2, 'b')")
    connection.commit()
    assert connection.execute("select count(*) from t").fetchone() == (2,)


def test_statements_of_one_text_are_all_or_none(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("insert into t values (1, 'a'); insert into t values (2, 'b'); insert into t values (1, 'c')")
    assert connection.execute("select count(*) from t").fetchone() == (0,)
    connection.execute("insert into t values (1, 'a'); insert into t values (2, 'b')")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute("insert into t values (3, 'a3'); commit; insert into t values (4, 'b4'); select nope from t")
    assert connection.execute("select id from t order by id").fetchall() == [(1,), (2,), (3,)]


def test_a_pipeline_is_all_or_none(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
        connection.execute("insert into t values (1, 'a')")
        connection.execute("insert into t values (2, 'a')")
        connection.execute("insert into t values (3, 'c')")
    assert connection.execute("select count(*) from t").fetchone() == (0,)
    with connection.pipeline() as pipeline:
        connection.execute("insert into t values (1, 'a')")
        pipeline.sync()
        with contextlib.suppress(psycopg.Error):
            connection.execute("insert into t values (1, 'b')")
            pipeline.sync()
    assert connection.execute("select count(*) from t").fetchone() == (1,)


def test_types_of_parameters_and_values(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    """Binary and text, there and back, by two drivers."""
    connection.execute("create table kinds (a bigint, b double precision, c boolean, d text, e timestamptz, f date, g bytea, h uuid, "
                       "i numeric(12,3), j jsonb, k timestamp)")
    given = (2 ** 40, 1.5, True, "ä", datetime.datetime(2024, 5, 6, 7, 8, 9, 123456, datetime.UTC), datetime.date(2020, 2, 29),
             b"\0\xff", UUID(int=7), Decimal("12.345"), {"a": [1, None]}, datetime.datetime(2024, 5, 6, 7, 8))
    columns = ", ".join(["%s"] * len(given))
    packed = (*given[:9], psycopg.types.json.Jsonb(given[9]), given[10])
    connection.execute(f"insert into kinds values ({columns})", packed)
    connection.execute(f"insert into kinds values ({columns})", packed, binary=True)  # type: ignore[call-overload]
    for binary in (False, True):
        with connection.cursor(binary=binary) as cursor:
            assert cursor.execute("select * from kinds").fetchall() == [given, given]
            cursor.execute("select count(*) from kinds where e = %s and f = %s and i = %s and k < %s",
                           (given[4], given[5], given[8], datetime.datetime(2025, 1, 1)))
            assert cursor.fetchone() == (2,)

    async def by_asyncpg() -> None:
        other = await asyncpg.connect(running.dsn("catalog"))
        try:
            row = await other.fetchrow("select a, b, c, d, e, f, g, h, i, k from kinds where a = $1 and c = $2", 2 ** 40, True)
            assert tuple(row) == (*given[:9], given[10])
            await other.execute("delete from kinds where e = $1", given[4])
            assert await other.fetchval("select count(*) from kinds") == 0
        finally:
            await other.close()

    asyncio.run(by_asyncpg())
    connection.execute("drop table kinds")


async def test_portals_with_limits(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    connection.execute("insert into t (id, name) with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000) "
                       "select i, 'n' || i from n")
    other = await asyncpg.connect(running.dsn("catalog"))
    try:
        async with other.transaction():
            seen = [row["id"] async for row in other.cursor("select id from t where id > $1 order by id", 10, prefetch=7)]
        assert seen == list(range(11, 1001))
        statement = await other.prepare("select name from t where id = $1")
        assert [each.name for each in statement.get_parameters()] == ["int8"]
    finally:
        await other.close()


def test_cancel(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    """While it runs, and while it waits for another's."""
    with running.connect("catalog") as other:
        import threading

        ended: list[str | None] = []

        def ask(who: psycopg.Connection[Any]) -> None:
            try:
                who.execute(SLOW)
            except psycopg.Error as error:
                ended.append(error.sqlstate)

        threads = [threading.Thread(target=ask, args=(who,)) for who in (connection, other)]
        for thread in threads:
            thread.start()
        until(lambda: running.metric("switchboard_queries_total", plugin="catalog") is not None, "it runs")
        while threads[0].is_alive() or threads[1].is_alive():
            connection.cancel()
            other.cancel()
            threads[0].join(0.05)
            threads[1].join(0.05)
        assert ended == ["57014", "57014"]
        assert connection.execute("select 1").fetchone() == (1,)


def test_many_rows_in_little_memory(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    import psutil

    process = psutil.Process(running.process.pid)
    before = process.memory_info().rss
    with connection.cursor() as cursor:
        rows = cursor.stream("with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000) "
                             "select i, 'a text of some length that is told again and again' from n")
        count = total = most = 0
        for number, _ in rows:
            count, total = count + 1, total + number
            if not count % 100_000:
                most = max(most, process.memory_info().rss - before)
    assert (count, total) == (1_000_000, 500_000_500_000)
    assert most < 30 << 20


def test_read_only(tmp_path: Path) -> None:
    with files(tmp_path) as one, one.connect("app") as connection:
        connection.execute("create table t (a integer)")
        connection.execute("insert into t values (1)")
    with files(tmp_path, plugin={"app": {"read_only": True}, "search": {"read_only": True}}) as one:
        with one.connect("app") as connection:
            assert connection.execute("select * from t").fetchall() == [(1,)]
            for change in ("insert into t values (2)", "create table u (a integer)", "drop table t", "update t set a = 3"):
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    connection.execute(change)  # type: ignore[call-overload]
        with pytest.raises(psycopg.OperationalError, match='database "search" does not exist'):
            one.connect("search")


def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "app.sqlite").write_text("this is a text, and a long one, so that it is no empty database. " * 20)
    (tmp_path / "data" / "search.sqlite").mkdir()
    with files(tmp_path) as one:
        with pytest.raises(psycopg.Error, match="no sound SQLite database"):
            one.connect("app")
        with pytest.raises(psycopg.Error, match="cannot open"):
            one.connect("search")
        with one.connect("catalog") as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_kill_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    base = {"client": "better-sqlite3", "connection": {"directory": str(tmp_path / "data")}}
    one = Daemon(tmp_path, base, sqlite={"catalog": False})
    connection = one.connect("app")
    connection.execute("create table t (a integer primary key)")
    done = 0
    with contextlib.suppress(psycopg.Error):
        for number in range(1, 5000):
            connection.execute("insert into t values (%s)", (number,))
            done = number
            if number == 300:
                os.kill(one.process.pid, signal.SIGKILL)
    one.process.wait(10)
    with sqlite3.connect(tmp_path / "data" / "app.sqlite") as program:
        (count, last) = program.execute("select count(*), max(a) from t").fetchone()
        assert count == last
        assert done <= last <= done + 1
        assert program.execute("pragma integrity_check").fetchone() == ("ok",)
    program.close()


def test_an_open_transaction_ends_with_its_client(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    other = running.connect("catalog", autocommit=False)
    other.execute("insert into t values (7, 'left')")
    other.close()
    until(lambda: _written(connection), "the lock is given up")
    assert connection.execute("select id from t").fetchall() == [(8,)]


def _written(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("insert into t values (8, 'right')")
    except psycopg.errors.LockNotAvailable:
        return False
    return True


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_psql(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    done = subprocess.run(
        [str(shutil.which("psql")), "-X", "-At", "-v", "VERBOSITY=verbose", running.dsn("catalog")], text=True, capture_output=True,
        check=False, timeout=60, input="insert into t values (1, 'a'), (2, null) returning *;\nbegin;\nselect nope from t;\n"
                                       "select 1;\ncommit;\nselect * from t;\n")
    assert done.stdout.splitlines() == ["1|a", "2|", "INSERT 0 2", "BEGIN", "ROLLBACK", "1|a", "2|"]
    assert [line[:14] for line in done.stderr.splitlines() if line.startswith("ERROR")] == ["ERROR:  42703:", "ERROR:  25P02:"]


def test_cursors(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    """Of a driver, which describes them, and of SQL."""
    connection.execute("insert into t (id) values (1), (2), (3), (4), (5)")
    connection.autocommit = False
    with connection.cursor("named") as cursor:
        cursor.execute("select id, name from t where id > %s order by id", (1,))
        assert [column.name for column in cursor.description or ()] == ["id", "name"]
        assert cursor.fetchmany(2) == [(2, None), (3, None)]
        assert cursor.fetchall() == [(4, None), (5, None)]
    connection.execute("declare c no scroll cursor for select id from t order by id")
    assert connection.execute("move 2 in c").statusmessage == "MOVE 2"
    assert connection.execute("fetch c").fetchall() == [(3,)]
    assert connection.execute("fetch forward all from c").fetchall() == [(4,), (5,)]
    with pytest.raises(psycopg.errors.FeatureNotSupported), connection.transaction():
        connection.execute("fetch prior from c")
    with pytest.raises(psycopg.errors.DuplicateCursor), connection.transaction():
        connection.execute("declare c cursor for select 1")
    connection.execute("close c")
    with pytest.raises(psycopg.errors.InvalidCursorName), connection.transaction():
        connection.execute("fetch c")
    connection.commit()
    connection.autocommit = True
    with pytest.raises(psycopg.errors.NoActiveSqlTransaction):
        connection.execute("declare c cursor for select 1")


def test_values_of_megabytes(running: Daemon, connection: psycopg.Connection[Any]) -> None:
    text = "aé" * 2_000_000
    connection.execute("insert into t values (1, %s)", (text,))
    assert connection.execute("select name from t").fetchone() == (text,)


def test_a_stop_waits_for_transactions(tmp_path: Path) -> None:
    base = {"client": "better-sqlite3", "connection": {"directory": str(tmp_path / "data")}}
    one = Daemon(tmp_path, base, sqlite={"catalog": False})
    with one.connect("app", autocommit=False) as busy, one.connect("app") as idle:
        busy.execute("create table t (a integer)")
        one.signal(signal.SIGTERM)
        one.logged("msg=draining")
        busy.execute("insert into t values (1)")
        busy.commit()
        for connection in (busy, idle):
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
        assert one.process.wait(20) == 0
    with sqlite3.connect(tmp_path / "data" / "app.sqlite") as program:
        assert program.execute("select * from t").fetchall() == [(1,)]
    program.close()


def test_plugins_that_nobody_listed_have_an_end(tmp_path: Path) -> None:
    with files(tmp_path) as one, one.connect("kept") as kept:
        for number in range(205):
            with one.connect(f"p{number}") as connection:
                connection.execute("select 1")
        assert kept.execute("select 1").fetchone() == (1,)
        import psutil

        assert psutil.Process(one.process.pid).num_threads() < 230
