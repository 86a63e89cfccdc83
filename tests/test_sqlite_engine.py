"""What answers for a plugin in SQLite is a choice (`engine`), and one of the choices is nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.configuration import read
from proxy.config.target import Engine
from tests.servers import daemon

TEXT = """\
backend:
  database:
    client: pg
    connection: {host: h}
    plugin:
      auth:
        client: better-sqlite3
        connection: {filename: auth.sqlite}
      app:
        client: better-sqlite3
        connection: ':memory:'
"""


@pytest.mark.parametrize(("plugin", "settings", "engine", "database"), [
    ("auth", "", Engine.SQLITE, "auth"), ("app", "", Engine.MEMORY, "backstage_plugin_app"),
    ("auth", "engine: embedded", Engine.EMBEDDED, "backstage_plugin_auth"), ("app", "engine: gateway", Engine.SQLITE, "app"),
    ("auth", "engine: reject", Engine.REJECTED, "auth"), ("app", "engine: reject", Engine.REJECTED, "backstage_plugin_app"),
    ("catalog", "engine: reject", Engine.POSTGRES, "backstage_plugin_catalog")])
def test_the_engine_of_a_plugin(tmp_path: Path, plugin: str, settings: str, engine: Engine, database: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{TEXT}switchboard:\n  plugin:\n    {plugin}: {{{settings}}}\n")
    target = read([path], environ={}).target(plugin)
    assert (target.engine, target.database) == (engine, database)


def test_who_is_rejected_is_told(base: dict[str, Any], tmp_path: Path) -> None:
    file = {"client": "better-sqlite3", "connection": {"directory": str(tmp_path)}}
    with daemon(tmp_path, {**base, "plugin": {"auth": file}}, plugin={"auth": {"engine": "reject"}}) as running:
        with pytest.raises(psycopg.OperationalError, match="plugin auth lives in SQLite and is not served here"):
            running.connect("auth")
        with running.connect("catalog") as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_in_memory_behind_the_gateway(base: dict[str, Any], tmp_path: Path) -> None:
    """One database for all clients, as long as the daemon lives."""
    database = {**base, "plugin": {"app": {"client": "better-sqlite3", "connection": ":memory:"}}}
    with daemon(tmp_path, database, plugin={"app": {"engine": "gateway"}}, sqlite={"catalog": False}) as running:
        with running.connect("app") as one:
            one.execute("create table t (a integer)")
            one.execute("insert into t values (1)")
        with running.connect("app") as other:
            assert other.execute("select a, version() like '%SQLite%' from t").fetchone() == (1, True)
