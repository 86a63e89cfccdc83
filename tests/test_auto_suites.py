"""Faults of mode `auto` that the clients' own suites have found (tests/suites), each as the few lines that show it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.raw import FLUSH, SYNC, Raw, bind, close, execute, parse
from tests.servers import Daemon, daemon, until

TRUST: dict[str, Any] = {"auth": {"method": "trust"}, "users": {"backstage": {}}}
POOL = {"mode": "auto", "query_wait_timeout": "20s"}


@pytest.fixture(scope="module")
def double(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("auto"), base, **TRUST, pool=POOL | {"size": 2}) as running:
        yield running


@pytest.mark.parametrize("text", ["select pg_terminate_backend({})", "select pg_terminate_backend(%s)"])
@pytest.mark.parametrize("autocommit", [True, False], ids=["a server is dialled", "one is idle"])
def test_a_client_that_does_nothing_can_be_ended(double: Daemon, text: str, autocommit: bool) -> None:
    for _ in range(3):
        with double.connect("catalog") as victim, double.connect("catalog", autocommit=autocommit) as other:
            pid = victim.info.backend_pid
            other.execute("select 1")          # in a transaction: then the victim has had another server
            victim.execute("select 1")
            assert other.execute(text.format(pid), None if "{" in text else (pid,)).fetchone() == (True,)
            assert select.select([victim], [], [], 0)[0]      # it has been told before the other was
            with pytest.raises(psycopg.errors.AdminShutdown) as caught:
                victim.execute("select 1")
            assert caught.value.diag.severity_nonlocalized == "FATAL"


def test_who_ends_itself_along_with_others_hears_of_it(double: Daemon) -> None:
    with double.connect("catalog") as victim, double.connect("catalog") as other:
        victim.execute("select 1")
        with pytest.raises(psycopg.errors.AdminShutdown):
            other.execute(f"select pg_terminate_backend({victim.info.backend_pid}), pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(psycopg.errors.AdminShutdown):
            victim.execute("select 1")


def test_a_client_that_does_nothing_is_not_hurt_by_a_cancel(double: Daemon) -> None:
    with double.connect("catalog") as first, double.connect("catalog") as second:
        for _ in range(3):
            assert first.execute("select 1").fetchone() == (1,)
            assert second.execute("select pg_cancel_backend(%s)", (first.info.backend_pid,)).fetchone() == (True,)
        assert first.execute("select 1").fetchone() == (1,)
        until(lambda: double.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "all connections go back")


def test_who_strikes_does_not_wait_for_what_it_holds(double: Daemon) -> None:
    first, second, third = (double.connect("catalog", autocommit=False) for _ in "abc")
    with first, second, third:
        first.execute("select 1")
        second.execute("select 1")
        assert first.execute("select pg_terminate_backend(%s)", (third.info.backend_pid,)).fetchone() == (False,)
        second.rollback()
        assert third.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("binary", [False, True])
def test_a_setting_that_a_parameter_tells_keeps_no_connection(double: Daemon, binary: bool) -> None:
    """As asyncpg switches JIT off and on around its questions about types."""
    with double.connect("catalog") as client, double.connect("catalog") as other:
        for text, values, setting in (
                ("select current_setting('work_mem') as old, set_config('work_mem', '77kB', false) as new", (), ("work_mem", "77kB")),
                ("select set_config('work_mem', %s, false)", ("99kB",), ("work_mem", "99kB")),
                ("select pg_catalog.set_config(%s, %s::text, %s)", ("search_path", "ä, public", False), ("search_path", "ä, public")),
                ("select set_config('work_mem', %s, %s)", ("1MB", True), ("work_mem", "99kB")),
                ("select set_config('work_mem', %s, false)", (None,), ("work_mem", "4MB"))):
            client.cursor(binary=binary).execute(text.encode(), values)
            until(lambda: double.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "the connection goes back")
            with other.transaction():
                other.execute("set local work_mem to '5MB'")
                assert client.execute("select current_setting(%s)", (setting[0],)).fetchone() == (setting[1],)
        with client.transaction(force_rollback=True):
            client.execute("select set_config('work_mem', %s, false)", ("66kB",), prepare=True)
        assert client.execute("show work_mem").fetchone() == ("4MB",)
        client.execute("select set_config('work_mem', %s || 'B', false)", ("77k",))
        until(lambda: double.metric("switchboard_upstreams", plugin="catalog", state="active") == 1, "the connection stays")


@pytest.mark.parametrize("mode", ["transaction", "auto"])
@pytest.mark.parametrize("parts", [1, 2], ids=["at once", "one after the other"])
def test_a_flush_behind_a_sync_keeps_no_connection(base: dict[str, Any], tmp_path: Path, mode: str, parts: int) -> None:
    """As libpq ends a pipeline."""
    pool = {"mode": mode, "size": 1, "query_wait_timeout": "5s"}
    with daemon(tmp_path, base, **TRUST, pool=pool) as running, running.connect("catalog", prepare_threshold=None) as other:
        with Raw(running.port) as client:
            client.enter()
            for name in ("", "named") if mode == "auto" else ("",):
                for text in ("select 1", "select set_config('work_mem', '5MB', false)"):
                    batch = parse(text, name) + bind(name) + execute() + (close(name) if name else b"") + SYNC
                    for piece in (batch + FLUSH,) if parts == 1 else (batch, FLUSH):
                        client.send(piece)
                    client.until(b"Z")
                    assert other.execute("select 'served'").fetchone() == ("served",)
            client.send(FLUSH)
            assert client.shown("select 'here'") == "here"
        with other.pipeline():
            other.execute("select 1")
        if mode == "auto":                     # in mode transaction a prepared statement keeps the connection
            other.cursor().executemany("select %s", [(1,), (2,)])
        with running.connect("catalog") as third:
            assert third.execute("select 'served'").fetchone() == ("served",)


def test_prepared_statements_of_others_are_not_shown(double: Daemon) -> None:
    """And one's own are, by their own names, wherever the transaction runs."""
    view = "select name, statement, parameter_types, from_sql from pg_prepared_statements order by prepare_time, name"
    with double.connect("catalog") as first, double.connect("catalog") as second:
        second.execute("select 'of the second'", prepare=True)
        first.execute("select 1 as own", prepare=True)
        first.execute("select %s::int as own", (1,), prepare=True)
        second.execute("select 1 as own", prepare=True)
        mine = [("_pg3_0", "select 1 as own", [], False), ("_pg3_1", "select $1::int as own", ["smallint"], False)]
        for _ in range(2):
            with second.transaction():         # elsewhere
                assert first.execute(view).fetchall() == mine
            with first.transaction():
                assert first.execute(view).fetchall() == mine
                assert second.execute(view).fetchall() == [("_pg3_0", "select 'of the second'", [], False),
                                                           ("_pg3_1", "select 1 as own", [], False)]
        asked = ("select count(*), %s::text from pg_catalog.pg_prepared_statements s left join pg_prepared_statement() on false "
                 "where s.name <> ''")
        assert first.execute(asked, ("a",)).fetchone() == (2, "a")
        for asked in ("table pg_prepared_statements",
                      "select p.* from pg_class c, pg_catalog.pg_prepared_statements p where c.oid = 1259",
                      "with x as (select pg_prepared_statements from pg_prepared_statements) select * from x"):
            assert len(first.execute(asked.encode()).fetchall()) == 2
        first.execute("prepare sql as select 2")
        assert [row[0] for row in first.execute(view).fetchall()] == ["_pg3_0", "_pg3_1", "sql"]
        first.execute("deallocate all")
        assert first.execute(view).fetchall() == []
        with pytest.raises(psycopg.errors.UndefinedColumn):
            first.execute("select nowhere from pg_prepared_statements")


async def test_a_statement_that_shows_statements_is_kept_up_to_date(double: Daemon) -> None:
    client = await asyncpg.connect(double.dsn("catalog"))
    try:
        itself = "select statement from pg_prepared_statements where name <> $1 order by prepare_time"
        shown = await client.prepare(itself)
        assert [row[0] for row in await shown.fetch("")] == [itself]
        other = await client.prepare("select 'another'")
        for _ in range(2):
            assert [row[0] for row in await shown.fetch("")] == [itself, "select 'another'"]
        assert await other.fetchval() == "another"
    finally:
        await client.close()


async def test_a_number_in_a_prepared_text_means_who_serves_that_client_now(double: Daemon) -> None:
    first, second = [await asyncpg.connect(double.dsn("catalog")) for _ in "ab"]
    try:
        cancel = await first.prepare(f"select pg_cancel_backend({second.get_server_pid()})")
        for _ in range(3):
            sleeping = asyncio.ensure_future(second.execute("select pg_sleep(60)"))
            while not sleeping.done():
                await cancel.fetchval()
            with pytest.raises(asyncpg.QueryCanceledError):
                await sleeping
            await first.execute("select 1")
            await second.execute("select 1")
    finally:
        await first.close()
        await second.close()
