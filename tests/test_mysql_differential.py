"""The same commands directly and through the proxy give the same bytes; and the walk over them sees each answer end where it does."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.pool.tally import Tally
from proxy.session.link import I
from proxy.session.mysql_link import ENDED, Link
from proxy.wire.mysql import Can, packets
from tests import mariadb
from tests.mariadb import MariaDB, Through
from tests.mysql_raw import ALL, Raw

pytestmark = mariadb.needed
FLAGS = [ALL | extra | eof for eof in (Can(0), Can.DEPRECATE_EOF) for extra in (Can(0), Can.SESSION_TRACK, Can.FOUND_ROWS)]
DATABASE = "backstage_plugin_catalog"


def query(text: str) -> bytes:
    return b"\x03" + text.encode()


SCRIPT: list[bytes] = [
    query("DROP TABLE IF EXISTS d"),
    query("CREATE TABLE d (id int PRIMARY KEY AUTO_INCREMENT, v longtext, n decimal(10,2)) ENGINE=InnoDB"),
    query("INSERT INTO d (v, n) VALUES ('a', 1.5), (NULL, NULL), ('', 0)"), query("SELECT * FROM d"), query("SELECT * FROM d WHERE 0"),
    query("UPDATE d SET n = 1.5 WHERE id = 1"), query("SELECT"), query("SELECT * FROM nowhere"), query("INSERT INTO d (id) VALUES (1)"),
    query("SELECT 1; SELECT 2, 3; UPDATE d SET n = 2; SELECT nonsense; SELECT 4"), query("BEGIN"), query("DELETE FROM d WHERE id = 1"),
    query("SAVEPOINT s"), query("ROLLBACK TO s"), query("ROLLBACK"), query("SET autocommit = 0"), query("SELECT count(*) FROM d"),
    query("COMMIT"), query("SET autocommit = 1"), query("SHOW WARNINGS"), query("SELECT 1/0"), query("EXPLAIN SELECT * FROM d"),
    query("DROP PROCEDURE IF EXISTS p"), query("CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2 AS two FROM d; END"), query("CALL p()"),
    query("SELECT " + ", ".join(f"{number} AS c{number}" for number in range(300))),
    query("SELECT repeat('x', 250), repeat('x', 251), repeat('x', 65535), repeat('x', 65536)"),
    query("SELECT a.id FROM d a, d b, d c, d e, d f, d g, d h ORDER BY 1"),
    query("SET SESSION TRANSACTION READ ONLY"), query("START TRANSACTION READ ONLY"), query("COMMIT"),
    query("SET SESSION TRANSACTION READ WRITE"), query("use catalog").replace(b"catalog", DATABASE.encode()),
    b"\x02" + DATABASE.encode(), b"\x0e", b"\x04d\0%", b"\x04nowhere\0",
    b"\x1b\1\0", b"\x1b\0\0", query("SELECT 1; SELECT 2"), b"\x1b\0\0",
    query("HANDLER d OPEN"), query("HANDLER d READ FIRST"), query("HANDLER d CLOSE"), query("ANALYZE TABLE d"), query("CHECK TABLE d"),
    b"\x16SELECT 1", b"\x16SELECT ?, ? + 1, v FROM d WHERE id = ?", b"\x16INSERT INTO d (v) VALUES (?)", b"\x16DO 1", b"\x16nonsense",
    b"\x7f nobody knows this", b"\x1f", query("SELECT @@autocommit")]


@pytest.fixture(scope="module")
def ready(through: Through) -> Through:
    through.connect("catalog").close()
    return through


def pair(found: Through, flags: Can) -> tuple[Raw, Raw]:
    server = found.server
    return (Raw(server.port, "root", mariadb.ROOT_WORD, DATABASE, flags),
            Raw(found.daemon.mysql_port, "backstage", "s3cret", "catalog", flags))


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_commands(ready: Through, flags: Can) -> None:
    direct, proxied = pair(ready, flags)
    with direct, proxied:
        first, *rest = SCRIPT[0], SCRIPT[1], *SCRIPT
        direct.ask(first)                      # so that there is something to drop for both
        direct.ask(rest.pop(0))
        ours, theirs = [[raw.ask(command) for command in rest] for raw in (proxied, direct)]
        for command, one, other in zip(rest, theirs, ours, strict=True):
            if command == query("DROP PROCEDURE IF EXISTS p"):
                continue                       # it was there for one of them
            if command[0] == 0x16:
                # A server numbers the statements of a connection through, over its resets.
                one, other = (answer[:5] + answer[9:] for answer in (one, other))
            assert one == other, command[:80]


@pytest.mark.parametrize("flags", [ALL, ALL | Can.DEPRECATE_EOF], ids=str)
def test_prepared_statements(ready: Through, flags: Can) -> None:
    """With parameters, long data, a cursor and its rows a few at a time."""
    direct, proxied = pair(ready, flags)
    with direct, proxied:
        for raw in (direct, proxied):
            raw.ask(query("CREATE OR REPLACE TABLE many AS SELECT table_name AS t FROM information_schema.tables LIMIT 50"
                          if not ready.server.mysql else "SELECT 1"))

        def run(raw: Raw) -> Iterator[bytes]:
            for text, types, values in ((b"SELECT t FROM many ORDER BY t", b"", b""), (b"SELECT ? AS a", b"\xfd\0", b"\x03abc"),
                                        (b"SELECT length(?) AS a", b"\xfb\0", b"")):
                made = raw.ask(b"\x16" + text)
                yield made[:5] + made[9:]
                number = made[5:9]
                if b"length" in text:
                    raw.ask(b"\x18" + number + b"\0\0" + b"x" * 70_000)
                    raw.ask(b"\x18" + number + b"\0\0" + b"y" * 5)
                bound = b"\0\1" + types + values if types else b""
                yield raw.ask(b"\x17" + number + b"\0" + b"\1\0\0\0" + bound)
                yield raw.ask(b"\x1a" + number)
                if not types:
                    yield raw.ask(b"\x17" + number + b"\1" + b"\1\0\0\0")
                    for _ in range(12):
                        rows = raw.ask(b"\x1c" + number + b"\5\0\0\0")
                        yield re.sub(rb"\(\d+\)", b"(n)", rows) if rows[4] != 0xFF else b"no open cursor"
                raw.ask(b"\x19" + number)
                yield raw.ask(b"\x17" + number + b"\0" + b"\1\0\0\0")[13:15]

        assert list(run(direct)) == list(run(proxied))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 3_000_000])
def test_load_data_local(ready: Through, size: int) -> None:
    direct, proxied = pair(ready, ALL | Can.DEPRECATE_EOF)
    line = b"some words of a line\n"
    file = (line * (size // len(line) + 1))[:size]
    load = query("LOAD DATA LOCAL INFILE 'anything' INTO TABLE lines (v)")
    with direct, proxied:
        for raw in (direct, proxied):
            raw.ask(query("DROP TABLE IF EXISTS lines"))
            raw.ask(query("CREATE TABLE lines (v text)"))
        answers = [[raw.ask(load, file), raw.ask(query("TRUNCATE lines")), raw.ask(query("SELECT count(*), max(v) FROM lines"))]
                   for raw in (direct, proxied)]
        assert answers[0] == answers[1]
        assert direct.ask(load.replace(b"lines", b"nowhere"), file) == proxied.ask(load.replace(b"lines", b"nowhere"), file)


@pytest.mark.parametrize("size", [(1 << 24) - 32, (1 << 24) - 1, 1 << 24, (1 << 25) - 3, (1 << 25) + 1000])
def test_packets_of_sixteen_megabytes(ready: Through, size: int) -> None:
    direct, proxied = pair(ready, ALL)
    with direct, proxied:
        exactly = b"\x03SELECT length('" + b"x" * (size - 18) + b"')"
        assert len(exactly) == size
        for command in (exactly, query(f"SELECT repeat('x', {size - 5}), 1"), query("SELECT 1")):
            assert direct.ask(command) == proxied.ask(command)


def test_commands_that_do_not_wait(ready: Through) -> None:
    """Pipelining, and single bytes: what is ours to think about comes in its turn."""
    direct, proxied = pair(ready, ALL | Can.DEPRECATE_EOF)
    with direct, proxied:
        commands = [query("SELECT 1"), b"\x02catalog", query("use catalog"), b"\x11whoever", query("SELECT 'x'"), b"\x0e",
                    query("/* a */ select 3"), query("use search"), query("SELECT 2")]
        whole = b"".join(packets(command) for command in commands)
        for pieces in ([whole], [whole[at:at + 1] for at in range(len(whole))], [whole[:7], whole[7:30], whole[30:]]):
            for piece in pieces:
                proxied.sock.sendall(piece)
            answers = [proxied.answer(command[0]) for command in commands]
            kinds = [answer[4] for answer in answers]
            assert kinds == [1, 0, 0, 0xFF, 1, 0, 1, 0xFF, 1]


def test_the_compiled_twin_does_the_same(mysql: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers and the same counts, with it and without; each command alone, and all in one piece."""
    answers, counts = [], []
    for pure in ("0", "1"):
        folder = tmp_path / pure
        folder.mkdir()
        monkeypatch.setenv("SWITCHBOARD_PURE", pure)
        with mariadb.through(mysql, folder) as found:
            heard: list[bytes] = []
            for flags in (ALL, ALL | Can.DEPRECATE_EOF):
                with Raw(found.daemon.mysql_port, "backstage", "s3cret", "twin", flags) as raw:
                    script = [command.replace(b"catalog", b"twin") for command in SCRIPT]
                    heard += [raw.ask(command) for command in [*script, *script]]
                    raw.sock.sendall(b"".join(map(packets, script)))
                    heard += [raw.answer(command[0]) for command in script]
            answers.append(heard)
            names = ("queries_total", "transactions_total", "client_received_bytes_total", "client_sent_bytes_total", "errors_total",
                     "query_seconds_count", "transaction_seconds_count")
            counts.append([found.daemon.metric(f"switchboard_{name}", plugin="twin") for name in names])
        mysql.sql("DROP DATABASE backstage_plugin_twin")
    assert [len(answer) for answer in answers[0]] == [len(answer) for answer in answers[1]]
    assert counts[0] == counts[1]
    assert all(counts[0])


