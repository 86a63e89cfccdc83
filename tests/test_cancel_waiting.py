"""A cancel for who waits in the queue: the first request fails as at the server, and the session goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.session.queued import UpToSync, first_request, flushed
from proxy.wire.messages import message, parse_fields, query
from tests.raw import COPY_DONE, FLUSH, SYNC, TERMINATE, bind, copy_data, execute, parse
from tests.servers import Daemon, Postgres, daemon, until
from tests.test_cancel import TRUST, Canceller


@pytest.fixture(scope="module", params=["transaction", "auto"])
def narrow(request: pytest.FixtureRequest, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One connection for everybody."""
    with daemon(tmp_path_factory.mktemp("narrow"), base, **TRUST, pool={"mode": request.param, "size": 1}) as running:
        yield running


def waiting(running: Daemon, count: int = 1) -> None:
    until(lambda: running.metric("switchboard_clients_waiting", plugin="catalog") == count, "who waits")


@pytest.mark.parametrize("request_", [
    query("select 1"), parse("select 1") + bind() + execute() + SYNC, parse("nonsense") + SYNC + FLUSH,
    query("copy t from stdin") + copy_data(b"1\n") + COPY_DONE, query("select 1") + b"Q\0\0", SYNC,
    query("set work_mem to '6MB'"), parse("select 1", "named") + bind("named") + execute() + SYNC, query("begin; listen x")])
def test_it_fails_and_the_session_goes_on(narrow: Daemon, request_: bytes) -> None:
    with Canceller(narrow.port) as holder, Canceller(narrow.port) as client:
        holder.ask("begin")
        client.send(request_)
        waiting(narrow)
        client.cancel()
        told = client.until(b"Z")
        assert [tag for tag, _ in told] == [b"E", b"Z"]
        assert told[1][1] == b"I"
        fields = parse_fields(told[0][1])
        assert (fields["S"], fields["C"], fields["M"]) == ("ERROR", "57014", "canceling statement due to user request")
        if request_.endswith(b"Q\0\0"):
            client.send(query("select 'goes on'")[3:])
        elif request_.endswith(FLUSH):
            client.send(SYNC + query("select 'goes on'"))
        else:
            waiting(narrow, 0)
            client.send(query("select 'goes on'"))
        waiting(narrow)
        holder.ask("commit")
        if request_.endswith(FLUSH):
            client.until(b"Z")
        assert dict(client.until(b"Z"))[b"D"].endswith(b"goes on")
        assert holder.shown("select 'here too'") == "here too"


def test_what_is_behind_it_waits_on(narrow: Daemon) -> None:
    with Canceller(narrow.port) as holder, Canceller(narrow.port) as client:
        holder.ask("begin")
        client.send(query("select 1") + parse("select 2") + bind() + execute() + SYNC + query("select 'last'"))
        waiting(narrow)
        for _ in range(2):
            client.cancel()
            assert client.canceled()
        waiting(narrow)
        holder.ask("commit")
        assert dict(client.until(b"Z"))[b"D"].endswith(b"last")


def test_behind_it_a_goodbye(narrow: Daemon) -> None:
    with Canceller(narrow.port) as holder, Canceller(narrow.port) as client:
        holder.ask("begin")
        client.send(query("select 1") + TERMINATE)
        waiting(narrow)
        client.cancel()
        assert client.canceled()
        assert client.closed()


def test_a_request_of_which_only_a_part_has_come(narrow: Daemon) -> None:
    """Nothing runs that could be cancelled, as at the server."""
    with Canceller(narrow.port) as holder, Canceller(narrow.port) as client:
        holder.ask("begin")
        text = query("select 'whole'" + " " * 30_000)
        client.send(text[:20_000])
        waiting(narrow)
        client.cancel()
        client.send(text[20_000:])
        holder.ask("commit")
        assert dict(client.until(b"Z"))[b"D"].endswith(b"whole")


def test_what_runs_without_a_sync(trusting: Daemon, postgres: Postgres) -> None:
    """Behind a Flush a client waits for answers too."""
    with Canceller(trusting.port) as client:
        client.send(parse("select pg_sleep(60) as flushed") + bind() + execute() + FLUSH)
        until(lambda: postgres.sql("select 1 from pg_stat_activity where query = 'select pg_sleep(60) as flushed' "
                                   "and state = 'active'"), "the query")
        client.cancel()
        assert parse_fields(client.until(b"E")[-1][1])["C"] == "57014"
        client.send(SYNC)
        client.until(b"Z")


