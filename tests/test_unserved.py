"""Databases that Backstage knows and we do not serve yet, SQLite files: told at load, by `check`, and to who asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.configuration import read
from proxy.errors import ConfigProblems
from tests.servers import Daemon, daemon

FILE = {"client": "better-sqlite3", "connection": {"directory": "/somewhere"}}
TEXT = """\
backend:
  database:
    client: pg
    connection: {host: h}
    plugin:
      auth:
        client: better-sqlite3
        connection: {filename: auth.sqlite}
"""


def test_plugins_are_warned_of_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(TEXT)
    told = "\n".join(read([path], environ={}).warnings)
    assert (f"{path}:7:17: backend.database.plugin.auth.client: a SQLite file is not served yet: clients that ask for it are refused "
            "(0A000); use client: pg, or connection: ':memory:' for a database that is empty at each start") in told


@pytest.mark.parametrize("base", [
    "client: better-sqlite3, connection: {directory: /d}",
    "client: better-sqlite3, connection: {directory: /d}, plugin: {catalog: {}}"])
def test_where_nothing_is_left_to_serve_the_start_is_refused(tmp_path: Path, base: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"backend:\n  database: {{{base}}}\n")
    with pytest.raises(ConfigProblems) as caught:
        read([path], environ={})
    assert len(caught.value.problems) == 1
    assert f"{path}:2:22: backend.database.client: " in str(caught.value)
    assert "is not served yet" in str(caught.value)


def test_a_client_is_told(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, {**base, "plugin": {"auth": FILE}}) as running:
        refused(running, "auth")
        with running.connect("catalog") as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def refused(running: Daemon, plugin: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="is not served yet") as caught:
        running.connect(plugin)
    assert f"Set client: pg for plugin {plugin}" in str(caught.value)
