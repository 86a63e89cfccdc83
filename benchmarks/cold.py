"""A cold pool: as many clients come at once as it has room for, and a dial takes its time.

The server answers a login after DELAY.  Told is the time until every client has its answer, in dials: a pool that dials one
after the other needs 20 of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.native import fake_server, load
from benchmarks.peers import Peer, Setup, proxies
from benchmarks.plan import Plan
from benchmarks.rounds import Row, tell

DELAY_MS = 200
CLIENTS = 20


def run(plan: Plan) -> Iterator[Row]:
    for mode in plan.modes:
        row = Row("cold", f"{mode}, {CLIENTS} clients", f"dials of {DELAY_MS} ms", more_is_better=False, goal=2.0, absolute=True)
        for _ in range(2 if plan.quick else 3):
            setup = Setup(mode=mode, theirs="transaction" if mode == "auto" else "", size=CLIENTS)
            with fake_server(DELAY_MS) as server, proxies(plan.folder, server, setup, plan.peers) as peers:
                for peer in peers:
                    row.values.setdefault(peer.name, []).append(_dials(peer))
        tell(row)
        yield row


def _dials(peer: Peer) -> float:
    # BEGIN keeps the lease in transaction mode.
    return load(peer, do="once", clients=CLIENTS, query="BEGIN")["answered_s"] / (DELAY_MS / 1000)
