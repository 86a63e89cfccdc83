"""The PostgreSQL of our own: private, adopted after a crash, gone with us."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.embedded import binaries, places
from proxy.embedded.cluster import Cluster
from proxy.embedded.server_log import ServerLog
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
        assert stat.S_IMODE((folder / "pg").stat().st_mode) == (0o710 if os.geteuid() == 0 else 0o700)
        assert stat.S_IMODE((folder / "pg/data").stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "pg/password").stat().st_mode) == 0o600
        assert ask(first, "show listen_addresses") == ""
        assert ask(first, "show password_encryption") == "scram-sha-256"
        assert first.process is not None
        arguments = Path(f"/proc/{first.process.pid}/cmdline")
        if arguments.exists():
            assert (folder / "pg/password").read_text().strip() not in arguments.read_bytes().decode()
        again = Cluster(folder / "pg")
        with pytest.raises(OperatorFault, match="in use by another Switchboard"):
            again.start()
        assert first.alive()
        first.let_go()                        # as after a crash: the server is still there
        again.start()
        assert again.process is None
        assert again.pid == first.process.pid
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host=again.server.host, user="postgres", password="wrong", dbname="postgres")
        again.let_go()
    finally:
        first.stop()
    assert not first.alive()


def test_a_start_while_the_old_server_is_going(folder: Path) -> None:
    first = Cluster(folder / "pg")
    first.start()
    assert first.process is not None
    first.let_go()
    first.process.send_signal(signal.SIGINT)
    again = Cluster(folder / "pg")
    waiter = threading.Thread(target=first.process.wait)
    waiter.start()
    again.start()
    waiter.join()
    assert ask(again, "select 1") == 1
    again.stop()


def test_a_pid_that_is_somebody_elses_now_is_not_adopted(folder: Path) -> None:
    cluster = Cluster(folder / "pg")
    cluster.start()
    cluster.stop()
    (folder / "pg/data/postmaster.pid").write_text(f"{os.getpid()}\n")
    assert cluster._running() is None
    (folder / "pg/data/postmaster.pid").unlink()


def test_an_initdb_that_was_killed_is_begun_anew(folder: Path) -> None:
    (folder / "pg/data.new").mkdir(parents=True)
    (folder / "pg/data.new/PG_VERSION").write_text("18\n")
    cluster = Cluster(folder / "pg")
    cluster.start()
    assert ask(cluster, "select 1") == 1
    cluster.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_the_account_of_the_server_cannot_lead_root_elsewhere(folder: Path) -> None:
    cluster = Cluster(folder / "pg")
    cluster.start()
    cluster.stop()
    assert (folder / "pg").stat().st_uid == 0
    assert (folder / "pg").stat().st_mode & 0o022 == 0
    os.chown(folder / "pg", 65534, -1)
    with pytest.raises(OperatorFault, match="belongs to another user"):
        cluster.start()


def test_another_version_is_refused(folder: Path) -> None:
    cluster = Cluster(folder / "pg")
    cluster.start()
    cluster.stop()
    (folder / "pg/data/PG_VERSION").write_text("9\n")
    with pytest.raises(OperatorFault, match="made by PostgreSQL 9: no PostgreSQL 9 binaries were found, only 1") as caught:
        cluster.start()
    assert "Install PostgreSQL 9" in str(caught.value.hint)
    with pytest.raises(OperatorFault, match=r"made by PostgreSQL 9, but .* is PostgreSQL 1"):
        Cluster(folder / "pg", cluster.binaries).start()


def test_binaries_of_the_clusters_version_are_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {binaries.major_version(place): place for place in binaries.candidates()}
    if len(found) < 2:
        pytest.skip("only one major version of PostgreSQL is on this machine")
    newest = max(found, key=lambda version: float(version or 0))
    oldest = min(found, key=lambda version: float(version or 0))
    old = Cluster(folder / "pg", found[oldest])
    old.start()
    old.stop()
    again = Cluster(folder / "pg")
    again.binaries = found[newest]
    again.start()
    try:
        assert again.binaries == found[oldest]
        assert str(ask(again, "show server_version")).startswith(str(oldest))
    finally:
        again.stop()


def test_versions_sort_as_numbers() -> None:
    names = ["9.6", "18", "10", "16", "postgresql", "postgresql@17"]
    ordered = binaries.newest_first([Path("/opt") / name / "bin" for name in names])
    assert [place.parent.name for place in ordered] == ["18", "postgresql@17", "16", "10", "9.6", "postgresql"]


def test_programs_that_do_not_run_have_no_version(folder: Path) -> None:
    assert binaries.major_version(folder) is None
    (folder / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24 (Debian 9.6.24-1)'\n")
    (folder / "postgres").chmod(0o755)
    assert binaries.major_version(folder) == "9.6"
    with pytest.raises(OperatorFault, match="no PostgreSQL binaries were found in"):
        binaries.find_binaries(folder)


def test_a_deep_state_folder_has_its_socket_elsewhere(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60) / "pg"
    first = Cluster(deep)
    first.start()
    assert first.process is not None
    sockets = first.sockets
    assert places.fits(sockets, first.port)
    assert stat.S_IMODE(sockets.lstat().st_mode) == 0o700
    assert ask(first, "select 1") == 1
    first.let_go()
    again = Cluster(deep)
    again.start()
    assert again.pid == first.process.pid     # found by the folder that the state folder remembers
    again.let_go()
    first.stop()
    assert not sockets.exists()


def test_a_socket_folder_that_became_somebody_elses_is_not_used(folder: Path) -> None:
    known = places.short_folder(folder, 5432, None)
    assert places.short_folder(folder, 5432, None) == known
    known.rmdir()
    known.symlink_to(folder)
    try:
        fresh = places.short_folder(folder, 5432, None)
        assert fresh != known
    finally:
        known.unlink()
    fresh.chmod(0o755)
    other = places.short_folder(folder, 5432, None)
    assert other != fresh
    fresh.rmdir()
    places.remove_short_folder(folder, other)
    assert not other.exists()
    assert not (folder / "socket_folder").exists()


def test_the_servers_log_is_bounded(folder: Path) -> None:
    log = ServerLog(folder / "postgres.log", largest=1000)
    with log.path.open("ab") as server:
        server.write(b"early\n" * 200)
        server.flush()
        (folder / "postgres.log.1").symlink_to(folder / "elsewhere")
        assert log.bound()
        assert not log.bound()
        server.write(b"late\n")
    assert log.path.read_bytes() == b"late\n"
    assert log.last_line() == "late"
    assert (folder / "postgres.log.1").read_bytes() == b"early\n" * 200
    assert not (folder / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_programs_out_of_reach_are_copied_where_only_root_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "pg/bin").mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (hidden / "pg/bin" / name).write_text("#!/bin/sh\n")
        (hidden / "pg/bin" / name).chmod(0o777)
    (folder / "state").mkdir()
    monkeypatch.setattr(binaries, "_home", lambda fallback: fallback)
    place = binaries.copied(hidden / "pg/bin", folder / "state")
    assert place == binaries.copied(hidden / "pg/bin", folder / "state")
    assert stat.S_IMODE((place / "postgres").stat().st_mode) == 0o755
    assert [item.name for item in (folder / "state").iterdir()] == [place.parent.name]
    place.parent.chmod(0o777)
    with pytest.raises(OperatorFault, match="only root may write"):
        binaries.copied(hidden / "pg/bin", folder / "state")


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
                told = connection.execute("show synchronous_commit").fetchone()
                assert told == (("off",) if plugin == "catalog" else ("on",))
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
