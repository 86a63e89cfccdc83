"""Mode `auto`: several clients on fewer connections, each as if it had one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from proxy.wire.messages import message, query
from tests.raw import Raw
from tests.servers import Daemon, Postgres, daemon, until
from tests.tap import tapped

TRUST: dict[str, Any] = {"auth": {"method": "trust"}, "users": {"backstage": {}}}
POOL = {"mode": "auto", "query_wait_timeout": "20s"}


@pytest.fixture(scope="module")
def narrow(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One connection for everybody."""
    with daemon(tmp_path_factory.mktemp("auto"), base, **TRUST, pool=POOL | {"size": 1}) as running:
        yield running


@pytest.fixture(scope="module")
def double(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("auto2"), base, **TRUST, pool=POOL | {"size": 2}) as running:
        yield running


def two(proxy: Daemon, **more: Any) -> tuple[psycopg.Connection[Any], psycopg.Connection[Any]]:
    return tuple(proxy.connect("catalog", autocommit=True, **more) for _ in "ab")  # type: ignore[return-value]


def show(connection: psycopg.Connection[Any], what: str) -> str:
    row = connection.execute(f"select current_setting('{what}')").fetchone()
    assert row is not None
    return str(row[0])


def idle(proxy: Daemon) -> bool:
    """Nobody keeps the connection."""
    until(lambda: proxy.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "the connection goes back")
    return True


def kept(proxy: Daemon) -> bool:
    until(lambda: proxy.metric("switchboard_upstreams", plugin="catalog", state="active") == 1, "the connection stays")
    return True


@pytest.mark.parametrize(("statement", "name", "value"), [
    ("set search_path to pg_catalog, public", "search_path", "pg_catalog, public"),
    ("""set search_path to "pg_temp", 'we"ird', public""", "search_path", 'pg_temp, "we""ird", public'),
    ("SET TIME ZONE 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"),
    ("set time zone interval '+03:30' hour to minute", "TimeZone", "<+03:30>-03:30"),
    ("set datestyle to German", "DateStyle", "German, DMY"),
    ("set session work_mem = '7MB'", "work_mem", "7MB"),
    ("set statement_timeout to 12345", "statement_timeout", "12345ms"),
    ("select set_config('app.tenant', 'it''s', false)", "app.tenant", "it's"),
    ("set my.own to 'x'; set lock_timeout = '3s'", "lock_timeout", "3s"),
    ("set application_name to 'me'", "application_name", "me"),
    ("set session characteristics as transaction isolation level serializable", "default_transaction_isolation", "serializable")])
def test_a_setting_is_its_clients_alone(narrow: Daemon, statement: str, name: str, value: str) -> None:
    first, second = two(narrow)
    with first, second:
        second.execute("select 1")
        before = second.execute("select current_setting(%s, true)", (name,)).fetchone()
        first.execute(statement)
        assert second.execute("select current_setting(%s, true)", (name,)).fetchone() in (before, ("",))
        assert show(first, name) == value
        assert idle(narrow)


def test_a_transaction_takes_its_settings_with_it(narrow: Daemon) -> None:
    first, second = two(narrow)
    with first, second:
        first.execute("set work_mem to '1MB'")
        first.execute("begin")
        first.execute("savepoint early")
        first.execute("set work_mem to '2MB'")
        first.execute("savepoint late")
        first.execute("set work_mem to '3MB'")
        first.execute("rollback to late")
        assert show(first, "work_mem") == "2MB"
        first.execute("rollback to early")
        assert show(first, "work_mem") == "1MB"
        first.execute("set work_mem to '5MB'")
        first.execute("commit")
        assert show(second, "work_mem") == "4MB"
        assert show(first, "work_mem") == "5MB"
        first.execute("begin; set work_mem to '6MB'")
        with pytest.raises(psycopg.errors.DivisionByZero):
            first.execute("select 1/0")
        first.execute("rollback")
        assert show(second, "work_mem") == "4MB"
        assert show(first, "work_mem") == "5MB"
        first.execute("begin; set local work_mem to '6MB'")
        assert show(first, "work_mem") == "6MB"
        first.execute("commit")
        assert show(first, "work_mem") == "5MB"
        with pytest.raises(psycopg.errors.DivisionByZero):
            first.execute("set work_mem to '9MB'; select 1/0")       # one transaction, as the server has it
        assert show(second, "work_mem") == "4MB"
        assert show(first, "work_mem") == "5MB"


