"""Limits on clients, the throttle, long passwords, and the time that a refusal takes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.auth.password import Disguise, disguise, md5_hash
from proxy.auth.scram import make_verifier
from proxy.server.limits import FIRST, LONGEST, MAX_ADDRESSES, MAX_HELD, Head, Heads, Throttle
from proxy.wire.messages import message
from tests.raw import Raw
from tests.servers import Daemon, daemon, until

HERE = ip_address("192.0.2.1")


def test_heads_are_given_back_whatever_failed() -> None:
    heads, counted = Heads(), list[Head]()
    assert heads.enter(counted, "user", "u", 2)
    assert heads.enter(counted, "plugin", "p")
    other: list[Head] = []
    assert heads.enter(other, "user", "u", 2)
    assert not heads.enter([], "user", "u", 2)
    heads.leave(counted)
    assert heads.counts == {("user", "u"): 1}
    heads.leave(counted)
    heads.leave(other)
    assert not heads.counts


def test_failures_beyond_the_allowance_are_answered_later_and_later() -> None:
    throttle = Throttle(3, 60)
    assert [throttle.failed(HERE, 0.0) for _ in range(3)] == [0, 0, 0]
    later = [throttle.failed(HERE, 0.0) for _ in range(6)]
    assert later[0] == FIRST * 2
    assert later == sorted(later)
    assert later[-1] == LONGEST
    assert throttle.failed(ip_address("192.0.2.2"), 0.0) == 0
    assert throttle.failed(None, 0.0) == 0                              # a unix socket
    assert throttle.failed(HERE, 10_000.0) == 0                         # leaked away


def test_a_network_of_ipv6_is_one_address() -> None:
    throttle = Throttle(1, 60)
    assert throttle.failed(ip_address("2001:db8::1"), 0.0) == 0
    assert throttle.failed(ip_address("2001:db8::2"), 0.0) > 0
    assert throttle.failed(ip_address("2001:db8:0:1::2"), 0.0) == 0


def test_the_throttle_forgets_the_oldest() -> None:
    throttle = Throttle(1, 60)
    for number in range(MAX_ADDRESSES + 10):
        throttle.failed(ip_address(number), 0.0)
    assert throttle.failed(ip_address(0), 0.0) == 0
    assert throttle.failed(ip_address(MAX_ADDRESSES), 0.0) > 0


def test_held_answers_are_limited() -> None:
    throttle = Throttle(1, 60)
    throttle.failed(HERE, 0.0)
    throttle.hold(HERE, MAX_HELD)
    assert throttle.crowded(HERE)
    throttle.hold(HERE, -1)
    assert not throttle.crowded(HERE)
    assert not throttle.crowded(None)


def refused(running: Daemon, database: str, user: str, words: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=words) as caught:
        running.connect(database, user)
    assert caught.value.sqlstate is None or caught.value.sqlstate == "53300"


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_limits(base: dict[str, Any], tmp_path: Path, mode: str) -> None:
    users = {name: {"password": "s3cret"} for name in ("one", "two", "three")} | {"few": {"password": "s3cret", "max_clients": 1}}
    with daemon(tmp_path, base, users=users, max_clients_per_user=2, max_clients_per_plugin=3, max_clients_per_address=5,
                pool={"mode": mode}) as running, contextlib.ExitStack() as stack:
        for _ in range(2):                    # twice: everything is given back
            stack.enter_context(running.connect("catalog", "few"))
            refused(running, "search", "few", 'too many connections for role "few"')
            refused(running, "search", "few", 'too many connections for role "few"')
            stack.enter_context(running.connect("catalog", "one"))
            stack.enter_context(running.connect("catalog", "one"))
            refused(running, "search", "one", 'too many connections for role "one"')
            refused(running, "catalog", "two", 'too many connections for database "catalog"')
            for _ in range(3):                # failures of all kinds count for nothing
                with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                    running.connect("search", "two", "wrong")
                with pytest.raises(psycopg.OperationalError, match="does not exist"):
                    running.connect("no%20such", "two")
            stack.enter_context(running.connect("search", "two"))
            last = stack.enter_context(running.connect("search", "three"))
            refused(running, "search", "three", "too many connections from this address")
            last.execute("select 1")
            last.cancel()                     # a cancel gets through all the same
            stack.close()
            until(lambda: running.metric("switchboard_clients") == 0, "everybody to leave")
        for limit, count in (("user", 6), ("plugin", 2), ("address", 2)):
            assert running.metric("switchboard_limited_total", limit=limit) == count


def test_a_flood_of_sockets_is_turned_away(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, max_clients=2) as running, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(Raw(running.port)) for _ in range(103)]
        assert sockets[-1].read()[0] == b"E"
        assert sockets[-1].closed()
        sockets[5].hello(user="backstage", database="catalog")
        assert sockets[5].refusal()["M"] == "sorry, too many clients already"
        assert running.metric("switchboard_limited_total", limit="clients") == 2


@pytest.fixture(scope="module")
def many_words(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    long = "pass wörd " * 400
    users: dict[str, Any] = {"plain": {"password": "s3cret"}, "verifier": {"password": str(make_verifier("s3cret"))},
             "hashed": {"password": md5_hash("hashed", "s3cret")},
             "long": {"password": long}, "long_clear": {"password": str(make_verifier(long)), "method": "password"},
             "long_md5": {"password": md5_hash("long_md5", long), "method": "md5"}}
    with daemon(tmp_path_factory.mktemp("words"), base, users=users, auth={"throttle_failures": 0}) as running:
        yield running


@pytest.mark.parametrize("user", ["long", "long_clear", "long_md5"])
def test_passwords_of_four_kilobytes(many_words: Daemon, user: str) -> None:
    words = {"host": "127.0.0.1", "port": many_words.port, "user": user, "dbname": "catalog"}
    psycopg.connect(password="pass wörd " * 400, **words).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(password="pass wörd " * 399 + "pass word ", **words)


@pytest.mark.parametrize(("method", "known"), [("scram-sha-256", "plain"), ("scram-sha-256", "verifier"), ("password", "plain"),
                                               ("password", "verifier"), ("password", "hashed")])
def test_a_refusal_takes_the_same_time_for_who_exists_and_who_does_not(base: dict[str, Any], tmp_path: Path, method: str,
                                                                     known: str) -> None:
    users = {"plain": {"password": "s3cret"}, "verifier": {"password": str(make_verifier("s3cret"))},
             "hashed": {"password": md5_hash("hashed", "s3cret")}}
    with daemon(tmp_path, base, users=users, auth={"throttle_failures": 0, "method": method}) as running:
        took: dict[str, list[float]] = {known: [], "nobody": []}
        texts = set()
        for turn in range(60):
            for user, times in sorted(took.items(), reverse=turn % 2 == 0):      # who comes first may find another machine
                began = time.perf_counter()
                with pytest.raises(psycopg.OperationalError) as caught:
                    running.connect("catalog", user, "wrong")
                times.append(time.perf_counter() - began)
                texts.add(str(caught.value).split("FATAL:")[1].replace(user, "U"))
        assert len(texts) == 1
        # What else the machine does only adds: the quick ones tell what a refusal takes.
        ratio = statistics.quantiles(took[known])[0] / statistics.quantiles(took["nobody"])[0]
        assert 0.67 < ratio < 1.5, ratio


@pytest.mark.parametrize(("stored", "iterations", "md5"), [
    ([], 4096, True), (["plain"], 4096, True), ([md5_hash("u", "w")], 4096, True), ([str(make_verifier("w"))], 4096, False),
    ([str(make_verifier("w", 8192))] * 2 + [str(make_verifier("w"))], 8192, False),
    ([str(make_verifier("w", 8192)), "plain", "plain"], 4096, True),
])
def test_who_does_not_exist_looks_like_most_who_do(stored: list[str], iterations: int, md5: bool) -> None:
    assert disguise(stored, 4096) == Disguise(iterations, md5)


def test_asked_for_md5_all_answer_alike(base: dict[str, Any], tmp_path: Path) -> None:
    users = {"verifier": {"password": str(make_verifier("s3cret", 8192))}}
    with daemon(tmp_path, base, users=users, auth={"method": "md5"}) as running:
        offers = set()
        for user in ("verifier", "nobody"):
            with Raw(running.port) as raw:
                raw.hello(user=user, database="catalog")
                offer = raw.read()
                first = b"n,,n=,r=abcdefgh"
                raw.send(message(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4) + first))
                offers.add((offer, raw.read()[1].rpartition(b",")[2]))
        assert offers == {((b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0"), b"i=8192")}


def test_the_mock_is_always_the_same_for_a_name(many_words: Daemon) -> None:
    def salt(user: str) -> bytes:
        with Raw(many_words.port) as raw:
            raw.hello(user=user, database="catalog")
            assert raw.read()[1] == b"\0\0\0\x0aSCRAM-SHA-256\0\0"
            first = b"n,,n=,r=abcdefgh"
            word = b"SCRAM-SHA-256\0" + len(first).to_bytes(4) + first
            raw.send(b"p" + (len(word) + 4).to_bytes(4) + word)
            return raw.read()[1].partition(b",s=")[2]

    assert salt("nobody") == salt("nobody") != salt("somebody")
    assert salt("plain") == salt("plain")


def test_one_deadline_over_the_whole_login(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"login_timeout": "1s"}) as running, Raw(running.port) as silent, Raw(running.port) as slow:
        slow.hello(user="backstage", database="catalog")
        assert slow.read()[0] == b"R"
        for raw in (silent, slow):
            assert raw.refusal()["M"] == "canceling authentication due to timeout"
        running.connect("catalog").close()


def test_a_guesser_is_slowed_down_and_nobody_else(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"throttle_failures": 2, "throttle_window": "10min"}) as running:
        def guess() -> float:
            began = time.perf_counter()
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                running.connect("catalog", password="wrong")
            return time.perf_counter() - began

        quick = [guess(), guess()]
        assert guess() > FIRST * 2 * 0.9
        assert max(quick) < FIRST * 2
        began = time.perf_counter()
        running.connect("catalog").close()
        assert time.perf_counter() - began < FIRST * 2
