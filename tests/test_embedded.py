"""The PostgreSQL of our own: private, adopted after a crash, gone with us."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.embedded.cluster import Cluster
from proxy.errors import OperatorFault
from tests.servers import Daemon, until


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def ask(cluster: Cluster, text: str) -> object:
    word = cluster.credential.password
    assert word is not None
    with psycopg.connect(host=cluster.server.host, port=cluster.server.port, user="postgres", password=word.reveal(), dbname="postgres",
                         autocommit=True) as connection:
        row = connection.execute(text).fetchone()  # type: ignore[call-overload]
        return row[0] if row else None


def test_private_and_adopted(folder: Path) -> None:
    first = Cluster(folder / "pg")
    first.start()
    try:
        assert stat.S_IMODE((folder / "pg").stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "pg/password").stat().st_mode) == 0o600
        assert ask(first, "show listen_addresses") == ""
        assert ask(first, "show password_encryption") == "scram-sha-256"
        assert first.process is not None
        arguments = Path(f"/proc/{first.process.pid}/cmdline")
        if arguments.exists():
            assert (folder / "pg/password").read_text().strip() not in arguments.read_bytes().decode()
        again = Cluster(folder / "pg")        # as after a crash: the server is still there
        again.start()
        assert again.process is None
        assert again.pid == first.process.pid
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host=again.server.host, user="postgres", password="wrong", dbname="postgres")
    finally:
        first.stop()
    assert not first.alive()


def test_another_version_is_refused(folder: Path) -> None:
    cluster = Cluster(folder / "pg")
    cluster.start()
    cluster.stop()
    (folder / "pg/data/PG_VERSION").write_text("9\n")
    with pytest.raises(OperatorFault, match="made by PostgreSQL 9"):
        cluster.start()


def test_memory_is_empty_at_each_start_and_embedded_keeps(folder: Path) -> None:
    database = {"client": "better-sqlite3", "connection": ":memory:", "plugin": {"search": {"client": "embedded-postgres"}}}
    seen = []
    for start in ("one", "two"):
        (folder / start).mkdir()
        running = Daemon(folder / start, database, embedded={"state_dir": str(folder / "pg")})
        for plugin in ("catalog", "search"):
            with running.connect(plugin) as connection:
                connection.execute("create table if not exists t (a int)")
                connection.execute("insert into t values (1)")
                row = connection.execute("select count(*) from t").fetchone()
                assert row is not None
                seen.append((start, plugin, row[0]))
        assert running.stop() == 0
        assert not (folder / "pg/data/postmaster.pid").exists()
    assert seen == [("one", "catalog", 1), ("one", "search", 1), ("two", "catalog", 1), ("two", "search", 2)]


def test_it_goes_when_we_are_killed(folder: Path) -> None:
    if not os.path.exists("/proc/self"):
        pytest.skip("only Linux tells a child that its parent has died; elsewhere the next start adopts it")
    running = Daemon(folder, {"client": "better-sqlite3", "connection": ":memory:"}, embedded={"state_dir": str(folder / "pg")})
    running.signal(signal.SIGKILL)
    running.process.wait()
    until(lambda: not (folder / "pg/data/postmaster.pid").exists(), "the end of the server")