def test_roles_do_not_mix(narrow: Daemon, postgres: Postgres) -> None:
    postgres.sql("do $$ begin create role auto_a; create role auto_b; exception when duplicate_object then null; end $$")
    first, second = two(narrow)
    with first, second:
        first.execute("set role auto_a")
        second.execute("set role auto_b")
        for connection, role in ((first, "auto_a"), (second, "auto_b")) * 3:
            assert connection.execute("select current_user").fetchone() == (role,)
        first.execute("reset role")
        assert first.execute("select current_user").fetchone() == ("postgres",)
        second.execute("set session authorization auto_a")
        assert second.execute("select session_user, current_user").fetchone() == ("auto_a", "auto_a")
        assert first.execute("select session_user, current_user").fetchone() == ("postgres", "postgres")


def test_what_a_client_begins_with_comes_back(narrow: Daemon) -> None:
    with narrow.connect("catalog", autocommit=True, application_name="one",
                        options="-c work_mem=8MB -csearch_path=pg_catalog --lock-timeout=4s") as first, \
            narrow.connect("catalog", autocommit=True, application_name="two") as second:
        for _ in range(2):
            assert [show(first, name) for name in ("application_name", "work_mem", "search_path", "lock_timeout")] == [
                "one", "8MB", "pg_catalog", "4s"]
            assert [show(second, name) for name in ("application_name", "work_mem", "lock_timeout")] == ["two", "4MB", "0"]
            first.execute("set work_mem to '1MB'")
            assert show(first, "work_mem") == "1MB"
            first.execute("reset work_mem")
            assert show(first, "work_mem") == "8MB"
            first.execute("begin")
            first.execute("reset all")
            assert show(first, "work_mem") == "8MB"
            first.execute("rollback")
            first.execute("discard all")
        assert first.info.parameter_status("application_name") == "one"


def test_what_would_be_lost_keeps_the_connection(narrow: Daemon) -> None:
    first, second = two(narrow)
    for reason, keeps, frees in [
            ("temporary object", "create temp table t (a int)", "drop table t"),
            ("temporary object", "select 1 as a into temp t", "discard temp"),
            ("advisory lock", "select pg_advisory_lock(7)", "select pg_advisory_unlock(7)"),
            ("cursor with hold", "declare c cursor with hold for select 1", "close c"),
            ("listen", "listen news", "unlisten news"),
            ("prepared statement", "prepare p as select 1", "deallocate p"),
            ("advisory lock", "select pg_try_advisory_lock(8)", "discard all")]:
        before = narrow.metric("switchboard_pins_total", plugin="catalog", reason=reason)
        first.execute(keeps)
        assert kept(narrow)
        until(lambda: narrow.metric("switchboard_pins_total", plugin="catalog", reason=reason) == before + 1, "counted")  # noqa: B023
        first.execute(frees)
        assert idle(narrow), keeps
        assert second.execute("select 1").fetchone() == (1,)
    assert narrow.log.count('reason="advisory lock"') == 1       # in the first minute; the metric counts the rest
    narrow.logged('a client keeps its connection.* plugin=catalog user=backstage reason="temporary object" why="create temporary"')
    first.close()
    second.close()


def test_what_a_transaction_ends_keeps_nothing(narrow: Daemon) -> None:
    first, second = two(narrow)
    with first, second:
        with first.transaction():
            first.execute("create temp table t (a int) on commit drop")
            first.execute("insert into t values (1)")
        assert idle(narrow)
        with pytest.raises(psycopg.errors.DivisionByZero), first.transaction():
            first.execute("create temp table t (a int)")
            first.execute("select 1/0")
        assert idle(narrow)
        with first.transaction():
            first.execute("select pg_advisory_xact_lock(9)")
        assert idle(narrow)
        assert second.execute("select 1").fetchone() == (1,)


def test_code_that_we_do_not_know_keeps_the_connection(narrow: Daemon) -> None:
    first, second = two(narrow)
    with first:
        first.execute("create or replace function auto_hidden() returns void language sql as"
                      " $$ select set_config('app.x', 'secret', false) $$")
        first.execute("select auto_hidden()")
        assert kept(narrow)
        assert show(first, "app.x") == "secret"
    with second:
        assert second.execute("select current_setting('app.x', true)").fetchone() in ((None,), ("",))


