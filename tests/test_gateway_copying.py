"""COPY's formats beside PostgreSQL's own: the same bytes out, the same rows or the same error in, however the data is cut."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.errors import ProxyError
from proxy.gateway.copy_rows import Reader, Writer
from proxy.gateway.copy_statement import parse
from tests.servers import Daemon, Postgres, daemon

OPTIONS = ["", "csv", "csv header", "with csv delimiter as ';' null as 'NULL'", "(format csv, quote '''', escape '\\', header true)",
           "(format csv, force_quote *)", "(delimiter '|', null '')", "(format text, header)", "delimiter ',' null 'x'",
           "(format csv, header match)", "(format csv, force_null (b), force_not_null (a), null 'n')"]
PIECES = ["a", "b",
          "\\", "\\n", "\\N", "\\.", "\\x41", "\\101", "\t", "\n", "\r", "\r\n", ",", ";", "|", '"', '""', "'", "NULL", "n", "é",
          " ", ""]
VALUES = [None, "", "a", "\\N", "\\.", "a\tb", "a\nb", "a\rb", 'a"b', "a,b", "a;b|c", "NULL", "n", "x", "\\", "'", "\b\f\v", "é", '"',
          " "]


def _wrong_options() -> list[str]:
    return ["copy t from '/etc/passwd'", "copy t to program 'x'", "copy t from stdin (format binary)",
            "copy t from stdin (format nope)", "copy t from stdin (format csv, force_quote *)", "copy t from stdin (quote 'x')",
            "copy t from stdin (delimiter 'ab')", "copy t from stdin (delimiter 'a')", "copy t from stdin csv quote ',' ",
            "copy t from stdin (nope 1)", "copy t from stdin (header perhaps)", "copy t to stdout (header match)", "copy t from",
            "copy t from stdin (delimiter ',', null 'a,b')", "copy t from stdin (null e'a\\nb')", "copy t from stdin csv null '\"'",
            "copy (select 1) from stdin", "copy t from stdin (header, header)", "copy t stdin"]


@pytest.fixture(scope="module")
def peer(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("create temp table t (a text, b text)")
        yield connection


def _theirs(peer: psycopg.Connection[Any], options: str, data: bytes) -> Any:
    try:
        with peer.transaction(force_rollback=True):
            with peer.cursor().copy(f"copy t from stdin {options}") as copy:  # type: ignore[call-overload]
                copy.write(data)
            return peer.execute("select a, b from t").fetchall()
    except psycopg.Error as error:
        return error.sqlstate, error.diag.message_primary


def _ours(options: str, data: bytes, cuts: random.Random) -> Any:
    copy = parse(f"copy t from stdin {options}")
    assert copy is not None
    reader, rows, at = Reader(copy, ["a", "b"]), [], 0
    try:
        while at < len(data):
            size = cuts.choice((1, 2, 3, 100))
            rows += reader.feed(data[at:at + size])
            at += size
        rows += reader.finish()
        return [tuple(None if value is None else value.decode() for value in row) for row in rows]
    except ProxyError as fault:
        return fault.sqlstate, fault.message
    except UnicodeDecodeError:
        return "22021", ""


@pytest.mark.parametrize("options", [option for option in OPTIONS if "force_quote" not in option])
def test_what_comes_in(peer: psycopg.Connection[Any], options: str) -> None:
    chance = random.Random(options)
    for _ in range(150):
        copy = parse(f"copy t from stdin {options}")
        assert copy is not None
        ends = chance.choice(["\n", "\n", "\r\n", "\r"])
        lines = [copy.delimiter.join("".join(chance.choices(PIECES, k=chance.randrange(4))) for _ in "ab")
                 for _ in range(chance.randrange(4))]
        head = f"a{copy.delimiter}b{ends}" if copy.header else ""
        data = (head + ends.join(lines) + chance.choice(["", ends])).encode()
        theirs, ours = _theirs(peer, options, data), _ours(options, data, chance)
        if isinstance(theirs, tuple) and theirs[0] in ("22021",):
            continue                          # \x.. that is no UTF8: told when the value is read
        assert ours == theirs, data


@pytest.mark.parametrize("options", [option for option in OPTIONS if "match" not in option and "force_n" not in option])
def test_what_goes_out(peer: psycopg.Connection[Any], options: str) -> None:
    chance = random.Random(options)
    rows = [(chance.choice(VALUES), chance.choice(VALUES)) for _ in range(100)]
    copy = parse(f"copy t to stdout {options}")
    assert copy is not None
    writer = Writer(copy, ["a", "b"])
    ours = writer.header() + b"".join(writer.row([None if value is None else value.encode() for value in row]) for row in rows)
    with peer.transaction(force_rollback=True):
        peer.cursor().executemany("insert into t values (%s, %s)", rows)
        with peer.cursor().copy(f"copy t to stdout {options}") as out:  # type: ignore[call-overload]
            assert ours == b"".join(bytes(part) for part in out)


@pytest.mark.parametrize("text", _wrong_options())
def test_what_is_no_copy(peer: psycopg.Connection[Any], text: str) -> None:
    with pytest.raises(ProxyError) as ours:
        parse(text)
    if ours.value.sqlstate in ("0A000", "42501"):
        return                                # refused here and not there
    with pytest.raises(psycopg.Error) as theirs, peer.transaction():
        peer.execute(text)  # type: ignore[call-overload]
    assert ours.value.sqlstate == theirs.value.sqlstate


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("files")
    with daemon(folder, {"client": "better-sqlite3", "connection": {"directory": str(folder)}}, sqlite={"catalog": False}) as one:
        yield one


def test_with_a_file(running: Daemon) -> None:
    with running.connect("app") as connection:
        connection.execute("create table t (id integer primary key, name text, at timestamp, ok boolean)")
        with connection.cursor().copy("copy t (id, name, at, ok) from stdin") as into:
            for number in range(10_000):
                into.write_row((number, f"n\t{number}" if number % 3 else None, "2024-05-06 07:08:09.5", number % 2 == 0))
        assert connection.execute("select count(*), count(name), min(at)::text from t where ok").fetchone() == (
            5000, 3333, "2024-05-06 07:08:09.500000")
        with connection.cursor().copy("copy (select id, name, ok from t where id < 3 order by id) to stdout csv header") as out:
            assert b"".join(bytes(part) for part in out) == b"id,name,ok\n0,,t\n1,n\t1,f\n2,n\t2,t\n"
        with pytest.raises(psycopg.errors.InvalidTextRepresentation) as caught, connection.cursor().copy("copy t from stdin") as into:
            into.write("90001\ta\t\\N\tt\n90002\tb\t\\N\tperhaps\n")
        assert caught.value.diag.context == "COPY t, line 2"
        with pytest.raises(psycopg.errors.UniqueViolation), connection.cursor().copy("copy t from stdin") as into:
            into.write("90001\ta\t\\N\tt\n1\tb\t\\N\tt\n")
        with pytest.raises(psycopg.errors.QueryCanceled), connection.cursor().copy("copy t from stdin") as into:
            into.write("90001\ta\t\\N\tt\n")
            raise psycopg.errors.QueryCanceled("thought better of it")
        assert connection.execute("select count(*) from t where id > 90000").fetchone() == (0,)
        with pytest.raises(psycopg.errors.UndefinedTable), connection.cursor().copy("copy nope to stdout") as out:
            list(out)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("copy t to '/tmp/x'")
