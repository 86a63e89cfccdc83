"""The rules of one client riding one lease, and that any cut of the stream gives the same answer."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ClientFault, UpstreamFault
from proxy.pool.tally import Tally
from proxy.session.link import IDLE, TERMINATE, THINK, Link
from proxy.wire.messages import fields, message, parameter_status, query, ready_for_query

SYNC, FLUSH, BYE = message(b"S"), message(b"H"), message(b"X")
BIND, EXECUTE = message(b"B", b"\0\0\0\0\0\0\0\0"), message(b"E", b"\0\0\0\0\0")
READY, IN_TRANSACTION, FAILED = ready_for_query(), ready_for_query(b"T"), ready_for_query(b"E")
COPY_IN = message(b"G", b"\0\0\0")
ROW = message(b"D", b"\0\1\0\0\0\2hi")


def parse(text: str, name: str = "") -> bytes:
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def link(*, watch: bool = True) -> Link:
    return Link(Tally("p", "s", "u"), watch=watch)


def client(rides: Link, data: bytes) -> int:
    return rides.from_client(bytearray(data), len(data))


def upstream(rides: Link, data: bytes) -> int:
    return rides.from_upstream(bytearray(data), len(data))


def test_a_query_is_owed_until_ready() -> None:
    rides = link()
    client(rides, query("select 1"))
    assert not rides.settled
    assert upstream(rides, ROW + READY) & IDLE
    assert rides.settled
    assert rides.tally.queries == rides.tally.transactions == 1


def test_a_transaction_keeps_the_lease() -> None:
    rides = link()
    client(rides, query("begin"))
    assert not upstream(rides, IN_TRANSACTION) & IDLE
    client(rides, query("selec"))
    assert not upstream(rides, FAILED) & IDLE
    client(rides, query("rollback"))
    assert upstream(rides, READY) & IDLE
    assert rides.tally.transactions == 1


def test_pipelined_requests_behind_a_sync_keep_the_lease() -> None:
    rides = link()
    client(rides, parse("select 1") + BIND + EXECUTE + SYNC + BIND)
    assert not upstream(rides, READY) & IDLE
    client(rides, EXECUTE + SYNC)
    assert upstream(rides, READY) & IDLE


def test_flush_alone_keeps_the_lease() -> None:
    rides = link()
    client(rides, parse("select 1") + FLUSH)
    assert not rides.settled


def test_a_ready_forged_in_a_row_is_data() -> None:
    rides = link()
    client(rides, query("select"))
    assert not upstream(rides, message(b"D", b"\0\1\0\0\0\6" + READY)) & IDLE


def test_sync_during_copy_is_eaten() -> None:
    rides = link()
    client(rides, parse("copy t from stdin") + BIND + EXECUTE + SYNC)
    upstream(rides, COPY_IN)
    client(rides, message(b"d", b"1\n") + message(b"c") + SYNC)
    assert list(rides.owed) == [ord("S")]
    assert upstream(rides, READY) & IDLE


def test_copy_sent_whole_before_the_server_speaks() -> None:
    rides = link()
    client(rides, parse("copy t from stdin") + BIND + EXECUTE + SYNC + message(b"d", b"1\n") + message(b"c") + SYNC)
    upstream(rides, COPY_IN)
    assert list(rides.owed) == [ord("S")]
    assert upstream(rides, READY) & IDLE


def test_a_copy_whose_data_needs_no_sync_eats_none() -> None:
    """Two Syncs behind it are two answers: a lease that went back after the first would take the second along."""
    rides = link()
    client(rides, parse("copy t from stdin") + BIND + EXECUTE + message(b"d", b"1\n") + message(b"c") + SYNC
           + parse("select 1") + BIND + EXECUTE + SYNC)
    upstream(rides, COPY_IN)
    assert not rides.copying
    assert not upstream(rides, READY) & IDLE
    assert upstream(rides, READY) & IDLE


def test_behind_a_copy_that_failed_the_server_waits_for_a_sync() -> None:
    rides = link()
    client(rides, parse("copy t from stdin") + BIND + EXECUTE + SYNC)
    upstream(rides, COPY_IN)
    client(rides, message(b"d", b"x\n"))
    upstream(rides, fields(b"E", {"S": "ERROR", "C": "22P02", "M": "bad"}))
    client(rides, message(b"d", b"late\n"))
    assert not rides.settled
    client(rides, message(b"c") + SYNC)
    assert upstream(rides, READY) & IDLE


def test_a_late_end_of_a_copy_is_forgotten() -> None:
    rides = link()
    client(rides, query("begin"))
    upstream(rides, ready_for_query(b"T"))
    client(rides, message(b"c") + query("copy t from stdin"))
    upstream(rides, COPY_IN)
    client(rides, message(b"c"))
    assert upstream(rides, READY) & IDLE
    assert not rides.owed


def test_simple_copy_that_fails() -> None:
    rides = link()
    client(rides, query("copy t from stdin"))
    upstream(rides, COPY_IN)
    client(rides, message(b"d", b"x\n"))
    assert upstream(rides, fields(b"E", {"S": "ERROR", "C": "22P02", "M": "bad"}) + READY) & IDLE
    assert rides.tally.errors["22"] == 1


@pytest.mark.parametrize(("data", "reason"), [
    (parse("select 1", "s1"), "prepared statement"),
    (query("LISTEN event_bus_publish"), "listen"),
    (query("select pg_advisory_lock(1)"), "advisory lock"),
    (query("create TEMP table x(a int)"), "temporary object"),
])
def test_what_pins(data: bytes, reason: str) -> None:
    rides = link()
    client(rides, data)
    assert rides.pinned == reason
    assert rides.tally.pins[reason] == 1
    assert link(watch=False).pinned is None


def test_set_makes_dirty() -> None:
    rides = link()
    client(rides, query("set work_mem = 1"))
    upstream(rides, message(b"C", b"SET\0") + READY)
    assert rides.dirty


def test_reported_settings_are_kept() -> None:
    rides = link()
    client(rides, query("set timezone = 'UTC'"))
    upstream(rides, parameter_status("TimeZone", "UTC") + READY)
    assert rides.reported == [("TimeZone", "UTC")]


def test_databases_are_thought_about() -> None:
    rides = link(watch=False)
    assert client(rides, query("DROP DATABASE x")) & THINK
    assert rides.statement is not None
    assert b"DROP DATABASE x" in rides.statement


def test_goodbye_is_cut_off() -> None:
    rides = link()
    data = query("select 1")
    assert client(rides, data + BYE) & TERMINATE
    assert rides.cut == len(data)


@pytest.mark.parametrize("data", [b"!\0\0\0\4", b"Q\0\0\0\3", b"Q\xff\xff\xff\xff"])
def test_nonsense_from_a_client(data: bytes) -> None:
    with pytest.raises(ClientFault):
        client(link(), data)


def test_nonsense_from_a_server() -> None:
    with pytest.raises(UpstreamFault):
        upstream(link(), b"D\0\0\0\1")


REQUESTS = st.sampled_from([query("select 1"), query("x" * 700), parse("select 2") + BIND + EXECUTE + SYNC, SYNC,
                            message(b"F", b"\0\0\0\1\0\0\0\0\0\0"), message(b"d", b"x" * 300), message(b"c")])
ANSWERS = st.sampled_from([ROW * 40, message(b"D", b"y" * 900), READY, IN_TRANSACTION, message(b"C", b"SET\0"),
                           parameter_status("TimeZone", "UTC"), fields(b"E", {"S": "ERROR", "C": "23505"}),
                           message(b"1"), message(b"d", b"z" * 100) * 30])


def state(rides: Link) -> tuple[object, ...]:
    return (list(rides.owed), rides.status, rides.open, rides.copying, rides.reported, rides.c_left, rides.u_left,
            rides.tally.queries, rides.tally.from_client, rides.tally.from_upstream, dict(rides.tally.errors))


@given(st.lists(REQUESTS, max_size=6), st.lists(ANSWERS, max_size=8), st.data())
def test_cuts_do_not_matter(requests: list[bytes], answers: list[bytes], data: st.DataObject) -> None:
    whole, cut = link(), link()
    for feed, stream in ((client, b"".join(requests)), (upstream, b"".join(answers))):
        if not stream:
            continue
        feed(whole, stream)
        at = 0
        while at < len(stream):
            size = data.draw(st.integers(1, 400))
            feed(cut, stream[at:at + size])
            at += size
        assert state(whole) == state(cut)


@given(st.binary(min_size=1, max_size=300))
def test_strangers_bytes_parse_or_fault(data: bytes) -> None:
    with contextlib.suppress(ClientFault):
        client(link(), data)
    with contextlib.suppress(UpstreamFault):
        upstream(link(), data)


def test_headers_are_big_endian() -> None:
    assert struct.unpack(">I", SYNC[1:]) == (4,)


@pytest.mark.parametrize("body", [b"", b"II", b"I" * 5000])
def test_a_ready_for_query_of_another_length_is_the_servers_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault, match="ReadyForQuery of length"):
        upstream(link(), message(b"Z", body))


def test_a_long_parameter_status_may_be_cut_and_an_endless_one_is_refused() -> None:
    rides, value = link(), "s" * 20_000
    told = parameter_status("search_path", value)
    for at in range(0, len(told), 1000):
        upstream(rides, told[at:at + 1000])
    assert rides.reported == [("search_path", value)]
    with pytest.raises(UpstreamFault, match="ParameterStatus of length"):
        upstream(rides, parameter_status("search_path", "s" * 70_000)[:100])


def test_a_long_fatal_error_cut_behind_its_header_is_fatal() -> None:
    rides, told = link(), fields(b"E", {"S": "FATAL", "C": "57P01", "M": "m" * 9000})
    upstream(rides, told[:5])
    upstream(rides, told[5:])
    assert rides.fatal
    assert rides.tally.errors["57"] == 1
