"""Time limits of clients, in both pool modes: PgBouncer's phrases, PostgreSQL's SQLSTATEs, and a server that is free again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.wire.messages import parse_fields, query
from tests.raw import FLUSH, Raw, bind, execute, parse
from tests.servers import Postgres, daemon, until

TRUST: dict[str, Any] = {"auth": {"method": "trust"}, "users": {"backstage": {}}}
MODES = pytest.mark.parametrize("mode", ["session", "transaction"])


def told(fault: dict[str, str]) -> tuple[str, str, str]:
    return fault["S"], fault["C"], fault["M"]


@MODES
@pytest.mark.parametrize(("setting", "texts", "state", "words"), [
    ("client_idle_timeout", [], "57P05", "client_idle_timeout"),
    ("client_idle_timeout", ["select 1"], "57P05", "client_idle_timeout"),
    ("idle_transaction_timeout", ["begin"], "25P03", "idle transaction timeout"),
    ("idle_transaction_timeout", ["begin", "select 1/0"], "25P03", "idle transaction timeout"),
    ("transaction_timeout", ["begin", "select 1"], "25P04", "transaction timeout"),
])
def test_what_ends_a_session(base: dict[str, Any], tmp_path: Path, mode: str, setting: str, texts: list[str], state: str,
                             words: str) -> None:
    with daemon(tmp_path, base, **TRUST, pool={"mode": mode, "size": 1, setting: "300ms"}) as running:
        with Raw(running.port) as raw:
            raw.enter()
            for text in texts:
                raw.ask(text)
            assert told(raw.refusal()) == ("FATAL", state, words)
        running.logged(f'client left.*reason="?{words}')
        with Raw(running.port) as raw:
            raw.enter()                       # the one connection is to be had again
            assert raw.shown("select 1") == "1"


@MODES
@pytest.mark.parametrize(("setting", "state", "words"), [
    ("query_timeout", "57014", "query timeout"), ("transaction_timeout", "25P04", "transaction timeout")])
def test_a_query_that_takes_too_long(base: dict[str, Any], postgres: Postgres, tmp_path: Path, mode: str, setting: str, state: str,
                                     words: str) -> None:
    """The server is told to stop, so that it works for nobody."""
    with daemon(tmp_path, base, **TRUST, pool={"mode": mode, "size": 1, setting: "300ms"}) as running, Raw(running.port) as raw:
        raw.enter()
        raw.send(query("select pg_sleep(60) as overdue"))
        assert told(raw.refusal()) == ("FATAL", state, words)
        until(lambda: not postgres.sql("select 1 from pg_stat_activity where query like '%as overdue' and state = 'active' "
                                       "and pid <> pg_backend_pid()"), "the server to stop")
        with Raw(running.port) as other:
            other.enter()
            assert other.shown("select 1") == "1"


@MODES
def test_idle_in_a_transaction_is_no_query(base: dict[str, Any], tmp_path: Path, mode: str) -> None:
    with daemon(tmp_path, base, **TRUST, pool={"mode": mode, "query_timeout": "200ms"}) as running, Raw(running.port) as raw:
        raw.enter()
        raw.ask("begin")
        raw.sock.settimeout(2.5)              # two sweeps and more: nothing must come
        with pytest.raises(TimeoutError):
            raw.sock.recv(1)
        raw.sock.settimeout(30)
        assert raw.ask("commit")[-1] == (b"Z", b"I")


def test_who_waits_is_told_once(base: dict[str, Any], tmp_path: Path) -> None:
    """And neither the wait nor the notice counts as a query's time."""
    with daemon(tmp_path, base, **TRUST, pool={"mode": "transaction", "size": 1, "query_wait_notify": "100ms",
                                               "query_timeout": "1500ms"}) as running, \
            Raw(running.port) as holder, Raw(running.port) as waiter:
        holder.enter()
        waiter.enter()
        holder.ask("begin")
        waiter.send(query("select 'mine'"))
        fields = parse_fields(waiter.until(b"N")[-1][1])
        assert (fields["S"], fields["M"]) == (
            "NOTICE", "No server connection available in postgres backend, client being queued")
        waiter.sock.settimeout(2)
        with pytest.raises(TimeoutError):
            waiter.sock.recv(1)
        waiter.sock.settimeout(30)
        holder.ask("commit")
        assert [tag for tag, _ in waiter.until(b"Z")] == [b"T", b"D", b"C", b"Z"]


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_query_behind_a_flush_has_an_end_too(base: dict[str, Any], tmp_path: Path, mode: str) -> None:
    """Nothing is owed before the Sync, and yet the client waits."""
    with daemon(tmp_path, base, auth={"method": "trust"}, users={"backstage": {}},
                pool={"mode": mode, "query_timeout": "1s"}) as running, Raw(running.port) as raw:
        raw.enter()
        raw.send(parse("select pg_sleep(600)") + bind() + execute() + FLUSH)
        found = [parse_fields(body) for tag, body in raw.until(b"E") if tag == b"E"]
        assert found[-1]["C"] == "57014"
