"""Mode `auto`: functions of a database's own are read, and what they do decides whether the connection is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.session.bodies import of_do, of_plpgsql
from proxy.session.consequences import Doubt, Notify, Reason
from proxy.session.routines import Routines, judge
from proxy.session.tokens import tokens
from tests.servers import Daemon, daemon
from tests.test_auto import POOL, TRUST, idle, kept

FUNCTIONS = """
    create table if not exists counted (n int);
    create or replace function plain(a int) returns int language sql as 'select a + 1';
    create or replace function calls_plain(a int) returns int language plpgsql as $$
      declare b varchar(10) := plain(a);
      begin
        if a > 3 and b is not null then perform pg_notify('x', b); end if;
        for i in 1..a loop update counted set n = n + plain(i); end loop;
        insert into counted values (a) on conflict do nothing;
        return calls_plain_too(a) + 1;
      end $$;
    create or replace function calls_plain_too(a int) returns int language plpgsql as $$ begin return plain(a); end $$;
    create or replace function sets() returns text language sql as $$ select set_config('app.who', 'me', false) $$;
    create or replace function calls_sets() returns int language plpgsql as $$ begin perform sets(); return 1; end $$;
    create or replace function makes_up(what text) returns int language plpgsql as $$ begin execute what; return 1; end $$;
    create or replace function overloaded(a int) returns int language sql as 'select a';
    create or replace function overloaded(a text) returns text language sql as $$ select set_config('app.who', a, false) $$;
    create or replace procedure proceeds(a int) language plpgsql as $$ begin delete from counted where n = a; commit; end $$;
"""


@pytest.fixture(scope="module")
def narrow(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("routines"), base, **TRUST, pool=POOL | {"size": 1}) as running:
        with running.connect("catalog") as connection:
            connection.execute(FUNCTIONS)
        yield running


@pytest.mark.parametrize("statement", [
    "select plain(1)", "select public.plain(1)", "select calls_plain(4)", "select calls_plain(plain(2)), plain(3)", "call proceeds(1)",
    "do $$ begin perform calls_plain(1); end $$", "do $$ begin raise notice 'x %', plain(1); end $$",
    "begin; select plain(1); commit"])
def test_harmless_functions_keep_nothing(narrow: Daemon, statement: str) -> None:
    with narrow.connect("catalog") as first, narrow.connect("catalog") as second:
        for _ in range(2):
            first.execute(statement)  # type: ignore[call-overload]
            second.execute("select 'served'")
            assert idle(narrow)


@pytest.mark.parametrize("statement", [
    "select sets()", "select calls_sets()", "select makes_up('set work_mem = 1000')", "select overloaded(1)",
    "do $$ begin execute 'listen x'; end $$", "do $$ begin set work_mem = 1000; end $$", "do $$ begin perform sets(); end $$"])
def test_others_keep_the_connection_until_all_is_discarded(narrow: Daemon, statement: str) -> None:
    with narrow.connect("catalog") as first, narrow.connect("catalog") as second:
        for _ in range(2):
            first.execute(statement)  # type: ignore[call-overload]
            assert kept(narrow)
            assert first.execute("select 'still'").fetchone() == ("still",)
            first.execute("discard all")
            second.execute("select 'served'")


def test_a_function_that_is_replaced_is_read_again(narrow: Daemon) -> None:
    with narrow.connect("catalog") as first, narrow.connect("catalog") as second:
        for number in range(3):
            second.execute("create or replace function changes() returns text language sql as $$ select 'nothing' $$")
            first.execute("select changes()")
            second.execute("create or replace function changes() returns text language sql"
                           " as $$ select set_config('app.who', 'first', false) $$")
            assert first.execute("select changes()").fetchone() == ("first",)
            assert kept(narrow), number
            first.execute("discard all")
            assert idle(narrow)


def test_what_was_made_and_dropped_again_is_not_forgotten(narrow: Daemon) -> None:
    with narrow.connect("catalog") as first:
        first.execute("create function brief() returns text language sql as $$ select set_config('app.who', 'brief', false) $$;"
                      " select brief(); drop function brief()")
        assert kept(narrow)
        first.execute("discard all")
        with pytest.raises(psycopg.errors.UndefinedFunction):
            first.execute("select never_was(1)")
        assert idle(narrow)


@pytest.mark.parametrize(("language", "extension", "source", "clean", "needs"), [
    ("c", "pgcrypto", "pg_digest", True, set()), ("c", "", "mine", False, set()), ("plpython3u", "", "x", False, set()),
    ("sql", "", "select f(g(1)); insert into t values (lower('a'))", True, {"f", "g"}),
    ("sql", "", "set local x = 1; select 1", False, set()), ("sql", "", "", False, set()), ("sql", "", "select 'open", False, set()),
    ("plpgsql", "", "begin if ready(x) then return f(y); elsif other() then perform s.g(1); end if; while w() loop null; end loop; end",
     True, {"ready", "f", "other", "g", "w"}),
    ("plpgsql", "", "<<set>> begin return 1; end", True, set()), ("plpgsql", "", "begin <<a>> set x = 1; end", False, set()),
    ("plpgsql", "", "begin update t set x = 1; set x = 1; end", False, set()),
    ("plpgsql", "", "begin assert f(1), g(2); raise notice '%', h(3); exit when i(4); end", True, {"f", "g", "h", "i"}),
    ("plpgsql", "", "begin return query execute 'x'; end", False, set()), ("plpgsql", "", "begin 'open", False, set())])
def test_one_function(language: str, extension: str, source: str, clean: bool, needs: set[str]) -> None:
    found = judge(language, extension, source)
    assert (found.clean, set(found.needs)) == (clean, needs)


def test_what_is_known_ends() -> None:
    now = [0.0]
    routines = Routines(lambda: now[0])
    row = [b"f", b"sql", None, b"select g(1)"]
    assert routines.missing(["f"]) == ("f",)
    assert routines.learn([row]) == {"f"}
    assert routines.missing(["s.f"]) == ("g",)
    routines.learn([[b"g", b"sql", None, b"select 1"]])
    assert routines.harmless("f")
    now[0] = 61.0
    assert not routines.harmless("f")
    routines.learn([row, [b"g", b"sql", None, b"select 1"], [b"g", b"c", None, b"x"]])
    assert routines.missing(["f"]) is None


def test_blocks() -> None:
    def of(text: str) -> Any:
        return of_do(list(tokens(text)))
    assert of("$$ begin perform f(1); notify x; end $$") == (Doubt(Reason.CODE, "f"),)
    assert of("language plpgsql 'begin perform pg_notify(''x'', ''y''); end'") == (Notify("x"),)
    for odd in ("language plpython3u 'x'", "$$ begin $$ $$ end $$", "$$ begin create temp table t (); end $$", "1"):
        assert of(odd) == (Doubt(Reason.CODE, "do"),)
    assert of_plpgsql("begin begin") == ()
