"""The recorded Backstage, played to a daemon that serves the files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.recording import Answer, Refused
from tests.servers import Daemon, daemon


def text_of(value: Any) -> str | bytes | None:
    """As pg sends a binding: text of no declared type."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return bytes.fromhex(value["$bytes"]) if "$bytes" in value else str(value["$date"])
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        escaped = (None if one is None else str(text_of(one)).replace("\\", "\\\\").replace('"', '\\"') for one in value)
        return "{" + ",".join("NULL" if one is None else f'"{one}"' for one in escaped) + "}"
    return str(value)


class Through:
    def __init__(self, proxy: Daemon) -> None:
        self.proxy = proxy
        self.connections: dict[str, psycopg.Connection[Any]] = {}

    def __call__(self, plugin: str, sql: str, parameters: Sequence[Any]) -> Answer:
        if plugin not in self.connections:
            self.connections[plugin] = self.proxy.connect(plugin)
        cursor = psycopg.RawCursor(self.connections[plugin])
        try:
            cursor.execute(sql.encode(), [text_of(value) for value in parameters] or None)
        except psycopg.Error as error:
            raise Refused(error.sqlstate or "", str(error).splitlines()[0]) from None
        columns = [column.name for column in cursor.description or ()]
        return Answer(columns, cursor.fetchall() if columns else [], cursor.rowcount)

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()


@contextlib.contextmanager
def through(folder: Path, files: Path) -> Iterator[Through]:
    """Of a daemon of its own, which serves `files`."""
    with daemon(folder, {"client": "better-sqlite3", "connection": {"directory": str(files)}}) as proxy:
        ask = Through(proxy)
        try:
            yield ask
        finally:
            ask.close()