def test_prepared_statements_are_shared_and_belong_to_their_clients(narrow: Daemon, postgres: Postgres) -> None:
    first, second = two(narrow)
    with first, second:
        for _ in range(3):
            for connection, offset in ((first, 1), (second, 2)):
                assert connection.execute("select %s::int + 1", (offset,), prepare=True).fetchone() == (offset + 1,)
                assert connection.execute(f"select %s::text || {offset}", ("x",), prepare=True).fetchone() == (f"x{offset}",)
            assert idle(narrow)
        (names,) = second.execute("select array_agg(name order by name) from pg_prepared_statements").fetchone() or ((),)
        assert names == ["_pg3_0", "_pg3_1"]     # its own; on the server the first is the other client's, too
        first.execute("discard all")
        assert second.execute("select %s::int + 1", (5,), prepare=True).fetchone() == (6,)


def test_a_driver_that_throws_its_statements_away(narrow: Daemon) -> None:
    first, second = two(narrow)
    with first, second:
        first.prepared_max = second.prepared_max = 2
        for turn in range(12):
            for connection in (first, second):
                assert connection.execute(f"select {turn % 5}, %s::int", (turn,), prepare=True).fetchone() == (turn % 5, turn)


async def test_asyncpg_with_its_own_cache(narrow: Daemon) -> None:
    clients = [await asyncpg.connect(narrow.dsn("catalog"), statement_cache_size=3) for _ in range(4)]
    await clients[0].execute("create table if not exists auto_rows (a int, b text)")

    async def work(client: asyncpg.Connection[Any], which: int) -> None:
        for number in range(30):
            assert await client.fetchval(f"select $1::int + {number % 7}", which) == which + number % 7
            async with client.transaction():
                await client.execute("insert into auto_rows values ($1, $2)", number, str(which))
            with pytest.raises(asyncpg.DivisionByZeroError):
                await client.fetchval("select 1 / $1::int", 0)

    await asyncio.gather(*(work(client, which) for which, client in enumerate(clients)))
    assert await clients[1].fetchval("select count(*) from auto_rows") >= 120
    await clients[1].execute("drop table auto_rows")
    for client in clients:
        await client.close()


def test_statements_of_others_are_not_to_be_had(narrow: Daemon) -> None:
    with Raw(narrow.port) as first, Raw(narrow.port) as second:
        for raw in (first, second):
            raw.enter()
        sync, execute = message(b"S"), message(b"E", b"\0\0\0\0\0")
        first.send(message(b"P", b"\0select 'mine'\0\0\0") + message(b"P", b"s\0select 'named'\0\0\0") + sync)
        first.until(b"Z")
        for name in (b"", b"s"):
            second.send(message(b"B", b"\0" + name + b"\0\0\0\0\0\0\0") + execute + sync)
            (tag, body), *_ = second.until(b"Z")
            assert tag == b"E"
            assert b"C26000\0" in body
            told = b'prepared statement "s" does not exist' if name else b"unnamed prepared statement does not exist"
            assert told in body
        for name in (b"", b"s"):
            first.send(message(b"B", b"\0" + name + b"\0\0\0\0\0\0\0") + execute + sync)
            assert [tag for tag, _ in first.until(b"Z")] == [b"2", b"D", b"C", b"Z"]
        first.send(message(b"P", b"s\0select 2\0\0\0") + message(b"P", b"t\0select 3\0\0\0") + sync)
        (tag, body), *rest = first.until(b"Z")
        assert tag == b"E"
        assert b'C42P05\0' in body
        assert b'prepared statement "s" already exists' in body
        assert [tag for tag, _ in rest] == [b"Z"]
        first.send(message(b"B", b"\0t\0\0\0\0\0\0\0") + sync)
        assert first.until(b"Z")[0][0] == b"E"


def test_nothing_is_left_of_a_client_that_went_away(narrow: Daemon) -> None:
    for text in ("set work_mem to '1MB'", "begin; set work_mem to '1MB'", "create temp table t (a int)",
                 "begin; set local work_mem to '1MB'; create temp table t (a int)", "select pg_advisory_lock(1)",
                 "set role pg_monitor", "listen x", "prepare p as select 1"):
        first = narrow.connect("catalog", autocommit=True)
        first.execute(text)
        first.close()
        with narrow.connect("catalog", autocommit=True) as second:
            assert show(second, "work_mem") == "4MB"
            seen = ("select current_user, to_regclass('pg_temp.t'), (select count(*) from pg_listening_channels()),"
                    " (select count(*) from pg_prepared_statements where from_sql),"
                    " (select count(*) from pg_locks where locktype = 'advisory')")
            # A server process whose connection was closed, and not cleaned, takes a moment to end.
            until(lambda second=second, seen=seen: second.execute(seen).fetchone() == ("postgres", None, 0, 0, 0),
                  f"nothing left of {text}")


