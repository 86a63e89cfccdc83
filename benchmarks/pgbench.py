"""pgbench against a real PostgreSQL: direct, through Switchboard, through PgBouncer.

Nothing is pinned here: the kernel places pgbench, PostgreSQL and the proxy as on any small machine, so `direct` has the most
cores to itself.  Prepared statements run in session mode unless both proxies keep them over transactions.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers import Behind, Peer, Setup, direct, keeps_statements, proxies
from benchmarks.plan import Plan
from benchmarks.postgres import pgbench, postgres
from benchmarks.rounds import Row, Sample, interleave

SIZE = 64                         # upstream connections in transaction mode
STORM = 8                         # clients of a connect storm


def run(plan: Plan) -> Iterator[Row]:
    with postgres(plan.folder, scale=1 if plan.quick else 10) as server:
        yield from _select_only(plan, server)
        shared = Setup(size=SIZE, core=None)
        yield _row(plan, server, shared, "TPC-B, 8 clients", 8)
        yield _row(plan, server, shared, f"connect storm, trust, {STORM} clients", STORM, "-S", "-C")
        scram = Setup(size=SIZE, core=None, method="scram-sha-256")
        yield _row(plan, server, scram, f"connect storm, SCRAM, {STORM} clients", STORM, "-S", "-C")
        secret = Setup(size=SIZE, core=None, tls=True)
        yield _row(plan, server, secret, "TLS, -S simple, 8 clients", 8, "-S", PGSSLMODE="require")
        yield _row(plan, server, secret, "TLS connect storm, 8 clients", STORM, "-S", "-C", PGSSLMODE="require")


def _select_only(plan: Plan, server: Behind) -> Iterator[Row]:
    all_clients = plan.clients_or(1, 8, 64, 500)
    for shape in plan.shapes:
        session = shape == "prepared" and not all(map(keeps_statements, plan.peers))
        setup = Setup(mode="session", size=max(all_clients), core=None) if session else Setup(size=SIZE, core=None)
        for clients in all_clients:
            yield _row(plan, server, setup, f"-S {shape}, {clients} clients", clients, "-S", "-M", shape)


def _row(plan: Plan, server: Behind, setup: Setup, case: str, clients: int, *options: str, **environment: str) -> Row:
    # pgbench's clock runs while its clients connect.
    seconds = max(plan.seconds, clients / 100)

    def measure(peer: Peer) -> Sample:
        # The wheel's server has no TLS: in a TLS case the direct connection is plain, as a mark of what the server can do.
        rate, number = pgbench(peer, clients, seconds, *options, **(environment if peer.pid else {}))
        return Sample(rate, number)

    with proxies(plan.folder, server, setup, plan.peers) as peers:
        for peer in peers:
            pgbench(peer, clients, max(1, clients / 100), *options, **environment)      # dials the upstreams
        everybody = [direct(server), *peers] if "direct" in plan.peers else peers
        return interleave(Row("pgbench", case, "transactions/s"), everybody, plan.rounds, measure)
