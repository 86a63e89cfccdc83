"""How much one core can carry: the proxy alone on it, a C client and a C server that do no work on the other.

In session mode each client has an upstream; in transaction mode and mode auto all share 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.native import fake_server, load
from benchmarks.peers import Peer, Setup, keeps_statements, proxies
from benchmarks.plan import Plan
from benchmarks.rounds import Row, Sample, interleave

SHARED = 16
GOALS = {16: 0.85, 64: 0.95}
AUTO = {16: 0.80, 64: 0.90}


def run(plan: Plan) -> Iterator[Row]:
    all_clients = plan.clients_or(16, 64)
    for mode in plan.modes:
        for setup, shapes in _setups(mode, plan.shapes, max(all_clients)):
            with fake_server() as server, proxies(plan.folder, server, setup, plan.peers) as peers:
                for shape in shapes:
                    for clients in all_clients:
                        yield from _case(plan, peers, mode, shape, clients)


def _setups(mode: str, shapes: tuple[str, ...], most: int) -> Iterator[tuple[Setup, tuple[str, ...]]]:
    """A PgBouncer that keeps no prepared statements over transactions meets mode auto in session mode."""
    if mode == "session":
        yield Setup(mode=mode, size=most), shapes
        return
    apart = tuple(shape for shape in shapes if shape == "prepared" and not keeps_statements("pgbouncer"))
    rest = tuple(shape for shape in shapes if shape not in apart)
    if rest:
        yield Setup(mode=mode, theirs="transaction", size=SHARED), rest
    if apart and mode == "auto":
        yield Setup(mode=mode, theirs="session", size=SHARED, their_size=most), apart


def _case(plan: Plan, peers: Sequence[Peer], mode: str, shape: str, clients: int) -> Iterator[Row]:
    def measure(peer: Peer) -> Sample:
        told = load(peer, shape=shape, clients=clients, seconds=plan.seconds, warmup=0.3)
        # The proxy's CPU covers the warm-up too.
        return Sample(told["per_second"], told["queries"] * (told["seconds"] + 0.3) / told["seconds"])

    row = Row("capacity", f"{mode}, {shape}, {clients} clients", "queries/s", goal=(AUTO if mode == "auto" else GOALS).get(clients))
    yield interleave(row, peers, plan.rounds, measure)
