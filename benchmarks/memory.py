"""What an idle client costs: resident memory of the proxy with thousands of them, less without, by their number.

Both are warm before: the first clients make buffers, caches and pages that the next ones find.  Transaction mode, since
nobody has as many upstreams as idle clients.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.native import fake_server, idle_clients, load
from benchmarks.peers import Peer, Setup, proxies
from benchmarks.plan import Plan
from benchmarks.rounds import Row, Sample, interleave

CLIENTS = 5000
WARM = 200


def run(plan: Plan) -> Iterator[Row]:
    for clients in plan.clients_or(CLIENTS):
        row = Row("memory", f"{clients} idle clients", "KB per client", more_is_better=False, goal=10.0, absolute=True)

        def measure(peer: Peer, clients: int = clients) -> Sample:
            load(peer, do="once", clients=WARM)
            before = peer.resident()
            with idle_clients(peer, clients):
                return Sample((peer.resident() - before) / clients / 1024)

        # Once: what the allocator keeps would make a second round look cheap.
        with fake_server() as server, proxies(plan.folder, server, Setup(), plan.peers) as peers:
            yield interleave(row, peers, 1, measure)
