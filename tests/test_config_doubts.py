"""What is allowed and hardly meant is warned of, where it stands; nothing of it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.configuration import read
from proxy.errors import ConfigProblems

BASE = """\
backend:
  database:
    client: pg
    connection: {host: db, user: bs, password: hunter2}
    plugin:
      catalog: {}
switchboard:
  users: {b: {password: hunter2}}
"""
END = "  users: {b: {password: hunter2}}\n"
SPLIT = "client: pg\n    pluginDivisionMode: "


def told(tmp_path: Path, text: str, **environ: str) -> list[str]:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    found = [text.removeprefix(f"{tmp_path}/") for text in read([path], environ=environ).warnings]
    assert "hunter2" not in str(found)
    return found


def test_nothing_is_odd_about_this(tmp_path: Path) -> None:
    assert told(tmp_path, BASE) == []


@pytest.mark.parametrize(("right", "wrong", "warning"), [
    (END, END + "  plugin: {catlog: {pool: {size: 3}}}\n",
     'a.yaml:9:12: switchboard.plugin.catlog: no such plugin under backend.database.plugin; did you mean "catalog"?'),
    (END, END + "  plugins: listed\n  plugin: {other: {pool: {size: 3}}}\n",
     "a.yaml:10:12: switchboard.plugin.other: no such plugin under backend.database.plugin"),
    ("password: hunter2}}", "password: hunter2, plugins: [catalogue, '*', other]}}",
     'a.yaml:8:43: switchboard.users.b.plugins: catalogue: no such plugin under backend.database.plugin; did you mean "catalog"?'),
    (END, "  users: {}\n", "switchboard.users: is empty, so nobody can log in"),
    ("{b: {password: hunter2}}", "{b: {password: 'SCRAM-SHA-256$4096:hunter2'}}",
     "a.yaml:8:25: switchboard.users.b.password: begins as a verifier and is none, so it is taken for a password; was it cut, or "
     "a $ of it replaced by a shell?"),
    ("client: pg", SPLIT + "Schema", "a.yaml:4:25: backend.database.pluginDivisionMode: only schema and database mean something; this "
                                     "is taken for database"),
    ("client: pg", SPLIT + "schema", "a.yaml:5:17: backend.database.connection.database: is missing; with pluginDivisionMode: schema "
                                     "all plugins share the database of the user's name"),
    ("client: pg", "client: pg\n    prefix: " + "p" * 60,
     "a.yaml:4:13: backend.database.prefix: the database of plugin catalog would have a name of more than 63 bytes, which PostgreSQL "
     "cuts; clients that ask for it are refused (3D000)"),
    (END, END + "  provisioning: {credentials: [{server: 'other:5432', user: x}]}\n",
     "a.yaml:9:32: switchboard.provisioning.credentials[0].server: no listed plugin's connection names this server; they name db:5432"),
    ("password: hunter2}\n    plugin", "password: '${NOPE}'}\n    plugin",
     "a.yaml:4:48: backend.database.connection.password: is left out, because ${NOPE} is not set"),
    ("password: hunter2}\n    plugin", "password: {$env: NOPE}}\n    plugin",
     "a.yaml:4:48: backend.database.connection.password: is left out, because ${NOPE} is not set"),
])
def test_doubts(tmp_path: Path, right: str, wrong: str, warning: str) -> None:
    assert right in BASE
    assert told(tmp_path, BASE.replace(right, wrong, 1)) == [warning]


def test_a_verifier_is_no_doubt(tmp_path: Path) -> None:
    verifier = f"SCRAM-SHA-256$4096:{'A' * 22}==${'B' * 43}=:{'C' * 43}="
    assert told(tmp_path, BASE.replace("{b: {password: hunter2}}", f"{{b: {{password: '{verifier}'}}}}")) == []


def test_what_is_left_out_elsewhere_or_given_above_is_no_doubt(tmp_path: Path) -> None:
    text = BASE.replace("password: hunter2}\n    plugin", "password: '${NOPE}'}\n    plugin") + "app: {title: '${NOPE}'}\n"
    assert told(tmp_path, text, APP_CONFIG_backend_database_connection_password="hunter2") == []


def test_a_misspelt_section_is_warned_of(tmp_path: Path) -> None:
    assert told(tmp_path, BASE.replace("switchboard:", "switchbord:"))[0] == (
        'a.yaml:7:1: there is no section switchboard (is "switchbord" meant for "switchboard"?)')


@pytest.mark.parametrize(("right", "wrong", "problem"), [
    ("backend:", "backed:", 'a.yaml:1:1: backend.database: is missing (is "backed" meant for "backend"?)'),
    ("database:", "databse:", 'a.yaml:2:3: backend.database: is missing (is "databse" meant for "database"?)'),
    (BASE, "", "a.yaml: backend.database: is missing; it is where Backstage says"),
    ("{password: hunter2}}", "{password: '${NOPE}'}}", "a.yaml:8:14: switchboard.users.b: has no password (${NOPE} is not set)"),
    ("host: db", "host: 'db:5432'", "a.yaml:4:24: backend.database.connection.host: expected a name or an address; the port has"),
    ("host: db", "host: postgres://db", "backend.database.connection.host: expected a name or an address, and this is a URL"),
    ("host: db", "host: db, lock_timeout: hunter2", "backend.database.connection.lock_timeout: expected milliseconds, or a number"),
])
def test_mistakes_beside_them(tmp_path: Path, right: str, wrong: str, problem: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(BASE.replace(right, wrong, 1))
    with pytest.raises(ConfigProblems) as caught:
        read([path], environ={})
    found = str(caught.value).replace(f"{tmp_path}/", "")
    assert problem in found
    assert "hunter2" not in found
