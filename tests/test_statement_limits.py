"""Mode `auto`: more prepared statements than a server keeps of them, and pipelines that fail where one would be thrown out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from proxy.session.prepared import MOST_OF_A_CLIENT, MOST_ON_A_SERVER
from proxy.wire.messages import parse_fields
from tests.raw import SYNC, Raw, bind, execute, parse
from tests.servers import Daemon, daemon

MANY = MOST_ON_A_SERVER + 40
THERE = "select statements_there()"


@pytest.fixture(scope="module")
def narrow(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One connection for everybody."""
    with daemon(tmp_path_factory.mktemp("limits"), base, auth={"method": "trust"}, users={"backstage": {}},
                pool={"mode": "auto", "size": 1, "query_wait_timeout": "20s"}) as running:
        with running.connect("catalog") as connection:      # a client asks the view for its own; a function sees the server's
            connection.execute("create or replace function statements_there() returns bigint language sql as"
                               " 'select count(*) from pg_prepared_statements'")
        yield running


def prepared(raw: Raw, count: int, what: str) -> None:
    """`count` statements s0, s1..., each of which tells its number and `what`."""
    raw.send(b"".join(parse(f"select '{what}{number}'", f"s{number}") for number in range(count)) + SYNC)
    assert [tag for tag, _ in raw.until(b"Z")] == [b"1"] * count + [b"Z"]


def used(raw: Raw, *numbers: int) -> list[str]:
    raw.send(b"".join(bind(f"s{number}") + execute() for number in numbers) + SYNC)
    return [body[6:].decode() for tag, body in raw.until(b"Z") if tag == b"D"]


def test_the_least_lately_used_goes_and_comes_back_when_it_is_wanted(narrow: Daemon) -> None:
    with Raw(narrow.port) as first, Raw(narrow.port) as second:
        for raw, what in ((first, "a"), (second, "b")):
            raw.enter()
            prepared(raw, MANY, what)
        for _ in range(2):
            for raw, what in ((first, "a"), (second, "b")):
                for number in (0, MANY - 1, MANY // 2, 1):
                    assert used(raw, number) == [f"{what}{number}"]
                assert used(raw, *range(0, MANY, 7)) == [f"{what}{number}" for number in range(0, MANY, 7)]
        assert int(first.shown(THERE)) <= MOST_ON_A_SERVER


def test_a_pipeline_that_fails_where_one_is_thrown_out(narrow: Daemon) -> None:
    """What the server skips is not taken for done: neither a Close of ours nor the Parse that it made room for."""
    with Raw(narrow.port) as first, Raw(narrow.port) as second:
        for raw, what in ((first, "c"), (second, "d")):
            raw.enter()
            prepared(raw, MANY, what)
        used(second, *range(MOST_ON_A_SERVER))              # none of the first one's are there now
        for number in range(0, 30, 3):
            first.send(parse("select 1/0") + bind() + execute()
                       + b"".join(bind(f"s{number + further}") + execute() for further in range(3)) + SYNC)
            told = first.until(b"Z")
            assert [tag for tag, _ in told if tag in b"EDZ"] == [b"E", b"Z"]
            assert parse_fields(dict(told)[b"E"])["C"] == "22012"
            assert used(first, number, number + 1) == [f"c{number}", f"c{number + 1}"]
            first.send(bind(f"s{number + 2}") + execute() + parse("select 1/0") + bind() + execute()
                       + bind(f"s{number}") + execute() + SYNC)
            assert [tag for tag, _ in first.until(b"Z") if tag in b"EDZ"] == [b"D", b"E", b"Z"]
        assert used(first, *range(30)) == [f"c{number}" for number in range(30)]
        assert used(second, *range(30)) == [f"d{number}" for number in range(30)]
        assert int(second.shown(THERE)) <= MOST_ON_A_SERVER


def test_a_client_has_so_many_and_no_more(narrow: Daemon) -> None:
    """Who prepares without end is told so, and ends alone."""
    with Raw(narrow.port) as raw:
        raw.enter()
        for start in range(0, MOST_OF_A_CLIENT, 1000):
            raw.send(b"".join(parse("select 'same'", f"s{number}") for number in range(start, start + 1000)) + SYNC)
            assert raw.until(b"Z")[-2][0] == b"1"
        assert used(raw, 0, MOST_OF_A_CLIENT - 1) == ["same", "same"]
        raw.send(parse("select 'same'", "one more") + SYNC)
        assert raw.refusal()["M"] == "too many prepared statements"
    with Raw(narrow.port) as raw:
        raw.enter()
        assert raw.shown("select 1") == "1"
