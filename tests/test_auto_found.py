"""Faults of mode `auto` that the oracle has found (tests/oracle), each as the shortest script that showed it."""

from __future__ import annotations

from tests.oracle.stage import Stage
from tests.oracle.steps import Ask, B, Batch, Copy, D, E, Enter, P, S, Step


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
        same(oracle, (0, begun), (1, Enter()), (0, text), (1, "select current_user"), (0, "select current_user, current_setting('role')"))


def test_a_copy_that_was_looked_at_is_over(oracle: Stage) -> None:
    for waits in (True, False):
        same(oracle, (0, Enter((("client_encoding", "latin1"),))), (1, Enter()),
             (0, Copy("copy t0 (a, b) from stdin; select 1", ("1\tx\n",), waits=waits)), (1, "select a, b from t0"))
