"""Log lines: what needs quotes has them, nothing else has."""

from __future__ import annotations

import io
import logging

import pytest

from proxy.server.log import Logfmt


@pytest.mark.parametrize(("value", "shown"), [
    ("catalog", "catalog"), ("", '""'), ("two words", '"two words"'), ('a"b', r'"a\"b"'), ("a=b", '"a=b"'), ("a\\b", r'"a\\b"'),
    ("line\nbreak", r'"line\nbreak"'), ("Bär", "Bär"), ("ein Bär", '"ein Bär"'), (True, "true"), (17, "17"), (None, "None")])
def test_values(value: object, shown: str) -> None:
    record = logging.makeLogRecord({"msg": "client left", "levelname": "INFO", "created": 1.5, "msecs": 500.0, "fields": {"v": value}})
    assert Logfmt().format(record) == f'ts=1970-01-01T00:00:01.500Z level=info msg="client left" v={shown}'
    assert "\n" not in Logfmt(journal=True).format(record)


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
