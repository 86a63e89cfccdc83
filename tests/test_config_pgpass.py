"""The password file, compared with libpq: it tells (PQpass) what it found for a place without connecting there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import pq

from proxy.config import pgpass
from proxy.config.pgpass import find, lookup
from proxy.config.target import Secret


def by_libpq(file: Path, host: str, port: int, database: str, user: str) -> str | None:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    # A socket folder that is not there: libpq looks the password up, and fails to connect.
    connection = pq.PGconn.connect_start(
        f"host={quoted(host)} port={port} dbname={quoted(database)} user={quoted(user)} passfile={quoted(str(file))}".encode())
    found: bytes | None = connection.password
    connection.finish()
    return found.decode("utf-8", "surrogateescape") if found else None


LINES = [
    "h:5432:d:u:secret", "h:5432:d:u:", "*:*:*:*:any", "h:*:d:*:x:y", r"h:5432:d:u:a\:b\\c\d", "# h:5432:d:u:no", "h:5432:d:v:other",
    r"h\::5432:d:u:odd", "h:5432:d:u", "h:5432:d", "", "h:5432:d:u:trailing\\", "H:5432:d:u:case", "h:05432:d:u:zero",
    "h:5432:d:u:with # hash", " h:5432:d:u:space", "h:5432:d:u:é", r"\h:5432:d:u:escaped", "*h:5432:d:u:star", r"\*:5432:d:u:literal",
    "h:5432:d:u:crlf\r",
]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("place", [("/nowhere", 5432, "d", "u"), ("/no:where", 5432, "d", "u"), ("/*", 5432, "d", "u")])
def test_lines_as_libpq_reads_them(tmp_path: Path, line: str, place: tuple[str, int, str, str]) -> None:
    file = tmp_path / "pass"
    host = place[0]
    # `h` stands for the place's host, escaped as the file wants it.
    escaped = host.replace("\\", "\\\\").replace(":", "\\:")
    file.write_text(line.replace("h:", f"{escaped}:", 1) + "\n")
    file.chmod(0o600)
    ours = lookup(*place, environ={"PGPASSFILE": str(file)})
    assert (ours.reveal() if ours else None) == by_libpq(file, *place)


text = st.text(alphabet="ab:\\*#é ", min_size=1, max_size=4)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=st.lists(st.text(alphabet="/ab:\\*#1 \r", max_size=24), max_size=6), host=text, database=text, user=text)
def test_any_file(tmp_path: Path, lines: list[str], host: str, database: str, user: str) -> None:
    file = tmp_path / "pass"
    file.write_bytes("\n".join(lines).encode() + b"\n*:*:*:*:last\n")
    file.chmod(0o600)
    place = ("/" + host, 1, database, user)
    ours = lookup(*place, environ={"PGPASSFILE": str(file)})
    assert (ours.reveal() if ours else None) == by_libpq(file, *place)


@pytest.mark.parametrize("folder", ["", "/tmp", "/var/run/postgresql"])
def test_the_default_socket_is_localhost(folder: str, tmp_path: Path) -> None:
    file = tmp_path / "pass"
    file.write_text("localhost:5432:*:*:here\n")
    file.chmod(0o600)
    found = lookup(folder, 5432, "d", "u", environ={"PGPASSFILE": str(file)})
    assert found is not None
    assert found.reveal() == "here"


def test_huge_passwords() -> None:
    assert find("*:*:*:*:" + "x" * 100_000, ("h", "1", "d", "u")) == "x" * 100_000


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_may_read_is_ignored(tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "pass"
    file.write_text("*:*:*:*:secret\n")
    file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert lookup("h", 1, "d", "u", environ={"PGPASSFILE": str(file)}) is None
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_where_it_is(tmp_path: Path) -> None:
    assert pgpass.path({"PGPASSFILE": "/x", "HOME": "/h"}) == Path("/x")
    assert pgpass.path({"HOME": "/h"}) == Path("/h/.pgpass")
    assert lookup("h", 1, "d", "u", environ={"PGPASSFILE": str(tmp_path / "none")}) is None
    assert lookup("h", 1, "d", "u", environ={"PGPASSFILE": str(tmp_path)}) is None
    assert lookup("h", 1, "d", "u", environ={"PGPASSWORD": "x", "PGPASSFILE": str(tmp_path)}) == Secret("x")
