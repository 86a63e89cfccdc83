"""Protocols 3.0 to 3.2, newer ones and older ones, by raw bytes and by libpq 18."""

from __future__ import annotations

import struct
import threading

import psycopg
import pytest

from proxy.wire.messages import query
from proxy.wire.startup import pack_cancel
from tests.raw import Raw
from tests.servers import Daemon, Postgres, until


def asleep(postgres: Postgres, word: str) -> bool:
    return bool(postgres.sql(f"select 1 from pg_stat_activity where query like '%as {word}' and state = 'active' "
                             "and pid <> pg_backend_pid()"))


@pytest.mark.parametrize(("minor", "length"), [(0, 4), (1, 4), (2, 32)])
@pytest.mark.parametrize("database", ["catalog", "postgres"])
def test_cancel_keys_are_as_long_as_the_protocol_says(trusting: Daemon, minor: int, length: int, database: str) -> None:
    keys = set()
    for _ in range(3):
        with Raw(trusting.port) as raw:
            raw.hello(minor, user="backstage", database=database)
            told = dict(raw.until(b"Z"))
            assert b"v" not in told
            assert len(told[b"K"]) == 4 + length
            assert int.from_bytes(told[b"K"][:4], signed=True) > 0
            keys.add(told[b"K"])
    assert len(keys) == 3


def test_newer_minors_and_unknown_options_are_told_once(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.hello(9999, user="backstage", database="catalog", **{"_pq_.test": "x"})
        told = raw.until(b"Z")
        assert [body for tag, body in told if tag == b"v"] == [struct.pack("!ii", 3 << 16 | 2, 1) + b"_pq_.test\0"]
        assert told[0][0] == b"v"
        raw.send(query("select 1"))
        assert b"D" in dict(raw.until(b"Z"))


def test_protocol_2_is_refused_in_postgresql_words(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.send(struct.pack("!ii", 296, 2 << 16) + bytes(288))
        assert raw.refusal() | {"L": ""} == {"S": "FATAL", "V": "FATAL", "C": "0A000", "L": "",
                                             "M": "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"}


def test_a_long_key_cancels_and_a_shortened_one_does_not(trusting: Daemon, postgres: Postgres) -> None:
    with Raw(trusting.port) as raw:
        raw.hello(2, user="backstage", database="catalog")
        key = dict(raw.until(b"Z"))[b"K"]
        pid, secret = int.from_bytes(key[:4]), key[4:]
        raw.send(query("select pg_sleep(60) as long_key"))
        until(lambda: asleep(postgres, "long_key"), "the query")
        for wrong in (secret[:4], secret[:-1], secret + b"\0", bytes(32)):
            with Raw(trusting.port) as other:
                other.send(pack_cancel(pid, wrong))
                assert other.closed()
        assert asleep(postgres, "long_key")
        with Raw(trusting.port) as other:
            other.send(pack_cancel(pid, secret))
            assert other.closed()
        assert b"C57014\0" in dict(raw.until(b"Z"))[b"E"]


def test_libpq_18(trusting: Daemon, postgres: Postgres) -> None:
    if psycopg.pq.version() < 180000:
        pytest.skip("libpq 18 is the first with protocol 3.2")
    with trusting.connect("catalog", max_protocol_version="3.2", min_protocol_version="3.2") as connection:
        assert connection.execute("select 1").fetchone() == (1,)

        def when_it_sleeps() -> None:
            until(lambda: asleep(postgres, "libpq_18"), "the query")
            connection.cancel_safe(timeout=20)

        other = threading.Thread(target=when_it_sleeps)
        other.start()
        with pytest.raises(psycopg.errors.QueryCanceled, match="user request"):
            connection.execute("select pg_sleep(60) as libpq_18")
        other.join()