def test_defaults_that_change_reach_new_sessions_only(narrow: Daemon, postgres: Postgres) -> None:
    first, second = two(narrow)
    with first, second:
        first.execute("select 1")
        first.execute("alter database backstage_plugin_catalog set work_mem to '9MB'")
        with narrow.connect("catalog", autocommit=True) as third:
            assert show(third, "work_mem") == "9MB"
        second.execute("alter database backstage_plugin_catalog reset work_mem")


def test_simple_and_extended_in_one_breath(narrow: Daemon) -> None:
    """Consequences in the middle of what was sent ahead."""
    with Raw(narrow.port) as raw, Raw(narrow.port) as other:
        for each in (raw, other):
            each.enter()

        def extended(text: bytes) -> bytes:
            return message(b"P", b"\0" + text + b"\0\0\0") + message(b"B", b"\0" * 8) + message(b"E", b"\0" * 5)

        raw.send(extended(b"select 1") + extended(b"set work_mem to '3MB'") + extended(b"show work_mem") + message(b"S")
                 + query("select 2") + query("set work_mem to '2MB'") + query("show work_mem"))
        answers = [raw.until(b"Z") for _ in range(4)]
        assert [body for tag, body in answers[0] if tag == b"D"] == [b"\0\1\0\0\0\1" b"1", b"\0\1\0\0\0\3" b"3MB"]
        assert [body for tag, body in answers[3] if tag == b"D"] == [b"\0\1\0\0\0\3" b"2MB"]
        other.send(query("show work_mem"))
        assert [body for tag, body in other.until(b"Z") if tag == b"D"] == [b"\0\1\0\0\0\3" b"4MB"]
        raw.send(query("show work_mem"))
        assert [body for tag, body in raw.until(b"Z") if tag == b"D"] == [b"\0\1\0\0\0\3" b"2MB"]


def test_a_replay_costs_no_round_trip(base: dict[str, Any], tmp_path: Path) -> None:
    """What brings the connection to where the client is and the client's request are sent in one breath."""
    with tapped(base["connection"]["port"]) as tap:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, **TRUST, pool=POOL | {"size": 1}) as running, Raw(running.port) as raw:
            raw.enter()
            other = running.connect("catalog", autocommit=True)
            raw.ask("set work_mem to '3MB'")
            other.execute("set work_mem to '2MB'")
            tap.open.clear()                   # the server answers nothing
            before = len(tap.sent)
            raw.send(query("select 'it is here'"))
            until(lambda: b"it is here" in tap.sent[before:], "the request at the server")
            assert b"""BEGIN; SET "work_mem" TO '3MB'; COMMIT""" in tap.sent[before:]
            tap.open.set()
            assert [tag for tag, _ in raw.until(b"Z")] == [b"T", b"D", b"C", b"Z"]
            raw.send(query("commit"))          # ends what a failed replay would leave: waits for it
            assert [tag for tag, _ in raw.until(b"Z")] == [b"N", b"C", b"Z"]
            other.close()


def test_a_replay_that_fails_runs_nothing(narrow: Daemon) -> None:
    first, second = two(narrow)
    with second:
        second.execute("create role auto_gone; create table if not exists auto_done (a int)")
        second.execute("grant all on auto_done to auto_gone; revoke all on auto_done from auto_gone")
        first.execute("set role auto_gone")
        second.execute("drop role auto_gone")
        with pytest.raises(psycopg.Error, match='role "auto_gone" does not exist') as caught:
            first.execute("insert into auto_done values (1)")
        assert caught.value.sqlstate == "22023"
        assert first.closed
        assert second.execute("select count(*) from auto_done").fetchone() == (0,)
        second.execute("drop table auto_done")


@pytest.mark.parametrize(("settings", "asked"), [
    ({"keepalive_after": 0.000001}, False), ({"keepalive_after": 0.000001, "check_delay": "0s"}, True),
    ({"keepalive_after": "1h"}, True), ({"keepalive_after": "0s"}, True)])