# -- the walk ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(mysql: MariaDB, ready: Through) -> dict[Can, list[tuple[bytes, bytes]]]:
    """Real answers: (command, all its bytes)."""
    found = {}
    for flags in (ALL, ALL | Can.DEPRECATE_EOF):
        with Raw(mysql.port, "root", mariadb.ROOT_WORD, DATABASE, flags) as raw:
            found[flags] = [(command, raw.ask(command)) for command in SCRIPT]
    return found


@pytest.mark.parametrize("pieces", ["whole", "bytes", "random"])
def test_the_walk_finds_every_end(recorded: dict[Can, list[tuple[bytes, bytes]]], pieces: str) -> None:
    chance = random.Random(7)
    for flags, script in recorded.items():
        link = Link(Tally("p", "s", "u"), flags)
        for command, answer in script:
            kind: Any = command[0]
            link.begin({0x04: 2, 0x16: 3}.get(kind, 0))
            at, ended = 0, 0
            while at < len(answer):
                assert not ended
                size = {"whole": len(answer), "bytes": 1, "random": chance.choice((1, 2, 3, 5, 30, 40, 4096))}[pieces]
                part = bytearray(answer[at:at + size])
                at += len(part)
                ended = link.from_upstream(part, len(part))
            assert ended == ENDED, command
            assert link.between
        assert link.status == I
        assert not link.owed
        assert link.tally.queries == len(SCRIPT)


def test_the_walk_over_commands(recorded: dict[Can, list[tuple[bytes, bytes]]]) -> None:
    """However they are cut, as many are counted; and it stops in front of those that need thought."""
    plain = [command for command in SCRIPT if command[0] not in (0x02, 0x1B) and not command[1:].lower().startswith(b"use")]
    whole = b"".join(packets(command) for command in plain)
    for size in itertools.chain(range(1, 40), (1000, len(whole))):
        link, held = Link(Tally("p", "s", "u"), ALL), b""
        for at in range(0, len(whole), size):
            data = bytearray(held + whole[at:at + size])
            link.from_client(data, len(data))
            held = bytes(data[link.cut:])
            assert len(held) <= 6
        assert not held
        assert link.owed == len(plain)
