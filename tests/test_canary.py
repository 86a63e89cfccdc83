"""Every secret of a configuration is a marked word: no log, page, metric, answer, command or process title ever holds it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from proxy.auth.scram import make_verifier
from tests.servers import ROOT, Daemon, Postgres, daemon

MARK = "CANARY"


@pytest.fixture
def server() -> Any:
    made = Postgres()
    made.sql(f"create role plugin login password '{MARK}-plugin'")
    made.sql(f"create role maker login createdb password '{MARK}-maker'")
    made.sql("grant plugin to maker")
    yield made
    made.remove()


def settings(server: Postgres) -> tuple[dict[str, Any], dict[str, Any]]:
    connection = {"host": "127.0.0.1", "port": server.port, "user": "plugin", "password": f"{MARK}-plugin"}
    database = {"client": "pg", "connection": connection, "plugin": {
        "auth": {"connection": f"postgresql://plugin:{MARK}-wrong@127.0.0.1:{server.port}/of-another"}}}
    stored = str(make_verifier(f"{MARK}-hashed", 4096))
    users = {"plain": {"password": f"{MARK}-plain"}, "hashed": {"password": stored}, "narrow": {"password": f"{MARK}-n", "plugins": []}}
    credentials = [{"server": f"127.0.0.1:{server.port}", "user": "maker", "password": f"{MARK}-maker"}]
    return database, {"users": users, "provisioning": {"credentials": credentials}, "log": {"level": "debug"}}


def use(running: Daemon) -> str:
    """All kinds of logins, right and wrong; what clients were told."""
    told = []
    attempts = [("catalog", "plain", "plain"), ("catalog", "hashed", "hashed"), ("catalog", "plain", "guessed"),
                ("catalog", "nobody", "x"), ("catalog", "narrow", "n"), ("no-such_", "plain", "plain"), ("auth", "plain", "plain"),
                ("postgres", "plain", "plain")]
    for database, user, word in attempts:
        try:
            with running.connect(database, user, f"{MARK}-{word}") as connection:
                connection.execute("select 1")
                with contextlib.suppress(psycopg.Error):
                    connection.execute("create database stray")
        except psycopg.Error as error:
            told.append(str(error))
            told.append(str(getattr(error, "diag", None) and [error.diag.message_detail, error.diag.message_hint]))
    return "\n".join(told)


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace") + Path(f"/proc/{pid}/comm").read_text()


def commands(config: Path) -> str:
    told = []
    for words in (["check"], ["check", "--json"], ["routes"], ["routes", "--json"], ["config"], ["config", "--json"],
                  ["provision", "--json"], ["provision", "auth"]):
        done = subprocess.run([sys.executable, "-m", "proxy", *words, "--config", str(config)], cwd=ROOT, capture_output=True,
                              text=True, check=False, timeout=120)
        told += [done.stdout, done.stderr]
    return "\n".join(told)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc on this machine")
@pytest.mark.parametrize("mode", ["session", "transaction", "auto"])
def test_no_secret_is_ever_seen(server: Postgres, tmp_path: Path, mode: str) -> None:
    database, ours = settings(server)
    seen = {}
    with daemon(tmp_path, database, pool={"mode": mode}, **ours) as running:
        seen["clients"] = use(running)
        for path in ("/metrics", "/status.json", "/"):
            seen[path] = running.get(path)
        seen["title"] = title(running.process.pid)
        seen["commands"] = commands(running.config)
        whole = running.config.read_text()
        for broken in ("lisen: 1", f"users: {{plain: {MARK}-misplaced}}", f"provisioning: {{credentials: [{MARK}-misplaced]}}",
                       f"pool: {{size: {MARK}-misplaced}}", f"log: {MARK}-misplaced", f"port: {MARK}-misplaced",
                       f"auth: {{rules: [{{method: ldap, ldapserver: a, ldapprefix: b, ldapbindpasswd: {MARK}-misplaced}}]}}"):
            tree = yaml.safe_load(whole)
            tree["switchboard"] |= yaml.safe_load(broken)
            running.config.write_text(yaml.safe_dump(tree))
            told = subprocess.run([sys.executable, "-m", "proxy", "config", "--check", "--config", str(running.config)], cwd=ROOT,
                                  capture_output=True, text=True, check=False, timeout=120)
            assert told.returncode == 2
            seen[broken.partition(":")[0]] = told.stdout + told.stderr
            running.signal(signal.SIGHUP)
        running.config.write_text(whole)
        running.signal(signal.SIGHUP)
        running.logged("msg=reloaded")
    seen["log"] = running.log
    assert len(re.findall("the old configuration stays", running.log)) >= 1
    for where, text in seen.items():
        assert MARK not in text, (where, re.findall(rf".*{MARK}.*", text)[:3])
    stored = ours["users"]["hashed"]["password"].split("$")[2]
    assert all(part not in text for text in seen.values() for part in stored.split(":"))
