"""How much one core can carry: the proxy alone on it, a C client and a C server that do no work on the other.

In session mode each client has an upstream; in transaction mode all share 16.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.native import fake_server, load
from benchmarks.peers import Peer, Setup, keeps_statements, proxies
from benchmarks.plan import Plan
from benchmarks.rounds import Row, Sample, interleave

SHARED = 16
GOALS = {16: 0.85, 64: 0.95}


def run(plan: Plan) -> Iterator[Row]:
    all_clients = plan.clients_or(16, 64)
    for mode in plan.modes:
        size = max(all_clients) if mode == "session" else SHARED
        with fake_server() as server, proxies(plan.folder, server, Setup(mode=mode, size=size), plan.peers) as peers:
            for shape in plan.shapes:
                for clients in all_clients:
                    if shape == "prepared" and mode == "transaction":
                        able = [peer for peer in peers if keeps_statements(peer.name)]
                    else:
                        able = peers

                    def measure(peer: Peer, shape: str = shape, clients: int = clients) -> Sample:
                        told = load(peer, shape=shape, clients=clients, seconds=plan.seconds, warmup=0.3)
                        # The proxy's CPU covers the warm-up too.
                        return Sample(told["per_second"], told["queries"] * (told["seconds"] + 0.3) / told["seconds"])

                    if able:
                        row = Row("capacity", f"{mode}, {shape}, {clients} clients", "queries/s", goal=GOALS.get(clients))
                        yield interleave(row, able, plan.rounds, measure)
