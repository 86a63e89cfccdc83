"""Queries written message by message, in both pool modes: every byte of the answers is PostgreSQL's own."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from proxy.wire.messages import message, parse_fields, query
from tests.raw import COPY_DONE, FLUSH, SYNC, TERMINATE, Raw, bind, close, copy_data, execute, parse
from tests.servers import Daemon, Postgres, daemon, until
from tests.tap import tapped


def tags(told: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(tag for tag, _ in told)


def state(told: list[tuple[bytes, bytes]]) -> str:
    return parse_fields(dict(told)[b"E"])["C"]


def run(text: str, *values: str) -> bytes:
    return parse(text) + bind("", *values) + execute()


def values(told: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [body[6:] for tag, body in told if tag == b"D"]


def test_flush_without_sync_answers_at_once(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.send(run("select 1") + FLUSH)
        assert tags(raw.until(b"C")) == b"12DC"
        raw.send(run("select 2") + FLUSH)
        assert values(raw.until(b"C")) == [b"2"]
        raw.send(SYNC)
        assert raw.read() == (b"Z", b"I")
        assert raw.shown("select 3") == "3"


def test_a_pipeline_keeps_its_server_beyond_a_sync(trusting: Daemon) -> None:
    """Behind the Sync stands a Parse already: the next messages belong to the same server."""
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.send(run("select pg_backend_pid()") + SYNC + parse("select pg_backend_pid()"))
        (first,) = values(raw.until(b"Z"))
        with Raw(trusting.port) as other:
            other.enter()
            other.ask("select 1")
        raw.send(bind() + execute() + SYNC)
        told = raw.until(b"Z")
        assert tags(told) == b"12DCZ"
        assert values(told) == [first]


def test_behind_an_error_everything_is_skipped_up_to_the_sync(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.send(run("select 1") + run("select 1/0") + run("select 2") + FLUSH)
        assert state(raw.until(b"E")) == "22012"
        raw.send(run("select 3") + close("x"))      # sent when the error has been seen: still skipped
        raw.send(SYNC)
        assert raw.read() == (b"Z", b"I")
        assert raw.shown("select 4") == "4"


def test_thousands_in_a_pipeline_and_every_tenth_fails(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        number = 5000
        raw.send(b"".join(run(f"select {at}" if at % 10 else f"select {at}/0") + SYNC for at in range(number)))
        for at in range(number):
            told = raw.until(b"Z")
            if at % 10:
                assert values(told) == [b"%d" % at]
            else:
                assert state(told) == "22012"


def test_statements_that_are_not_there_and_those_that_are_there_already(trusting: Daemon) -> None:
    """PostgreSQL answers an error and the session goes on."""
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.send(bind("nobody") + SYNC)
        assert state(raw.until(b"Z")) == "26000"
        raw.send(close("nobody") + SYNC)
        assert tags(raw.until(b"Z")) == b"3Z"
        raw.send(parse("select 1", "mine") + SYNC)
        assert tags(raw.until(b"Z")) == b"1Z"
        raw.send(parse("select 2", "mine") + SYNC)
        assert state(raw.until(b"Z")) == "42P05"
        raw.send(parse("select 3") + parse("select 4") + bind() + execute() + SYNC)
        assert values(raw.until(b"Z")) == [b"4"]
        raw.send(bind("mine") + execute() + close("mine") + SYNC)
        told = raw.until(b"Z")
        assert tags(told) == b"2DC3Z"
        assert values(told) == [b"1"]
        raw.send(bind("mine") + SYNC)
        assert state(raw.until(b"Z")) == "26000"


def test_a_parse_that_failed_works_later(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.ask("drop table if exists later")
        raw.send(parse("select count(*) from later", "early") + SYNC)
        assert state(raw.until(b"Z")) == "42P01"
        raw.ask("create table later (a int)")
        raw.send(parse("select count(*) from later", "early") + bind("early") + execute() + SYNC)
        assert values(raw.until(b"Z")) == [b"0"]


@pytest.mark.parametrize("word", ["deallocate all", "discard all", "deallocate mine"])
def test_deallocate_is_for_one_client_alone(trusting: Daemon, word: str) -> None:
    with Raw(trusting.port) as raw, Raw(trusting.port) as other:
        for each in (raw, other):
            each.enter()
            each.send(parse("select 1", "mine") + SYNC)
            assert tags(each.until(b"Z")) == b"1Z"
        raw.ask(word)
        raw.send(bind("mine") + SYNC)
        assert state(raw.until(b"Z")) == "26000"
        other.send(bind("mine") + execute() + SYNC)
        assert values(other.until(b"Z")) == [b"1"]


def test_names_and_texts_larger_than_any_buffer(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        name, word = "n" * 70_000, "w" * 700_000
        raw.send(parse(f"select length('{word}')", name) + bind(name) + execute() + SYNC)
        assert values(raw.until(b"Z")) == [b"700000"]
        assert raw.shown(f"select length('{word}')") == "700000"


def test_copy_that_fails_while_its_data_comes(trusting: Daemon) -> None:
    """What was meant for the COPY is thrown away, with and without a server behind it."""
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.ask("create table if not exists copied_in (a int)")
        for end in (COPY_DONE, message(b"f", b"enough\0")):
            raw.send(query("copy copied_in from stdin"))
            assert raw.read()[0] == b"G"
            raw.send(copy_data(b"no number\n"))
            assert state(raw.until(b"Z")) == "22P02"
            raw.send(copy_data(b"late\n" * 1000) * 20 + copy_data(b"late\n") + end)
            assert raw.shown("select 1") == "1"
        raw.send(query("copy copied_in from stdin"))
        raw.until(b"G")
        raw.send(copy_data(b"1\n") + message(b"f", b"enough\0"))
        assert state(raw.until(b"Z")) == "57014"
        assert raw.shown("select count(*) from copied_in") == "0"


def test_copy_in_the_extended_protocol(trusting: Daemon) -> None:
    """A Sync that was sent ahead is eaten by the COPY; the one behind it is not."""
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.ask("create table if not exists copied_ext (a int)")
        raw.ask("truncate copied_ext")
        raw.send(run("copy copied_ext from stdin") + SYNC)
        assert tags(raw.until(b"G")) == b"12G"
        raw.send(copy_data(b"1\n2\n") + COPY_DONE)
        raw.send(SYNC)
        assert tags(raw.until(b"Z")) == b"CZ"
        raw.send(run("copy copied_ext from stdin") + copy_data(b"3\n") + COPY_DONE + SYNC + run("select 7") + SYNC)
        assert tags(raw.until(b"Z")) == b"12GCZ"
        assert values(raw.until(b"Z")) == [b"7"]
        raw.send(run("copy copied_ext from stdin") + SYNC)
        raw.until(b"G")
        raw.send(copy_data(b"no number\n"))
        assert state(raw.until(b"E")) == "22P02"
        raw.send(copy_data(b"4\n") + COPY_DONE + SYNC)
        assert raw.read() == (b"Z", b"I")
        assert raw.shown("select count(*) from copied_ext") == "3"


def test_behind_a_copy_that_failed_nobody_else_gets_the_server(base: dict[str, Any], tmp_path: Path) -> None:
    """It discards everything up to a Sync: a stranger's query too."""
    with daemon(tmp_path, base, auth={"method": "trust"}, users={"backstage": {}},
                pool={"mode": "transaction", "size": 1}) as running, Raw(running.port) as raw, Raw(running.port) as other:
        raw.enter()
        other.enter()
        raw.ask("create table if not exists copied_fail (a int)")
        raw.send(run("copy copied_fail from stdin") + SYNC)
        raw.until(b"G")
        raw.send(copy_data(b"no number\n"))
        assert state(raw.until(b"E")) == "22P02"
        other.send(query("select 'mine'"))
        until(lambda: running.metric("switchboard_clients_waiting", plugin="catalog") == 1, "the other to wait")
        raw.send(copy_data(b"late\n"))
        raw.send(COPY_DONE + SYNC)
        assert raw.read() == (b"Z", b"I")
        assert values(other.until(b"Z")) == [b"mine"]


