"""The commands, as an operator types them."""

from __future__ import annotations

import json
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
    shown = json.loads(switchboard("config", "--json", "--config", config).stdout)
    assert {"key": "switchboard.tls.mode", "value": "allow", "from": "default"} in shown
    assert any(row["key"] == "switchboard.users.u.password" and f"{config}:" in row["from"] for row in shown)
    assert "hidden" not in switchboard("config", "--json", "--config", config).stdout
    config.write_text("switchboard: {lisen: 1}")
    broken = switchboard("run", "--config", config)
    assert broken.returncode == 2
    assert 'did you mean "listen"' in broken.stderr
    assert "backend.database: is missing" in broken.stderr


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
