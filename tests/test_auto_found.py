"""Faults of mode `auto` that the oracle has found (tests/oracle), each as the shortest script that showed it."""

from __future__ import annotations

from tests.oracle.stage import Stage
from tests.oracle.steps import Ask, B, Batch, C, Cancelled, Copy, D, E, Enter, Leave, P, S, Step


def same(both: Stage, *steps: tuple[int, Step | str], width: int = 1) -> None:
    script = tuple((client, Ask(step) if isinstance(step, str) else step) for client, step in steps)
    assert both.differences(script, width) == ""


def test_a_setting_of_the_beginning_is_told_when_another_statement_resets_something_else(oracle: Stage) -> None:
    same(oracle, (0, Enter((("application_name", "app"),))), (0, "set application_name to 'other'; discard plans"),
         (0, "set search_path to default; set application_name to 'third'"), (0, "reset all; set application_name to 'fourth'"))


def test_what_was_told_of_a_setting_is_over_when_it_is_reset(oracle: Stage) -> None:
    same(oracle, (0, Enter((("DateStyle", "German"),))), (0, Batch((P("set datestyle = sql, mdy"), B(), E()))), (0, "discard all"),
         (0, "show datestyle"))
    same(oracle, (0, Enter((("application_name", "app"),))), (0, "set application_name to ''"), (0, "reset application_name"),
         (0, "show application_name"))


def test_what_the_client_began_with_is_the_servers_own(oracle: Stage) -> None:
    for name, value, other in (("client_encoding", "UTF8", "latin1"), ("client_encoding", "utf8", "latin1"),
                               ("DateStyle", "iso", "sql")):
        for back in ("discard all", "reset all", f"reset {name}"):
            same(oracle, (0, Enter(((name, value),))), (0, f"set {name} to {other}"), (0, back))


def test_a_text_that_does_not_parse_keeps_no_connection(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (1, Enter()), (0, r"select 'a\'' || 'b'"), (1, "select 1"), (0, "selec"), (1, "select 2"))


def test_what_is_thrown_away_behind_an_error_keeps_no_connection(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (1, Enter()), (0, Batch((P("select 1/0"), B(), E(), P("select plain(1)"), B(), E()))), (1, "select 1"))


def test_a_shared_statement_that_was_not_prepared_after_all(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (0, Batch((P("select a from x", "s"), S(), P("select a from x", "t"), S(), B("s"), S(), D("t", "S")))))
    same(oracle, (0, Enter()), (0, Batch((P("select 1", "s"), S(), P("select 1", "t"), P("select 1", "u"), B("s"), E(), B("t"), E()))))


def test_a_role_of_the_startup_packet_is_what_reset_returns_to(oracle: Stage) -> None:
    begun = Enter((("options", "-c role=oracle_a"),))
    for text in ("discard all", "reset session authorization", "reset role", "set role none", "set role oracle_b; reset role"):
        same(oracle, (0, begun), (1, Enter()), (0, text), (1, "select current_user"),
             (0, "select current_user, current_setting('role')"))


def test_a_copy_that_was_looked_at_is_over(oracle: Stage) -> None:
    for waits in (True, False):
        same(oracle, (0, Enter((("client_encoding", "latin1"),))), (1, Enter()),
             (0, Copy("copy t0 (a, b) from stdin; select 1", ("1\tx\n",), waits=waits)), (1, "select a, b from t0"))


def test_a_suspended_portal_has_run(oracle: Stage) -> None:
    setting = P("select set_config('search_path', 's2, s1', false)")
    same(oracle, (0, Enter()), (1, Enter()), (0, Batch((setting, B(portal="p"), E("p", 1)))), (1, "show search_path"),
         (0, "show search_path"))
    same(oracle, (0, Enter()), (0, "begin"), (0, Batch((setting, B(portal="p"), E("p", 1)))), (0, "set search_path to s1"),
         (0, Batch((E("p"),))), (0, "commit"), (0, "show search_path"), width=2)


def test_a_second_statement_of_a_name(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (0, Batch((P("set standard_conforming_strings to off", "s"), P("select 1; select 2", "s")))))
    same(oracle, (0, Enter()), (0, Batch((P("select nosuch", "s"), S(), P("select 1", "s"), B("s"), E()))), (0, Batch((B("s"), E()))))
    same(oracle, (0, Enter()), (0, Batch((P("select 2", "s"), S(), P("select 1", "s"), S(), B("s"), E()))), (0, Batch((B("s"), E()))))


def test_what_an_error_threw_away_made_and_closed_no_statement(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (0, Batch((P("select 2", "t"), D("x", "S"), P("select 2", "s"), S(), P("select 1", "s"), B("s"), E()))))
    same(oracle, (0, Enter()), (0, Batch((P("select 2", "t"),))), (0, Batch((D("none", "S"), P("select 2", "s"), S(), B("s"), E()))))
    same(oracle, (0, Enter()), (0, Batch((P("select 2", "t"), S(), D("none", "S"), C("t"), S(), P("select 1", "t"), B("t"), E()))))