def test_function_calls(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        for number in (9, 16):
            call = struct.pack("!ihhhidh", 1344, 1, 1, 1, 8, number, 1)
            raw.send(message(b"F", call))        # dsqrt
            told = raw.until(b"Z")
            assert tags(told) == b"VZ"
            assert struct.unpack("!id", told[0][1]) == (8, number ** .5)
        raw.send(message(b"F", struct.pack("!ihhh", 1, 0, 0, 1)))
        assert state(raw.until(b"Z")) == "42883"
        assert raw.shown("select 1") == "1"


def test_many_statements_in_one_query_and_none(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        assert tags(raw.ask("")) == b"IZ"
        assert tags(raw.ask("select 1; select 2; select 3")) == b"TDCTDCTDCZ"
        assert tags(raw.ask("select 1; select 1/0; select 3")) == b"TDCEZ"
        assert tags(raw.ask("begin; select 1")) == b"CTDCZ"
        assert raw.ask("selec")[-1] == (b"Z", b"E")
        assert state(raw.ask("select 1")) == "25P02"
        assert raw.ask("rollback")[-1] == (b"Z", b"I")


def test_portals_that_are_read_in_pieces(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.enter()
        raw.send(parse("select generate_series(1, 10)") + bind() + execute(3) + execute(3) + execute(0) + SYNC)
        told = raw.until(b"Z")
        assert tags(told) == b"12" + b"DDDs" * 2 + b"DDDDCZ"
        raw.ask("begin")
        raw.ask("declare c cursor for select generate_series(1, 10)")
        assert values(raw.ask("fetch 2 from c")) == [b"1", b"2"]
        assert values(raw.ask("fetch all from c"))[-1] == b"10"
        raw.ask("commit")


def test_settings_are_compared_as_the_server_spells_them(trusting: Daemon) -> None:
    """Unusual spellings, and search_path, which must not be quoted twice."""
    with Raw(trusting.port) as one, Raw(trusting.port) as other:
        one.enter(DateStyle="iso, dmy", search_path='"My Schema", public', TimeZone="utc")
        other.enter(DateStyle="SQL", search_path='""')
        for _ in range(3):
            for raw, style, path in ((one, "ISO, DMY", '"My Schema", public'), (other, "SQL, MDY", '""')):
                assert (raw.shown("show datestyle"), raw.shown("show search_path")) == (style, path)


def test_equal_settings_cost_no_statement(base: dict[str, Any], tmp_path: Path) -> None:
    """What was asked for in another spelling is learnt once, and compared as the server tells it."""
    with tapped(base["connection"]["port"]) as tap:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, pool={"mode": "transaction", "size": 1}, auth={"method": "trust"},
                    users={"backstage": {}}) as running, Raw(running.port) as raw:
            raw.enter(DateStyle="iso", TimeZone="utc", client_encoding="utf8", application_name="mine")
            raw.ask("select 1")
            before = len(tap.sent)
            for _ in range(20):
                raw.ask("select 'equal'")
            assert bytes(tap.sent[before:]) == query("select 'equal'") * 20


def test_a_client_that_leaves_in_mid_answer_takes_its_server_along(trusting: Daemon, postgres: Postgres) -> None:
    """What it has not read must never reach another client."""
    for leave in (b"", TERMINATE):
        with Raw(trusting.port) as raw:
            raw.enter("events")
            raw.send(query("select generate_series(1, 5000000)") + leave)
            raw.read()
    with Raw(trusting.port) as raw:
        raw.enter("events")
        assert [raw.shown(f"select {number}") for number in range(20)] == [str(number) for number in range(20)]
    until(lambda: trusting.metric("switchboard_upstreams", plugin="events", state="active") == 0, "all to be given back")


def test_an_error_ends_a_session_only_if_it_is_fatal(trusting: Daemon) -> None:
    """57P01 passes with what follows: the end of the stream, and no second error."""
    with Raw(trusting.port) as raw:
        raw.enter()
        assert parse_fields(dict(raw.ask("select 1/0"))[b"E"])["S"] == "ERROR"
        raw.send(query("select pg_terminate_backend(pg_backend_pid())"))
        fault = parse_fields(raw.until(b"E")[-1][1])
        assert (fault["S"], fault["C"]) == ("FATAL", "57P01")
        assert raw.closed()


def test_messages_of_no_type_end_the_session(trusting: Daemon) -> None:
    for data in (b"?\0\0\0\4", b"Q\0\0\0\0", b"Q\xff\xff\xff\xff", b"\0\0\0\0\0\0\0"):
        with Raw(trusting.port) as raw:
            raw.enter()
            raw.send(data)
            fault = raw.refusal()
            assert (fault["S"], fault["C"]) == ("FATAL", "08P01")


def test_a_goodbye_behind_requests_is_the_last_that_is_heard(trusting: Daemon, postgres: Postgres) -> None:
    """PostgreSQL answers what came before it, whatever state that leaves behind, and closes."""
    with Raw(trusting.port) as raw:
        raw.enter("goodbye")
        raw.ask("create table if not exists told (a int)")
        raw.ask("truncate told")
    for data, want in ((query("insert into told values (1)"), b"CZ"), (query("begin; insert into told values (2)"), b"CCZ"),
                       (query("begin") + query("insert into told values (3)") + query("commit"), b"CZCZCZ"),
                       (query("copy told from stdin"), b"G"), (query("select 1/0"), b"EZ")):
        with Raw(trusting.port) as raw:
            raw.enter("goodbye")
            raw.send(data + TERMINATE)
            heard = b""
            while len(heard) < len(want):
                heard += raw.read()[0]
            assert heard.replace(b"T", b"").replace(b"D", b"") == want
            assert raw.closed()
    until(lambda: trusting.metric("switchboard_clients", plugin="goodbye") == 0, "all to have left")
    with Raw(trusting.port) as raw:
        raw.enter("goodbye")
        assert raw.shown("select string_agg(a::text, ',' order by a) from told") == "1,3"
