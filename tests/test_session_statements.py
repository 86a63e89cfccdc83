"""What a text does to a session: tables of texts, and properties that hold for every text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.session.consequences import (
    Authorization,
    Bound,
    Change,
    Configure,
    Deallocate,
    Defaults,
    Discard,
    Doubt,
    Effect,
    Execute,
    Listen,
    Notify,
    OwnPid,
    OwnState,
    Pin,
    Prepare,
    Reason,
    Reset,
    ResetAll,
    Role,
    Set,
    Transaction,
    Unlisten,
    Unpin,
    What,
)
from proxy.session.statements import LONGEST, ordinary, read, statements
from proxy.session.tokens import Kind, decode, encode, tokens

T = Reason.TEMPORARY
CODE = Reason.CODE
KNOWN: list[tuple[str, list[Effect]]] = [
    ("", []),
    (" ; ;; -- nothing\n /* at /* all */ */ ;", []),
    ("set search_path to a", [Set("search_path", "a")]),
    ("SET Search_Path = 'A', \"B\"\"b\", c; select 1", [Set("search_path", "'A', \"B\"\"b\", c")]),
    ("set local x.y to default", [Set("x.y", None, True)]),
    ("set session.x = 'a'", [Set("session.x", "'a'")]),
    ("set session statement_timeout = 5", [Set("statement_timeout", "5")]),
    ("set x = -1.5", [Set("x", "-1.5")]),
    ("set datestyle to iso, dmy", [Set("datestyle", "iso, dmy")]),
    (r"set x = E'a\'b\\'", [Set("x", r"E'a''b\\'")]),
    (r"set x = 'a\'", [Set("x", r"E'a\\'")]),
    ("set x = $$it's$$", [Set("x", "'it''s'")]),
    ("set x from current", [Pin(Reason.OBSCURE)]),
    ("set x = U&'\\0061'", [Pin(Reason.OBSCURE)]),
    ("set search_path = public, pg_temp", [Set("search_path", "public, pg_temp"), Pin(T, "pg_temp in search_path")]),
    ("set time zone 'UTC'", [Set("timezone", "'UTC'")]),
    ("set time zone local", [Set("timezone", None)]),
    ("set time zone interval '-08:00' hour to minute", [Set("timezone", "interval '-08:00' hour to minute")]),
    ("set names 'utf8'", [Set("client_encoding", "'utf8'")]),
    ("set names", [Set("client_encoding", None)]),
    ("set schema 'x'", [Set("search_path", "'x'")]),
    ("set xml option document", [Set("xmloption", "document")]),
    ("set session characteristics as transaction isolation level repeatable read, not deferrable read write",
     [Set("default_transaction_isolation", "'repeatable read'"), Set("default_transaction_deferrable", "off"),
      Set("default_transaction_read_only", "off")]),
    ("set transaction isolation level serializable", []),
    ("set constraints all deferred", []),
    ("set transaction_isolation = 'serializable'", []),
    ("set seed = 0.5", [Pin(Reason.SEED, "seed")]),
    ("set role bob", [Role("bob")]),
    ("SET LOCAL ROLE 'Bob'", [Role("Bob", True)]),
    ("set role none", [Role("none")]),
    ("set role = 'bob'", [Role("bob")]),
    ("set session authorization \"B\"", [Authorization("B")]),
    ("set local session authorization default", [Authorization(None, True)]),
    ("reset session authorization", [Authorization(None)]),
    ("reset role", [Role(None)]),
    ("reset all", [ResetAll()]),
    ("reset time zone", [Reset("timezone")]),
    ("reset \"X\".y", [Reset("x.y")]),
    ("discard all", [Discard(What.ALL)]),
    ("discard temp", [Discard(What.TEMPORARY)]),
    ("select set_config('X.y', 'it''s', false)", [Configure("x.y", "it's")]),
    ("SELECT pg_catalog.set_config('search_path', '', false);", [Configure("search_path", "")]),
    ("select set_config('a','b',true) as a, set_config('role', 'bob', true)", [Configure("a", "b", True), Role("bob", True)]),
    ("select set_config($1, $2, true)", [Configure(None, None, True)]),
    ("select set_config($1, $2, false)", [Bound(0, 1, False)]),
    ("select set_config('a', $2::text, $1::bool), set_config('b', 'c', false)", [Bound("a", 1, 0), Configure("b", "c")]),
    ("select set_config('a', $1 || 'b', false)", [Pin(Reason.SETTING, "set_config")]),
    ("select set_config($1::int, 'a', false)", [Pin(Reason.SETTING, "set_config")]),
    ("select current_setting('jit') as cur, set_config('jit', 'off', false) as new", [Configure("jit", "off")]),
    ("select current_setting('jit'), my(), set_config('jit', 'off', false)",
     [Doubt(Reason.CODE, "my"), Pin(Reason.SETTING, "set_config")]),
    ("select unnest(array[1]), set_config('jit', 'off', false)", [Pin(Reason.SETTING, "set_config")]),
    ("select set_config('a', 'b', false) from t", [Pin(Reason.SETTING, "set_config")]),
    ("select * from t where set_config('a', 'b', x) is null", [Pin(Reason.SETTING, "set_config")]),
    ("update pg_settings set setting = 'x' where name = 'y'", [Pin(Reason.SETTING, "update pg_settings")]),
    ("begin isolation level serializable; commit and no chain",
     [Transaction(Change.BEGIN), Transaction(Change.COMMIT)]),
    ("start transaction; end work and chain", [Transaction(Change.BEGIN), Transaction(Change.COMMIT_CHAIN)]),
    ("savepoint \"A\"; release a; rollback to savepoint b; abort",
     [Transaction(Change.SAVEPOINT, "A"), Transaction(Change.RELEASE, "a"), Transaction(Change.ROLLBACK_TO, "b"),
      Transaction(Change.ROLLBACK)]),
    ("prepare transaction 'x'; commit prepared 'x'", [Transaction(Change.PREPARE), Transaction(Change.FINISH_PREPARED)]),
    ("LISTEN \"Ä\"; unlisten b; unlisten *; notify c, 'x'", [Listen("Ä"), Unlisten("b"), Unlisten(None), Notify("c")]),
    ("select pg_notify('c', 'x')", [Notify("c")]),
    ("prepare p (int, text[]) as select $1, $2", [Prepare("p", "int, text[]", "select $1, $2")]),
    ("execute p(1, mine(2))", [Doubt(CODE, "mine"), Execute("p")]),
    ("deallocate prepare p; deallocate all", [Deallocate("p"), Deallocate(None)]),
    ("create temp table t (a int)", [Pin(T, "create temporary")]),
    ("create or replace local temporary view t as select 1", [Pin(T, "create temporary")]),
    ("create temp table t (a int) on commit drop", [Pin(T, "create temporary"), Unpin(T, "on commit drop")]),
    ("create table pg_temp.t (a int)", [Pin(T, "pg_temp")]),
    ("create function pg_temp.f() returns int language sql as 'select 1'", [Pin(T, "pg_temp")]),
    ("select 1 as a into temp t", [Pin(T, "select into temp")]),
    ("with a as (select 1) select * into local temporary table t from a", [Pin(T, "select into temp")]),
    ("insert into temp values (1)", []),
    ("create table t (a int) partition by range (a)", []),
    ("create table t (a int) partition by list (f(a))", [Doubt(Reason.CODE, "f")]),
    ("create table t as select sum(1) over (partition by hash(a)) from u", [Doubt(Reason.CODE, "hash")]),
    ("select a from t offset (1 + 1) rows fetch first (1 + 1) rows only", []),
    ("select first(a) from t", [Doubt(Reason.CODE, "first")]),
    ("create extension if not exists \"uuid-ossp\" with schema public", []),
    ("create extension btree_gin", []), ("alter extension hstore update", []),
    ("create extension pg_trgm", [Doubt(Reason.CODE, "create extension")]),
    ("alter extension postgis update", [Doubt(Reason.CODE, "alter extension")]),
    ("explain (analyze, buffers) create temp table x as select 1", [Pin(T, "create temporary")]),
    ("drop table t", [Unpin(T, "drop")]),
    ("declare c cursor with hold for select 1", [Pin(Reason.HOLD, "with hold")]),
    ("declare c no scroll cursor without hold for select 1", []),
    ("close c", [Unpin(Reason.HOLD, "close")]),
    ("load 'auto_explain'", [Pin(Reason.LIBRARY, "load")]),
    ("select pg_advisory_lock(1)", [Pin(Reason.ADVISORY, "pg_advisory_lock")]),
    ("select pg_catalog . \"pg_try_advisory_lock_shared\" /* x */ (1)",
     [Pin(Reason.ADVISORY, "pg_try_advisory_lock_shared")]),
    ("select pg_advisory_xact_lock(1)", []),
    ("select pg_advisory_unlock(1)", [Unpin(Reason.ADVISORY, "pg_advisory_unlock")]),
    ("select U&\"\\0070g_advisory_lock\"(1)", [Doubt(CODE, 'U&"..."')]),
    ("select currval('s')", [Pin(Reason.SEQUENCE, "currval")]),
    ("select nextval('s')", []),
    ("select setseed(0.1)", [Pin(Reason.SEED, "setseed")]),
    ("select public.dblink_connect('x')", [Pin(Reason.EXTENSION, "dblink_connect")]),
    ("select pg_backend_pid()", [OwnPid("pg_backend_pid", 7, 21)]),
    ("select 'ä', pg_catalog.pg_cancel_backend($1)", [OwnPid("pg_cancel_backend", 13, 41)]),
    ("select * from pg_stat_activity", [OwnState(What.BACKEND)]),
    ("select pg_listening_channels()", [OwnState(What.CHANNELS)]),
    ("table pg_prepared_statements", [OwnState(What.PREPARED)]),
    ("select mine(1)", [Doubt(CODE, "mine")]),
    ("select public.lower('a')", [Doubt(CODE, "public.lower")]),
    ("select public . lower('a')", [Doubt(CODE, "public.lower")]),
    ("do $$ begin end $$", []),
    ("do $$ begin execute x; end $$", [Doubt(CODE, "do")]),
    ("do $$ begin perform own(1); end $$", [Doubt(CODE, "own")]),
    ("call p(1)", [Doubt(CODE, "p")]),
    ("call abs(1)", [Doubt(CODE, "call")]),
    ("select query_to_xml('select 1', true, true, '')", [Doubt(CODE, "query_to_xml")]),
    ("alter role bob set search_path = x", [Defaults()]),
    ("alter system set work_mem = '1MB'", [Defaults()]),
    ("alter role bob login", []),
    ("repack t", [Pin(Reason.UNKNOWN, "repack")]),
    ("listen 'x", [Pin(Reason.OBSCURE)]),
    ("create function f() returns int begin atomic select case when true then 1 end; select 1 as case; end; listen x", [Listen("x")]),
    ("create view v as select begin atomic; listen x", [Listen("x")]),
    ("create rule r as on insert to t do (notify a; notify b); listen x", [Listen("x")]),
]

ORDINARY = [
    "select * from t where lower(a) = 'b' order by 1 limit 10",
    "select count(*), sum(x)::numeric(10,2), coalesce(a, now()) from \"t\" group by 2;",
    'insert into "final_entities" ("entity_id", "hash") values ($1, $2) on conflict ("entity_id") do update set "hash" = $2',
    "update t set a = nextval('s') where id in (select id from u for update skip locked) returning *",
    "delete from t using u where t.id = u.id",
    "with recursive x(a) as (select 1 union all select 2 from x where a < 2) select rank() over (partition by a order by a) from x",
    "select count(*) filter (where a) from t join (select 1) b on true",
    "select * from jsonb_to_recordset($1) as x(a int, b text)",
    "select a.b, format('%s (%s)', a, b) from unnest($1::text[], $2::int[]) as t(a, b)",
    "create table if not exists \"a\" (id serial primary key, v varchar(3), unique (v), constraint c check (id > 0))",
    "create index i on a.t using gin (v jsonb_path_ops) include (b) where lower(v) = 'a'",
    "alter table t add column c timestamp(3) default now(), add foreign key (c) references u (d)",
    "copy t (a, b) from stdin", "truncate t", "vacuum (analyze) t", "lock table t", "show search_path", "fetch all from c",
    "comment on table t is 'listen (temp)'", "grant select (a) on t to bob", "explain (analyze) select 1",
    "select n.nspname from pg_catalog.pg_class c where c.relname operator(pg_catalog.~) '^(t)$' collate pg_catalog.default",
    "select 'listen x; set role y', $$ discard all; $$, 'mine(1)'",
]


@pytest.mark.parametrize(("text", "effects"), KNOWN)
def test_what_is_known(text: str, effects: list[Effect]) -> None:
    assert list(read(text.encode())) == effects


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_leave_nothing(text: str) -> None:
    assert read(text.encode()) == ()


@pytest.mark.parametrize("text", ORDINARY[:3])
def test_backstage_is_read_at_a_glance(text: str) -> None:
    assert ordinary(text.encode())


def test_strings_depend_on_the_setting() -> None:
    text = rb"select 'a\'; listen x; --'"
    assert read(text) == (Listen("x"),)
    assert read(text, conforming=False) == ()


def test_statements_have_their_places() -> None:
    text = "select 'ä' ; listen b; ".encode()
    assert [text[one.start:one.end] for one in statements(text)] == ["select 'ä'".encode(), b"listen b"]


def test_what_is_too_long_is_not_read() -> None:
    assert read(b"select 1" + b" " * LONGEST) == (Pin(Reason.LENGTH),)


PIECES = st.sampled_from([
    "select", "set", "listen", "x", "a$b", "'", "''", "\\", '"', "$$", "$a$", "$1", ";",
    "(", ")", "--", "/*", "*/", "\n", " ", "E'", "U&'",
    'u&"', "b'", "N'", "1e", "1", ".", ",", "=", "begin", "atomic", "end", "case", "create function",
    "\x80", "ä", "pg_temp", "temp", "::"])


@given(st.lists(PIECES, max_size=40).map(" ".join) | st.lists(PIECES, max_size=40).map("".join) | st.binary(max_size=80).map(decode))
@settings(max_examples=300, deadline=None)
def test_any_text_is_cut_whole(text: str) -> None:
    """Nothing raises, nothing is lost or told twice, and a glance never says less than the tokens do."""
    assert decode(encode(text)) == text
    at = 0
    for token in tokens(text):
        assert at <= token.start < token.end <= len(text)
        at = token.end
        if token.kind == Kind.BROKEN:
            assert token.end == len(text)
    found = [effect for one in statements(encode(text)) for effect in one.effects]
    if ordinary(encode(text)) and not any(isinstance(effect, Pin) and effect.reason is Reason.OBSCURE for effect in found):
        assert found == []


def quoted(text: str, how: int) -> str:
    return ["'" + text.replace("'", "''") + "'", "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'", f"$q${text}$q$",
            f"/* {text.replace('*/', '').replace('/*', '')} */ 1", '"' + text.replace('"', '""') + '"'][how]


@given(st.sampled_from([(text, effects) for text, effects in KNOWN if effects and "'x" not in text[-3:] and "U&" not in text]),
       st.lists(PIECES, max_size=12).map("".join), st.integers(0, 4), st.randoms())
@settings(max_examples=300, deadline=None)
def test_nothing_hides_behind_quotes_comments_or_case(case: tuple[str, list[Effect]], noise: str, how: int, chance: object) -> None:
    text, effects = case
    if any(isinstance(effect, OwnPid) for effect in effects):
        return
    noise = noise.replace("$q$", "").replace("\x00", "")
    before = f"select {quoted(noise, how)}; /* {chr(10)} /* */ */ -- '\n "
    found = [effect for one in statements((before + text + "; select 1").encode())[1:] for effect in one.effects]
    assert found == effects
