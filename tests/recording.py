"""A recorded Backstage: its statements, its files, and SQLite itself, asked as Backstage asks it (tests/backstage/record.py)."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

HERE = Path(__file__).parent / "backstage"
UNREADABLE, UNSUPPORTED = "42601", "0A000"


class Answer(NamedTuple):
    """Rows as Python values: a driver's, or SQLite's."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    written: int = -1
    """Of rows that a statement wrote; -1: unknown."""


class Refused(Exception):
    """An error instead of rows."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


class Ask(Protocol):
    def __call__(self, plugin: str, sql: str, parameters: Sequence[Any]) -> Answer: ...


def recording(dialect: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / f"recorded-{dialect}.jsonl").read_text().splitlines()]


def restore(folder: Path) -> None:
    """The plugins' files, as Backstage left them."""
    for dump in (HERE / "files").glob("*.sql"):
        with contextlib.closing(sqlite3.connect(folder / f"{dump.stem}.sqlite")) as file:
            file.executescript(dump.read_text())


class Itself:
    """SQLite, asked as better-sqlite3 asks it."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, sqlite3.Connection] = {}
        for path in folder.glob("*.sqlite"):
            self.files[path.stem] = file = sqlite3.connect(path, isolation_level=None)
            file.execute("pragma foreign_keys = on")
            file.execute("pragma case_sensitive_like = on")      # as LIKE is in PostgreSQL's SQL

    def __call__(self, plugin: str, sql: str, parameters: Sequence[Any]) -> Answer:
        file = self.files[plugin]
        given = [_bound(value) for value in parameters]
        try:
            done = file.execute(re.sub(r"\$(\d+)", r"?\1", sql), given)
            return Answer([column[0] for column in done.description or ()], done.fetchall(), done.rowcount)
        except sqlite3.IntegrityError as error:
            kinds = {"UNIQUE": "23505", "FOREIGN": "23503", "NOT": "23502", "CHECK": "23514"}
            raise Refused(kinds.get(str(error).split()[0], "23000"), str(error)) from None
        except (sqlite3.Error, sqlite3.Warning) as error:
            missing = {"no such table": "42P01", "no such column": "42703"}
            raise Refused(next((state for text, state in missing.items() if text in str(error)), UNREADABLE), str(error)) from None

    def tables(self, plugin: str) -> list[str]:
        return [name for (name,) in self.files[plugin].execute("select name from sqlite_master where type = 'table'")]

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def _bound(value: Any) -> Any:
    """knex's and better-sqlite3's way with a recorded binding."""
    if isinstance(value, dict):
        if "$bytes" in value:
            return bytes.fromhex(value["$bytes"])
        return moment(value["$date"])
    return json.dumps(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value


def moment(text: str) -> int:
    """Milliseconds since 1970."""
    return round(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