def test_keepalives_take_no_connection(
        base: dict[str, Any], tmp_path: Path, settings: dict[str, Any], asked: bool) -> None:
    with tapped(base["connection"]["port"]) as tap:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, **TRUST, pool=POOL | {"size": 2} | settings) as running, Raw(running.port) as raw:
            raw.enter()
            raw.ask("select 2")
            for text in ("select 1", "SELECT 1;"):
                answer = raw.ask(text + " ")   # not one of them
                before = len(tap.sent)
                assert raw.ask(text) == answer
                assert (len(tap.sent) > before) is asked
            raw.ask("begin")
            before = len(tap.sent)
            assert raw.ask("select 1")[-1] == (b"Z", b"T")
            assert len(tap.sent) > before


async def test_what_is_prepared_after_a_change_of_the_schema_knows_it(double: Daemon) -> None:
    """Statements are shared, their results are not: who prepares after DDL gets what is there then; who had prepared before is told."""
    first, second, third = [await asyncpg.connect(double.dsn("catalog")) for _ in range(3)]
    await first.execute("create table auto_changed (a int); insert into auto_changed values (1)")
    text = "select * from auto_changed"
    assert await first.fetch(text) == await second.fetch(text) == [(1,)]
    await third.execute("alter table auto_changed add column b text default 'new'")
    assert await third.fetch(text) == [(1, "new")]
    assert await first.fetch(text) == [(1, "new")]              # asyncpg prepares again when it is told
    async with second.transaction():
        with pytest.raises(asyncpg.InvalidCachedStatementError):
            await second.fetch(text)
    assert await second.fetch(text) == [(1, "new")]
    begun = first.transaction()
    await begun.start()
    await first.execute("alter table auto_changed add column c int default 3")
    assert await first.fetch(text + " where true") == [(1, "new", 3)]
    await begun.rollback()
    assert await third.fetch(text + " where true") == [(1, "new")]
    await first.execute("drop table auto_changed")
    for each in (first, second, third):
        await each.close()


async def test_notifications_come_from_clients(double: Daemon) -> None:
    first, second = [await asyncpg.connect(double.dsn("catalog")) for _ in range(2)]
    heard: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    await first.add_listener("auto_news", lambda _c, pid, _channel, payload: heard.put_nowait((pid, str(payload))))
    await second.execute("notify auto_news, 'from another'")
    await first.execute("select pg_notify('auto_news', 'from myself')")
    pids = {text: pid for pid, text in [await asyncio.wait_for(heard.get(), 30) for _ in range(2)]}
    assert pids == {"from another": second.get_server_pid(), "from myself": first.get_server_pid()}
    for each in (first, second):
        await each.close()


async def test_a_statement_of_the_driver_has_its_name_in_sql(narrow: Daemon) -> None:
    first, second = [await asyncpg.connect(narrow.dsn("catalog")) for _ in range(2)]
    kept = await first.prepare("select $1::int + 1", name="mine")
    await first.fetchval("select 1")            # a batch without its Sync keeps the connection
    await second.fetch("discard all")
    assert await first.fetchval("execute mine(41)") == 42
    assert await first.execute("execute mine(1)") == "SELECT 1"
    assert kept.get_name() == "mine"
    with pytest.raises(asyncpg.InvalidSQLStatementNameError):
        await second.fetchval("execute mine(41)")
    for each in (first, second):
        await each.close()


@pytest.mark.parametrize("prepare", [False, True])
def test_sequences_of_others_are_not_told(narrow: Daemon, prepare: bool) -> None:
    """A client's first currval() keeps its connection, and finds nothing of what others have left there."""
    first, second = two(narrow)
    with first:
        first.execute("create sequence if not exists auto_numbers")
        first.execute("select nextval('auto_numbers')")
        with second:
            for text in ("select currval('auto_numbers')", "select lastval()"):
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not yet defined in this session"):
                    second.execute(text, prepare=prepare)
            row = second.execute("select nextval('auto_numbers'), currval('auto_numbers'), lastval()", prepare=prepare).fetchone()
            assert row is not None
            assert row[0] == row[1] == row[2]
            assert kept(narrow)
            second.execute("discard sequences")
        assert first.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("how", [{"options": "-c standard_conforming_strings=off"}, {}])
def test_strings_are_read_as_the_server_reads_them(double: Daemon, how: dict[str, str]) -> None:
    """Where a backslash escapes, this is a call; read the other way it is a string."""
    first, second = double.connect("catalog", autocommit=True, **how), double.connect("catalog", autocommit=True)
    with first, second:
        if not how:
            first.execute("set standard_conforming_strings to off")
        first.execute(rb"select 'x\' , ' || set_config('lc_time','POSIX',false) -- '")
        assert show(first, "lc_time") == "POSIX"
        assert show(second, "lc_time") != "POSIX"  # a connection of its own would not have it
