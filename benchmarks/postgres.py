"""A real PostgreSQL for a run, and the client programs that come with it."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import DATABASE, OTHER_CORE, Behind, Peer, direct
from benchmarks.processes import found, free_port, output, pinned
from proxy.embedded.cluster import Cluster

# What is measured is the way to the server: its disk must not decide.  Room for 500 clients by each of three ways at once.
SETTINGS = {"listen_addresses": "127.0.0.1", "max_connections": "1600", "shared_buffers": "512MB", "fsync": "off",
            "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off", "max_wal_size": "4GB"}


@contextlib.contextmanager
def postgres(folder: Path, scale: int) -> Iterator[Behind]:
    """The wheel's PostgreSQL with pgbench's tables."""
    port = free_port()
    cluster = Cluster(folder / f"postgres-{port}", settings={**SETTINGS, "port": str(port)})
    cluster.start()
    try:
        word = cluster.credential.password
        assert word is not None
        behind = Behind(port, cluster.credential.user, word.reveal())
        # Logins at the server are not measured, and PgBouncer 1.18 cannot make its own where its users have SCRAM verifiers.
        rules = cluster.data / "pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 trust\n" + rules.read_text())
        psql(direct(behind), "SELECT pg_reload_conf()", database="postgres")
        psql(direct(behind), f"CREATE DATABASE {DATABASE}", database="postgres")
        output([found("pgbench"), "-i", "-q", "-s", str(scale)], **direct(behind).environment)
        yield behind
    finally:
        cluster.stop()


def psql(peer: Peer, statement: str, *, database: str | None = None, source: Path | None = None) -> str:
    """Run one statement; `source` is its standard input.  The answer, unaligned.  Raises SystemExit if it fails."""
    environment = peer.environment | ({"PGDATABASE": database} if database else {})
    command = [found("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]
    if source is None:
        return output(command, **environment)
    with source.open("rb") as data:
        done = subprocess.run(command, stdin=data, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{statement} through {peer.name} failed: {done.stderr.decode()}")
    return ""


def read_away(peer: Peer, statement: str) -> None:
    """Run a statement with a big answer, row by row into nothing."""
    command = pinned(OTHER_CORE, [found("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement])
    with Path("/dev/null").open("wb") as nothing:
        subprocess.run(command, stdout=nothing, env=peer.environment, check=True)


def pgbench(peer: Peer, clients: int, seconds: float, *options: str, **environment: str) -> tuple[float, float]:
    """(transactions per second without the first connect, number of transactions)."""
    told = output([found("pgbench"), "-n", "-c", str(clients), "-j", str(min(2, clients)), "-T", str(max(1, round(seconds))),
                   *options], **(peer.environment | environment))
    rate = re.search(r"tps = ([\d.]+)", told)
    number = re.search(r"transactions actually processed: (\d+)", told)
    failed = re.search(r"failed transactions: (\d+)", told)
    if not rate or not number or (failed and failed[1] != "0"):
        raise SystemExit(f"pgbench through {peer.name}:\n{told}")
    return float(rate[1]), float(number[1])
