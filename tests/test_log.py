"""Log lines: what needs quotes has them, nothing else has."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.target import Secret
from proxy.server.log import Json, Logfmt
from proxy.server.quota import FIRST, KINDS, Quota
from tests.servers import Daemon, until


@pytest.mark.parametrize(("value", "shown"), [
    ("catalog", "catalog"), ("", '""'), ("two words", '"two words"'), ('a"b', r'"a\"b"'), ("a=b", '"a=b"'), ("a\\b", r'"a\\b"'),
    ("line\nbreak", r'"line\nbreak"'), ("Bär", "Bär"), ("ein Bär", '"ein Bär"'), (True, "true"), (17, "17"), (None, "None")])
def test_values(value: object, shown: str) -> None:
    record = logging.makeLogRecord({"msg": "client left", "levelname": "INFO", "created": 1.5, "msecs": 500.0, "fields": {"v": value}})
    assert Logfmt().format(record) == f'ts=1970-01-01T00:00:01.500Z level=info msg="client left" v={shown}'
    assert "\n" not in Logfmt(journal=True).format(record)


@pytest.mark.parametrize("text", ["\x7f", "\x85", "\x9b31m", "\u2028", "\u202e", "\x1b[2J", "\0", "\U000e0001"])
def test_what_moves_a_terminal_is_escaped(text: str) -> None:
    record = logging.makeLogRecord({"msg": "m", "levelname": "INFO", "created": 1.5, "msecs": 0.0, "fields": {"user": f"a{text}b"}})
    for formatter in (Logfmt(), Logfmt(journal=True), Json()):
        assert formatter.format(record).isprintable()
    assert json.loads(Json().format(record))["user"] == f"a{text}b"


@pytest.mark.parametrize(("level", "priority"), [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)])
def test_the_journal_knows_priorities(level: str, priority: int) -> None:
    record = logging.makeLogRecord({"msg": "m", "levelname": level, "levelno": logging.getLevelName(level)})
    assert Logfmt(journal=True).format(record) == f"<{priority}>msg=m"


def test_secrets_print_as_stars() -> None:
    record = logging.makeLogRecord({"msg": "m", "levelname": "INFO", "created": 1.5, "msecs": 0.0, "fields": {"p": Secret("hunter2")}})
    assert "hunter2" not in Logfmt().format(record) + Json().format(record)


def test_exceptions_are_one_line() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Logfmt())
    log = logging.getLogger("alone")
    log.propagate = False
    log.addHandler(handler)
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("internal error")
    assert out.getvalue().count("\n") == 1
    assert 'exception="Traceback' in out.getvalue()


def test_a_flood_is_counted_not_written(caplog: pytest.LogCaptureFixture) -> None:
    quota = Quota()
    quota.sweep(1000.0)
    written = [quota.allows("192.0.2.1", "wrong password") for _ in range(50)]
    assert written == [True] * 5 + [False] * 45
    assert quota.allows("192.0.2.2", "wrong password")
    with caplog.at_level(logging.WARNING):
        quota.sweep(1030.0)
        assert caplog.records == []
        quota.sweep(1061.0)
    assert [record.__dict__["fields"] for record in caplog.records] == [
        {"address": "192.0.2.1", "reason": "wrong password", "more": 45}]
    assert quota.allows("192.0.2.1", "wrong password")


def test_what_was_only_counted_is_told_at_the_end(base: dict[str, Any], tmp_path: Path) -> None:
    running = Daemon(tmp_path, base)
    try:
        for _ in range(FIRST + 3):
            with pytest.raises(psycopg.OperationalError):
                running.connect("no%20such")
        until(lambda: running.log.count('msg="client left"') + running.log.count('msg="client refused"') == FIRST, "the lines")
        assert "more=3" not in running.log
    finally:
        assert running.stop() == 0
    assert re.search(r'msg="clients refused" address=127.0.0.1 reason=\S+ more=3', running.log)


def test_kinds_have_an_end() -> None:
    quota = Quota()
    assert sum(quota.allows(f"host {number}", "x") for number in range(5000)) == KINDS + FIRST
