"""The examples with SQLite files, run as they stand but for folders, and the README's session."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.servers import ROOT, Postgres, daemon

EXAMPLE = re.search(r"^```sqlite-session\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder() -> Iterator[Path]:
    """That the owner of our own PostgreSQL can enter."""
    made = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_the_readme(folder: Path) -> None:
    assert EXAMPLE is not None
    with daemon(folder, {"client": "better-sqlite3", "connection": {"directory": str(folder)}}) as running, \
            running.connect("catalog") as connection:
        for line in EXAMPLE[1].splitlines():
            statement, _, expected = line.partition("  →  ")
            try:
                cursor = connection.execute(statement.encode())
                row = cursor.fetchone() if cursor.description else None
                heard = "OK" if row is None else " | ".join(map(str, row))
            except psycopg.Error as error:
                heard = f"ERROR {error.sqlstate}"
            assert heard == expected, statement


def test_every_plugin_in_a_file(folder: Path) -> None:
    text = yaml.safe_load((ROOT / "config/examples/sqlite-files.yaml").read_text().replace("/var/lib/backstage", str(folder)))
    (folder / "db").mkdir()
    with sqlite3.connect(folder / "db/people.sqlite") as program:
        program.execute("create table person (name text)")
        program.execute("insert into person values ('Ann')")
    program.close()
    with daemon(folder, text["backend"]["database"], **text["switchboard"]) as running:
        with running.connect("auth") as connection:
            assert connection.execute("select * from person").fetchall() == [("Ann",)]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("delete from person")
        with running.connect("catalog") as connection:
            connection.execute("create table t (a integer)")
        assert (folder / "db/catalog.sqlite").exists()
        with running.connect("scratch") as connection:
            row = connection.execute("select version(), current_database()").fetchone()
            assert row is not None
            assert "SQLite" not in row[0]
            assert row[1] == "backstage_plugin_scratch"


def test_one_beside_postgresql(folder: Path, postgres: Postgres) -> None:
    """Nothing of the base reaches the file."""
    text = (ROOT / "config/examples/postgresql-and-sqlite-file.yaml").read_text().replace("/var/lib/backstage", str(folder))
    text = text.replace("foo:bar@db.example.com:5432", f"postgres:{postgres.password}@127.0.0.1:{postgres.port}")
    with daemon(folder, yaml.safe_load(text)["backend"]["database"], sqlite={"catalog": False}) as running:
        with running.connect("auth") as connection:
            row = connection.execute("select version(), current_database(), current_user").fetchone()
            assert row is not None
            assert ("SQLite" in row[0], *row[1:]) == (True, "auth", "backstage")
        with running.connect("catalog") as connection:
            row = connection.execute("select version(), current_database(), current_user").fetchone()
            assert row is not None
            assert ("SQLite" in row[0], *row[1:]) == (False, "backstage_plugin_catalog", "postgres")
    assert (folder / "auth.sqlite").exists()
