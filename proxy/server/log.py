"""Logging: one line per event, `key=value` or JSON, with journal priorities under systemd.

A caller writes `log.info("client left", extra={"fields": {...}})`.  Fields hold names and numbers, never secrets:
what must not be seen is a Secret and prints as ***.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import time
from typing import Any, TextIO

from proxy.config.settings import Log

# Nearly all words are one of these: one look by the regex engine instead of one per character.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+").fullmatch
_SPACED = re.compile(r"[ !#-\[\]-~]*").fullmatch
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Logfmt(logging.Formatter):
    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = f"msg={_quoted(record.getMessage())}"
        fields = record.__dict__.get("fields")
        if fields:
            for key, value in fields.items():
                text += f" {key}={_quoted(value)}"
        if record.exc_info:
            text += f" exception={_quoted(self.formatException(record.exc_info))}"
        if self.journal:
            return f"<{PRIORITIES.get(record.levelno, 6)}>{text}"
        return f"ts={_stamp(record)} level={record.levelname.lower()} {text}"


class Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words: dict[str, Any] = {"ts": _stamp(record), "level": record.levelname.lower(), "msg": record.getMessage(),
                                 **getattr(record, "fields", {})}
        if record.exc_info:
            words["exception"] = self.formatException(record.exc_info)
        return _printable(json.dumps(words, default=str, ensure_ascii=False))


@functools.lru_cache(maxsize=4)
def _second(created: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))


def _stamp(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


def _quoted(value: object) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    text = value if isinstance(value, str) else str(value)
    if _PLAIN(text):
        return text
    if _SPACED(text):
        return f'"{text}"'
    if text and not any(character in ' "=\\' or not character.isprintable() for character in text):
        return text
    return _printable(json.dumps(text, ensure_ascii=False))


def _printable(text: str) -> str:
    """JSON escapes what is below U+0020 only: the rest of what moves a terminal's cursor, or the direction of its text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] if ord(c) != 127 else "\\u007f" for c in text)


def set_up(settings: Log, stream: TextIO | None = None) -> None:
    """Replace the root logger's handlers."""
    stream = stream or sys.stderr
    # Python's logging HOWTO, "Optimization": nothing of ours prints where a line was logged, or by which thread.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    form = settings.format
    if form == "auto":
        form = "journal" if _to_journal(stream) else "logfmt"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Json() if form == "json" else Logfmt(journal=form == "journal"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())


def _to_journal(stream: TextIO) -> bool:
    """Is `stream` the journal?  systemd.exec(5): JOURNAL_STREAM holds device and inode of its socket."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (str(found.st_dev), str(found.st_ino)) == (device, inode)
