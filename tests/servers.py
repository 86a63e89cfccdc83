"""Real servers as objects with verbs: PostgreSQL from wheels, and the daemon itself.

All on free ports and private folders.  As root the servers run as `nobody`: nobody new is ever created.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import yaml

from proxy.embedded.cluster import Cluster
from proxy.embedded.owner import as_owner

ROOT = Path(__file__).parent.parent
DEADLINE = 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(true: Any, what: str, deadline: float = DEADLINE) -> Any:
    """Wait for a thing, not for a time."""
    end = time.monotonic() + deadline
    while not (found := true()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)  # a poll, not a wait: the loop ends with the thing
    return found


class Postgres:
    """A cluster with TCP on 127.0.0.1, user `postgres` by SCRAM."""

    def __init__(self, binaries: Path | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.port = free_port()
        self.cluster = Cluster(self.folder / "pg", binaries, settings={
            "listen_addresses": "127.0.0.1", "port": str(self.port), "fsync": "off", "max_connections": "120",
            "log_min_messages": "warning", **settings})
        self.start()

    def start(self) -> None:
        self.cluster.port = self.port
        self.cluster.start()
        word = self.cluster.credential.password
        assert word is not None
        self.password = word.reveal()

    def stop(self) -> None:
        self.cluster.stop()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def sql(self, text: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            done = connection.execute(text)  # type: ignore[call-overload]
            return list(done.fetchall()) if done.description else []

    def databases(self) -> set[str]:
        return {row[0] for row in self.sql("select datname from pg_database where not datistemplate")}

    def connections(self, application: str = "%") -> int:
        return int(self.sql("select count(*) from pg_stat_activity where backend_type = 'client backend' "
                            "and datname like 'backstage%'")[0][0])


class Standby(Postgres):
    """A streaming standby of a Postgres, made by pg_basebackup."""

    def __init__(self, primary: Postgres) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.port = free_port()
        self.cluster = cluster = Cluster(self.folder / "pg", primary.cluster.binaries, settings={
            **primary.cluster.settings, "port": str(self.port)})
        owner = cluster._owner()
        cluster._folders(owner)
        cluster._private(cluster.data, owner)
        (cluster.state / "password").write_text(primary.password)
        subprocess.run([cluster._program("pg_basebackup", owner), "-D", str(cluster.data), "-R", "-c", "fast", "-X", "stream",
                        "-d", primary.dsn()], check=True, cwd="/", env=cluster._environment(), **as_owner(owner))
        self.start()

    def promote(self) -> None:
        self.sql("select pg_promote()")


class Daemon:
    """`switchboard run` as a child process."""

    def __init__(self, folder: Path, database: Mapping[str, Any], **settings: Any) -> None:
        self.folder = folder
        self.config = folder / "app-config.yaml"
        self.settings: dict[str, Any] = {
            "listen": ["127.0.0.1:0"], "metrics": {"listen": "127.0.0.1:0"}, "auth": {"scram_iterations": 4096},
            "embedded": {"state_dir": str(folder / "state")},
            "users": {"backstage": {"password": "s3cret"}}, **settings}
        self.write(database)
        self.logfile = folder / "daemon.log"
        with self.logfile.open("wb") as out:
            self.process = subprocess.Popen([sys.executable, "-m", "proxy", "run", "--config", str(self.config)],
                                            cwd=ROOT, stdout=out, stderr=out, env={**os.environ, "LOG": "1"})
        until(lambda: "msg=ready" in self.log or self.process.poll() is not None, "the daemon")
        found = re.search(r"msg=ready listen=\S*?127\.0\.0\.1:(\d+).*? metrics=(\S+)", self.log)
        assert found, self.log
        self.port, self.metrics_address = int(found[1]), found[2]
        mysql = re.search(r"msg=ready .*? mysql=\S*?127\.0\.0\.1:(\d+)", self.log)
        self.mysql_port = int(mysql[1]) if mysql else 0

    def write(self, database: Mapping[str, Any]) -> None:
        self.database = dict(database)
        self.config.write_text(yaml.safe_dump({"backend": {"database": self.database}, "switchboard": self.settings}))

    @property
    def log(self) -> str:
        return self.logfile.read_text()

    def logged(self, pattern: str) -> re.Match[str]:
        return until(lambda: re.search(pattern, self.log), f"{pattern} in the log")  # type: ignore[no-any-return]

    def dsn(self, database: str, user: str = "backstage", password: str = "s3cret", **options: str) -> str:
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}" + (f"?{query}" if query else "")

    def connect(self, database: str, user: str = "backstage", password: str = "s3cret", **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(database, user, password), autocommit=more.pop("autocommit", True), **more)

    def get(self, path: str) -> str:
        with urlopen(f"http://{self.metrics_address}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        total = 0.0
        for line in self.get("/metrics").splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


@contextlib.contextmanager
def daemon(folder: Path, database: Mapping[str, Any], **settings: Any) -> Iterator[Daemon]:
    running = Daemon(folder, database, **settings)
    try:
        yield running
        assert running.process.poll() is None, running.log
    finally:
        running.stop()
    assert "internal error" not in running.log, running.log
    assert "background task" not in running.log, running.log
    assert "Exception in callback" not in running.log, running.log
