"""Faults of mode `auto` that the oracle has found (tests/oracle), each as the shortest script that showed it."""

from __future__ import annotations

from tests.oracle.stage import Stage
from tests.oracle.steps import Ask, B, Batch, D, E, Enter, P, S, Step


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
    same(oracle, (0, Enter()), (0, Batch((P("select a from x", "s"), S(), P("select a from x", "t"), S(), B("s"), E(),
        S(), D("t", "S")))))
    same(oracle, (0, Enter()), (0, Batch((P("select 1", "s"), S(), P("select 1", "t"), P("select 1", "u"), B("s"), E(),
        B("t"), E(), B("u")))))
