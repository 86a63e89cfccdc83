"""Where the daemon's passwords come from, end to end: the password file, a program, and a password that changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.servers import ROOT, Postgres, daemon


@pytest.fixture
def role(postgres: Postgres) -> Iterator[str]:
    postgres.sql("create role rotating login createdb password 'canary-one'")
    yield "rotating"
    for database in ("backstage_plugin_rotating", "backstage_plugin_filed"):
        postgres.sql(f"drop database if exists {database} with (force)")
    postgres.sql("drop role rotating")


def base(postgres: Postgres, **more: Any) -> dict[str, Any]:
    return {"client": "pg", "connection": {"host": "127.0.0.1", "port": postgres.port, "user": "rotating", **more}}


def secret_program(file: Path) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", str(file)], "lifetime": "1h"}


def test_the_password_file(postgres: Postgres, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{postgres.port}:*:rotating:canary-one\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    with daemon(tmp_path, base(postgres)) as running:
        with running.connect("filed") as connection:
            assert connection.execute("select current_user").fetchone() == ("rotating",)
        assert "canary" not in running.log


def test_a_password_that_changes(postgres: Postgres, role: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("canary-one")
    with daemon(tmp_path, base(postgres, passwordCommand=secret_program(file)), pool={"mode": "session", "size": 5}) as running:
        with running.connect("rotating") as first:
            postgres.sql("alter role rotating password 'canary-two'")
            file.write_text("canary-two")
            # The kept password is refused by now; the next one is asked for without anybody noticing.
            with running.connect("rotating") as second:
                assert second.execute("select 1").fetchone() == (1,)
            assert first.execute("select 1").fetchone() == (1,)
        postgres.sql("alter role rotating password 'canary-three'")
        file.write_text("canary-three")
        with running.connect("filed") as third:            # provisioning has the same program
            assert third.execute("select 1").fetchone() == (1,)
        assert "canary" not in running.log + running.get("/metrics") + running.get("/status.json")


def test_a_program_that_fails(postgres: Postgres, role: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('canary'); print('canary', file=sys.stderr); sys.exit(4)"]
    with daemon(tmp_path, base(postgres, passwordCommand=command)) as running:
        with pytest.raises(psycopg.OperationalError, match="ended with status 4") as caught:
            running.connect("rotating")
        assert "by hand" in str(caught.value)
        assert running.metric("switchboard_tokens_total", kind="command", outcome="failed") >= 1
        assert "canary" not in str(caught.value) + running.log


def test_check_names_the_step_and_the_remedy(postgres: Postgres, tmp_path: Path) -> None:
    for more, step, remedy in (({"passwordCommand": ["/nowhere/vault"]}, "password", "by hand"),
                               ({"password": "x", "sslmode": "require"}, "TLS", "Switch TLS on at the server"),
                               ({"password": "x", "require_auth": "md5"}, "login", "require_auth"),
                               ({"password": "x"}, "login", "Correct the user or password")):
        file = tmp_path / "app-config.yaml"
        file.write_text(yaml.safe_dump({"backend": {"database": base(postgres, **more)}}))
        done = subprocess.run([sys.executable, "-m", "proxy", "check", "catalog", "--json", "--config", str(file)], cwd=ROOT,
                              capture_output=True, text=True, check=False)
        (found,) = json.loads(done.stdout)
        assert (done.returncode, found["ok"], found["step"]) == (1, False, step), found
        assert remedy in found["remedy"]
