"""Bulk: CPU seconds of the proxy for one transfer.  The wall clock is the slower of client and server, so it is told apart.

First with the C client and server, 8 kB at a time as PostgreSQL sends; then a real PostgreSQL with psql.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.native import fake_server, load
from benchmarks.peers import Behind, Peer, Setup, direct, proxies
from benchmarks.plan import Plan
from benchmarks.postgres import postgres, psql, read_away
from benchmarks.rounds import Row, Sample, interleave, tell

GOAL = 0.7
LINE = 100                        # bytes of a row


def run(plan: Plan) -> Iterator[Row]:
    size = plan.megabytes * 1_000_000
    with fake_server() as server:
        yield from _rows(plan, server, {
            f"C, {plan.megabytes} MB of {LINE}-byte rows": lambda peer: _load(peer, query=f"ROWS {size // (LINE + 11)} {LINE}"),
            f"C, {plan.megabytes} MB of 2 kB rows": lambda peer: _load(peer, query=f"ROWS {size // 2011} 2000"),
            "C, 1M narrow rows": lambda peer: _load(peer, query="ROWS 1000000 6"),
            f"C, {plan.megabytes} MB COPY in": lambda peer: _load(peer, do="copy", bytes_=size),
        })
    with postgres(plan.folder, scale=1) as server:
        owner = direct(server)
        psql(owner, f"CREATE UNLOGGED TABLE source AS SELECT repeat('x', {LINE}) line FROM generate_series(1, {size // LINE})")
        psql(owner, "CREATE UNLOGGED TABLE sink (line text)")
        file = plan.folder / "copy.txt"
        with file.open("w") as out:
            for _ in range(size // LINE // 1000):
                out.write(("x" * (LINE - 1) + "\n") * 1000)
        yield from _rows(plan, server, {
            f"COPY {plan.megabytes} MB out": lambda peer: read_away(peer, "COPY source TO STDOUT"),
            f"COPY {plan.megabytes} MB in": lambda peer: _copy_in(peer, file),
            "1M narrow rows": lambda peer: read_away(peer, "SELECT g FROM generate_series(1, 1000000) g"),
        })
        yield from _rows(plan, server, {
            f"COPY {plan.megabytes} MB out, TLS": lambda peer: read_away(_secret(peer), "COPY source TO STDOUT"),
        }, tls=True)


def _secret(peer: Peer) -> Peer:
    return Peer(peer.name, peer.port, peer.pid, peer.user, peer.password, peer.database, "require" if peer.pid else "disable")


def _load(peer: Peer, **options: object) -> None:
    load(peer, **{"do": "once", **options})


def _copy_in(peer: Peer, file: Path) -> None:
    psql(peer, "TRUNCATE sink")
    psql(peer, "COPY sink FROM STDIN", source=file)


def _rows(plan: Plan, server: Behind, jobs: dict[str, Callable[[Peer], None]], *, tls: bool = False) -> Iterator[Row]:
    real = server.user != direct(Behind(0)).user
    with proxies(plan.folder, server, Setup(tls=tls), plan.peers) as peers:
        everybody = [direct(server), *peers] if real and "direct" in plan.peers else peers
        for case, job in jobs.items():
            cpu = Row("bulk", case, "proxy CPU ms", more_is_better=False, goal=None if tls else GOAL)

            def measure(peer: Peer, job: Callable[[Peer], None] = job, cpu: Row = cpu) -> Sample:
                before, begun = peer.cpu(), time.perf_counter()
                job(peer)
                if peer.pid:
                    cpu.values.setdefault(peer.name, []).append((peer.cpu() - before) * 1000)
                return Sample(time.perf_counter() - begun)

            wall = interleave(Row("bulk", case, "seconds", more_is_better=False), everybody, plan.rounds, measure)
            tell(cpu)
            yield cpu
            yield wall