def test_settings_come_back_with_several_told_at_once(oracle: Stage) -> None:
    same(oracle, (0, Enter((("search_path", "s2,public"),))), (0, "set search_path to ''; set role oracle_a"), (0, "discard all"))


def test_a_query_ends_the_unnamed_statement_of_a_lease_before(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (0, Batch((P("select 1"),))), (0, "select 2"), (0, Batch((B(portal="p"),))))


def test_what_follows_a_reset_in_its_message_finds_what_the_session_began_with(oracle: Stage) -> None:
    for path in ("s2,public", "s2, public"):
        begun = Enter((("search_path", path), ("TimeZone", "Asia/Tokyo")))
        same(oracle, (0, begun), (0, "begin"), (0, "set local search_path to default"), (0, "select at from place"), (0, "commit"))
        same(oracle, (0, begun), (1, Enter()), (1, "show search_path"), (0, "reset timezone; show timezone; selec"),
             (0, "reset timezone; select 'é', nosuch"), (0, "reset timezone; show search_path"))
        same(oracle, (0, begun), (0, "set search_path to s1; reset all; select at from place; set timezone to default; show timezone"))
        for text in ("reset all", "discard all"):
            same(oracle, (0, begun), (0, "set search_path to s1"),
                 (0, Batch((P(text), B(), E(), P("select at from place"), B(), E()))))
        same(oracle, (0, begun), (0, "begin; set search_path to s1"), (0, "reset search_path"), (0, "rollback"),
             (0, "show search_path"), (1, Enter()), (1, "show search_path"), (0, "reset all"))


def test_two_executions_of_what_was_not_prepared_keep_no_connection(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (1, Enter()), (0, Batch((P("selec"), B(), E("", 1), E("", 1)))), (1, "select 1"))


def test_a_half_of_datestyle_meets_the_other_that_belongs_to_it(oracle: Stage) -> None:
    same(oracle, (0, Enter((("datestyle", "dmy"), ("options", "-c datestyle=sql")))), (0, "show datestyle"))
    same(oracle, (0, Enter((("datestyle", "dmy"),))), (1, Enter()), (1, "set datestyle to german"), (0, "show datestyle"),
         (0, "set datestyle to sql"), (0, "reset datestyle; show datestyle"))
    same(oracle, (1, Enter()), (1, "set datestyle to german"), (0, Enter((("datestyle", "sql"),))), (0, "show datestyle"),
         (1, "show datestyle"), (0, "set datestyle to 'iso, ymd'"), (0, "reset all"))
    for _ in range(2):                        # the second time what the client is told is known, and the server is a new one
        same(oracle, (0, Enter((("DateStyle", "German"),))), (0, "set datestyle to dmy; select 1"))
    for options in ("-c datestyle=sql -c datestyle=ymd -cDateStyle=iso", "-c datestyle=mdy -c datestyle=german",
                    "-c datestyle=german -c datestyle=mdy"):
        same(oracle, (0, Enter((("options", options),))), (0, "show datestyle"))


def test_a_setting_of_ones_own_making_is_known_to_who_has_made_it(oracle: Stage) -> None:
    """For ever, whatever becomes of it: '' where others read NULL."""
    both: tuple[tuple[int, Step | str], ...] = ((0, Enter()), (1, Enter()))
    see = "select current_setting('fresh.x', true)"
    for width in (1, 2):
        same(oracle, *both, (0, "set fresh.x to 'a'"), (1, see), (0, see), (1, "show fresh.x"), (0, "show fresh.x"), (1, see),
             width=width)
    same(oracle, *both, (0, "begin"), (0, "set local fresh.x to 'a'"), (0, "rollback"), (1, see), (0, see), (1, "set fresh.y to 1"),
         (0, see), (1, see), (0, "select current_setting('fresh.y', true)"))
    same(oracle, *both, (0, Batch((P("select set_config('fresh.x', $1, true)"), B("", ("5",)), E()))), (1, see), (0, see))
    for text in ("reset fresh.x", "set fresh.x to default", "with x as (select set_config('fresh.x', 'u', true)) select * from x",
                 "set fresh.x to 'a'; discard plans", "set fresh.x to 'a'; select 1/0"):
        same(oracle, *both, (0, text), (1, see), (0, see))
    same(oracle, (0, Enter((("options", "-c fresh.x=2"),))), (1, Enter()), (0, see), (1, see), (0, see), (0, "reset all"), (0, see),
         (0, "set fresh.x to 3; rollback"), (0, see))
    same(oracle, *both, (0, "set fresh.x to 'a'"), (0, "create temp table x (a int)"), (0, "begin"), (0, Leave(False)), (1, see))