EXTENDED = parse("select 1") + bind() + execute()


@pytest.mark.parametrize("pieces", [
    [SYNC], [SYNC + query("select 'together'")], [EXTENDED + FLUSH, parse("insert into nowhere values (1)") + SYNC],
    [query("create table never (a int)") + execute() + SYNC], [SYNC[:3], SYNC[3:]],
    [parse("select '" + "x" * 200_000 + "'"), bind()[:4], bind()[4:] + SYNC], [copy_data(b"S\0\0\0\4") + COPY_DONE + SYNC]])
def test_a_request_behind_a_flush(narrow: Daemon, postgres: Postgres, pieces: list[bytes]) -> None:
    """It fails at once, nothing up to the Sync is run, and the Sync is answered; all of it without a server."""
    with Canceller(narrow.port) as holder, Canceller(narrow.port) as client:
        holder.ask("begin")
        client.send(EXTENDED + FLUSH)
        waiting(narrow)
        client.cancel()
        assert parse_fields(client.until(b"E")[-1][1])["C"] == "57014"
        waiting(narrow, 0)
        client.cancel()                                          # and nothing is left to cancel
        for piece in pieces:
            client.send(piece)
        assert client.read() == (b"Z", b"I")
        if not pieces[-1].endswith(SYNC[3:]):
            waiting(narrow)
            holder.ask("commit")
            assert dict(client.until(b"Z"))[b"D"].endswith(b"together")
        holder.ask("commit")
        assert client.shown("select 'goes on'") == "goes on"
        assert holder.shown("select to_regclass('never') is null") == "t"


@pytest.mark.parametrize("last", [b"", query("select 1"), EXTENDED])
def test_a_goodbye_instead_of_the_sync(narrow: Daemon, last: bytes) -> None:
    with Canceller(narrow.port) as holder, Canceller(narrow.port) as client:
        holder.ask("begin")
        client.send(EXTENDED + FLUSH)
        waiting(narrow)
        client.cancel()
        client.until(b"E")
        client.send(last + TERMINATE)
        assert client.closed()
        assert holder.shown("select 1") == "1"


def test_a_drain_waits_for_the_sync_of_a_cancelled_request(base: dict[str, Any], tmp_path: Path) -> None:
    running = Daemon(tmp_path, base, **TRUST, pool={"mode": "transaction", "size": 1})
    try:
        with Canceller(running.port) as holder, Canceller(running.port) as client:
            holder.ask("begin")
            client.send(EXTENDED + FLUSH)
            waiting(running)
            client.cancel()
            client.until(b"E")
            running.signal(signal.SIGTERM)
            running.logged("msg=draining")
            client.send(SYNC)
            assert client.read() == (b"Z", b"I")
            assert client.refusal()["C"] == "57P01"
            holder.send(query("commit"))
            assert holder.refusal()["C"] == "57P01"
    finally:
        assert running.stop() == 0


def test_what_is_behind_an_error_is_thrown_away_in_any_pieces() -> None:
    whole = EXTENDED + query("select 1") + copy_data(b"S\0\0\0\4" * 5) + FLUSH + SYNC + query("next")
    for size in (1, 2, 3, 5, 7, 64, len(whole)):
        skip, rest = UpToSync(), None
        for at in range(0, len(whole), size):
            piece = whole[at:at + size]
            rest = skip.feed(piece) if rest is None else rest + piece
        assert rest == query("next")
        assert skip.owed == 2


def test_what_wants_its_answers_without_a_sync() -> None:
    assert flushed(EXTENDED + FLUSH) == 0
    assert flushed(EXTENDED + FLUSH + EXTENDED) == 0
    assert flushed(EXTENDED + query("x") + FLUSH) == 1
    for held in (b"", EXTENDED, EXTENDED + FLUSH[:4], EXTENDED + FLUSH + SYNC, query("x") + FLUSH):
        assert flushed(held) is None


def test_only_whole_requests_are_cut() -> None:
    one = parse("select 1") + bind() + execute()
    assert first_request(one) is None
    assert first_request(one + SYNC[:4]) is None
    found = first_request(one + query("never run") + SYNC + query("next"))
    assert found is not None
    assert (found.end, found.owed) == (len(one) + len(query("never run")) + 5, 2)
    assert first_request(query("copy") + message(b"d", b"12")[:-1]) is None
