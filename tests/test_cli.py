"""The commands, as an operator types them."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.auth.scram import parse_verifier
from tests.servers import ROOT, Postgres


def switchboard(*words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "proxy", *map(str, words)], cwd=ROOT, capture_output=True, text=True, input=stdin,
                          check=False, timeout=60)


@pytest.fixture
def config(base: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "app-config.yaml"
    stranger = {"connection": {"user": "nobody-here", "password": "hidden"}}
    database = {**base, "plugin": {"catalog": {}, "cli-made": {}, "auth": stranger}}
    path.write_text(yaml.safe_dump({"backend": {"database": database}, "switchboard": {"users": {"u": {"password": "hidden"}}}}))
    return path


def test_help_and_version() -> None:
    assert "examples:" in switchboard("--help").stdout
    assert switchboard("version").stdout.startswith("switchboard 0.")
    assert switchboard("nonsense").returncode == 2


def test_hash_password() -> None:
    assert parse_verifier(switchboard("hash-password", stdin="secret\n").stdout.strip()).iterations == 4096
    assert switchboard("hash-password", "--md5", "u", stdin="secret\n").stdout.startswith("md5")
    assert switchboard("hash-password", stdin="\n").returncode == 1
    assert switchboard("hash-password", "--iterations", "0", stdin="secret\n").returncode == 2


def test_routes(config: Path) -> None:
    told = switchboard("routes", "--config", config)
    assert "backstage_plugin_catalog" in told.stdout
    rows = json.loads(switchboard("routes", "--json", "--config", config).stdout)
    assert [row["pluginId"] for row in rows] == ["auth", "catalog", "cli-made"]
    assert "hidden" not in told.stdout + json.dumps(rows)


def test_check_says_what_to_do(config: Path) -> None:
    told = switchboard("check", "--config", config)
    assert told.returncode == 1
    assert "Correct the user or password" in told.stdout
    assert "hidden" not in told.stdout + told.stderr
    assert switchboard("check", "--config", config, "catalog").returncode == 0


def test_provision(config: Path, postgres: Postgres) -> None:
    assert switchboard("provision", "--config", config, "cli-made").returncode == 0
    assert "backstage_plugin_cli-made" in postgres.databases()
    assert "existed" in switchboard("provision", "--config", config, "cli-made").stdout
    postgres.sql('drop database "backstage_plugin_cli-made"')


def test_config(config: Path) -> None:
    assert switchboard("config", "--check", "--config", config).stdout.startswith("ok: ")
    assert re.search(r"switchboard\.pool\.size +20 +default", switchboard("config", "--config", config).stdout)
    shown = json.loads(switchboard("config", "--json", "--config", config).stdout)["settings"]
    assert {"key": "switchboard.tls.mode", "value": "allow", "from": "default"} in shown
    assert any(row["key"] == "switchboard.users.u.password" and f"{config}:" in row["from"] for row in shown)
    assert "hidden" not in switchboard("config", "--json", "--config", config).stdout
    config.write_text("switchboard: {lisen: 1}")
    broken = switchboard("run", "--config", config)
    assert broken.returncode == 2
    assert 'did you mean "listen"' in broken.stderr
    assert "backend.database: is missing" in broken.stderr


TARGETS = """\
backend:
  database:
    client: pg
    connection: {host: '${DBHOST}', user: bs, password: hidden}
    prefix: p_
    plugin:
      auth: {connection: {database: fox, user: fort, password: hidden, port: 5433}}
      catalog: {}
      memory: {client: better-sqlite3, connection: ':memory:'}
      cluster: {connection: 'postgres://u:hidden@a,b/db'}
switchboard: {users: {u: {password: hidden}}, plugin: {catalog: {pool: {mode: transaction}}}}
"""


def test_config_shows_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBHOST", "db.example")
    path = tmp_path / "a.yaml"
    path.write_text(TARGETS)
    told = switchboard("config", "--config", path)
    assert [re.split(" {2,}", line) for line in told.stdout.replace(f"{path}:", "").splitlines()[:6]] == [
        ["PLUGIN", "DATABASE", "SCHEMA", "HOST", "USER", "MODE", "FROM"],
        ["auth", "fox", "db.example:5433", "fort", "auto", "4:24 from ${DBHOST}"],
        ["catalog", "p_catalog", "db.example:5432", "bs", "transaction", "4:24 from ${DBHOST}"],
        ["memory", "backstage_plugin_memory", "(memory)", "auto", "9:52"],
        ["cluster", "db", "a:5432,b:5432", "u", "auto", "10:29"],
        ["*", "p_*", "db.example:5432", "bs", "auto", "4:24 from ${DBHOST}"]]
    rows = json.loads(switchboard("config", "--json", "--config", path).stdout)["targets"]
    assert rows[0] == {"pluginId": "auth", "client": "postgres", "database": "fox", "schema": None, "host": "db.example:5433",
                       "user": "fort", "mode": "auto", "from": {"server": f"{path}:4:24 from ${{DBHOST}}", "user": f"{path}:7:48",
                                                                   "database": f"{path}:7:37"}}
    assert rows[1]["from"]["database"] == f"{path}:5:13"
    assert "hidden" not in told.stdout + json.dumps(rows)
    path.write_text(TARGETS.replace("prefix: p_", "pluginDivisionMode: schema\n    schemaPrefix: s_").replace(
        "user: bs,", "user: bs, database: shared,").replace("{client: better-sqlite3, connection: ':memory:'}", "{}").replace(
        "plugin: {", "plugins: listed, plugin: {"))
    rows = json.loads(switchboard("config", "--json", "--config", path).stdout)["targets"]
    assert [(row["pluginId"], row["database"], row["schema"]) for row in rows] == [
        ("auth", "fox", "s_auth"), ("catalog", "shared", "s_catalog"), ("memory", "shared", "s_memory"), ("cluster", "db", "s_cluster")]
    assert rows[1]["from"]["schema"] == f"{path}:6:19"


def test_lists_are_plain_but_for_bold_heads_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(TARGETS)
    assert "\033" not in switchboard("config", "--config", path).stdout
    for environ, bold in (({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        leader, follower = pty.openpty()
        subprocess.run([sys.executable, "-m", "proxy", "routes", "--config", str(path), "auth"], cwd=ROOT, stdout=follower,
                       env={"PATH": os.environ["PATH"], **environ}, timeout=60, check=True)
        assert (b"\033[1mPLUGIN" in os.read(leader, 65536)) is bold
        os.close(follower)
        os.close(leader)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_load(path: Path) -> None:
    told = switchboard("config", "--check", "--config", ROOT / "config/app-config.demo.yaml",
                       *(["--config", path] if path.name != "reference.yaml" else []))
    assert told.returncode == 0, told.stderr


def test_provision_for_machines(config: Path) -> None:
    done = switchboard("provision", "--json", "--config", config, "cli-made", "auth")
    made, failed = json.loads(done.stdout)
    assert (made["pluginId"], made["sqlstate"]) == ("cli-made", None)
    assert (failed["result"], failed["sqlstate"]) == ("failed", "42704")      # its owner does not exist
    assert "hidden" not in done.stdout


def test_exit_codes_are_told_and_kept() -> None:
    for command in ("run", "check", "routes", "provision", "config", "hash-password", "version"):
        assert "exit codes: 0 done, 1 something failed, 2 the arguments" in switchboard(command, "--help").stdout.replace("\n", " ")
    told = switchboard("routes", "not_a_plugin_")
    assert (told.returncode, "is not a plugin id" in told.stderr) == (2, True)
