"""What answers for a plugin in SQLite is a choice (`engine`), and one of the choices is nobody."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

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


def test_check_tells_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database, and long enough to be read as one " * 50)
    (tmp_path / "folder.sqlite").mkdir()
    with sqlite3.connect(tmp_path / "good.sqlite") as program:
        program.execute("create table t (a)")
    program.close()
    path = tmp_path / "app-config.yaml"
    path.write_text(yaml.safe_dump({
        "backend": {"database": {"client": "better-sqlite3", "connection": {"directory": str(tmp_path)}, "plugin": {
            name: {} for name in ("text", "folder", "good", "missing", "looked", "off")}}},
        "switchboard": {"plugin": {"looked": {"read_only": True}, "off": {"engine": "reject"}}}}))
    done = subprocess.run([sys.executable, "-m", "proxy", "check", "--json", "--config", str(path)], text=True, capture_output=True,
                          check=False, timeout=60)
    found = {row["plugin"]: row for row in json.loads(done.stdout)}
    assert {name: (row["ok"], row["step"]) for name, row in found.items()} == {
        "text": (False, "open"), "folder": (False, "file"), "good": (True, "open"), "missing": (True, "file"),
        "looked": (False, "file"), "off": (True, "engine")}
    assert "1 tables, journal delete" in found["good"]["note"]
    assert "will be created" in found["missing"]["note"]
    assert "is not there" in found["looked"]["problem"]
    assert done.returncode == 1
    assert not (tmp_path / "missing.sqlite").exists()


def test_in_memory_behind_the_gateway(base: dict[str, Any], tmp_path: Path) -> None:
    """One database for all clients, as long as the daemon lives."""
    database = {**base, "plugin": {"app": {"client": "better-sqlite3", "connection": ":memory:"}}}
    with daemon(tmp_path, database, plugin={"app": {"engine": "gateway"}}, sqlite={"catalog": False}) as running:
        with running.connect("app") as one:
            one.execute("create table t (a integer)")
            one.execute("insert into t values (1)")
        with running.connect("app") as other:
            assert other.execute("select a, version() like '%SQLite%' from t").fetchone() == (1, True)