def test_currval_tells_what_its_transaction_was_given(oracle: Stage) -> None:
    both: tuple[tuple[int, Step | str], ...] = (
        (0, Enter()), (1, Enter()), (1, "insert into t1 (a) values (1)"), (0, "begin"))
    for text in ("select nextval('t0_id_seq')", "insert into t0 (a) values (1)"):
        for asks in ("select currval('t0_id_seq')", "select lastval()", "select currval(pg_get_serial_sequence('t0', 'id'))",
                     "select currval('nosuch')"):
            same(oracle, *both, (0, text), (0, asks), (0, "commit"), (0, asks))
        same(oracle, *both, (0, text), (0, Batch((P("select lastval(), currval('t0_id_seq'::regclass)"), B(), E()))), (0, "commit"))
    same(oracle, *both, (0, "insert into t0 (a) values (1)"), (0, "select currval('t1_id_seq')"))
    same(oracle, *both, (0, "insert into log (a) values (1)"), (0, "select lastval()"))
    same(oracle, *both[:3], (0, "insert into t0 (a) values (1); select lastval(), currval('t0_id_seq'::regclass)"))


def test_what_others_have_prepared_cannot_be_prepared_in_a_failed_transaction(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (1, Enter()), (0, Batch((P("select 1", "s"), S()))), (1, "begin"), (1, "select 1/0"),
         (1, Batch((P("select 1", "t"), B("t"), E()))), (1, Batch((P("rollback", "u"), B("u"), E()))),
         (1, Batch((P("select 1", "t"), B("t"), E()))), (0, Batch((B("s"), E()))))


def test_a_setting_spelt_otherwise_comes_back_with_its_transaction(oracle: Stage) -> None:
    for name, value, other in (("client_encoding", "latin1", "UTF8"), ("TimeZone", "asia/tokyo", "UTC"),
                               ("DateStyle", "german", "iso")):
        same(oracle, (0, Enter(((name, value),))), (0, "begin"), (0, f"set {name} to '{other}'"), (0, "rollback"), (0, f"show {name}"))


def test_the_unnamed_statement_behind_an_error(oracle: Stage) -> None:
    for first in ("select 1/0", "select nosuch"):
        for last in ("select 4", "set work_mem to '8MB'"):
            same(oracle, (0, Enter()), (0, Batch((P("set work_mem to '9MB'"), B(), E(), P(first), B(), E(), P(last), B(), E()))),
                 (0, Batch((B(), E()))))
    for begun in (Enter(), Enter((("options", "-c standard_conforming_strings=off"),))):
        same(oracle, (0, begun), (0, Cancelled(Batch((P("select pg_sleep(30)"), B(), E(), P("select 1"), B(), E())))),
             (0, Batch((D("", "S"),))), (0, Batch((B(),))))


def test_a_close_that_an_error_threw_away(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (0, Batch((P("select set_config('work_mem', $1, false)"), E(), C("", "S"), S(), B()))))


def test_copy_of_a_query_calls_nothing(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (1, Enter()), (0, "create schema if not exists s1; copy (select 1) to stdout"), (1, "select 1"))


def test_execute_of_nothing_keeps_no_connection(oracle: Stage) -> None:
    same(oracle, (0, Enter()), (1, Enter()), (0, "execute q"), (1, "select 1"), (0, Batch((P("execute q"), B(), E()))), (1, "select 1"))


def test_who_listens_after_the_listening_connection_was_lost_by_nobody(oracle: Stage) -> None:
    """Each script begins with the end of all connections; the proxy's listening one is kept for a while when its last client goes."""
    for _ in range(2):
        same(oracle, (0, Enter()), (1, Enter()), (0, "listen news"), (1, "notify news, 'x'"), (0, "select 1"))


def test_a_setting_of_ones_own_making_that_code_sets(oracle: Stage) -> None:
    both: tuple[tuple[int, Step | str], ...] = ((0, Enter()), (1, Enter()))
    see = "select current_setting('my.own', true)"
    made = "create or replace function f0() returns text language plpgsql as $$ begin return set_config('my.own', 'x', true); end $$"
    again = "create or replace function g0() returns text language sql as $$ select f0() $$"
    same(oracle, *both, (0, made), (0, "select f0()"), (1, see), (0, see), (0, again), (1, "select g0()"), (0, see), (1, see))
    for text in ("select set_config('my.own', 'x', false) union all select 'a'", "do $$ begin set my.own to 'x'; end $$",
                 "do $$ begin perform set_config('my.own', 'x', false); end $$"):
        same(oracle, *both, (0, text), (0, "discard all"), (1, see))
        same(oracle, *both, (0, text), (0, Leave()), (1, see))
