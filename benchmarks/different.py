"""Clients that differ: each has its own search_path and role, and they share eight connections to a real PostgreSQL.

Through Switchboard (mode `auto`) a client says so once, and asks.  PgBouncer forgets what a client said, and leaves it to the next:
with `server_reset_query_always` its clients must say it with each question.  Drivers do that in a transaction of five statements; who
can write several statements into one message needs one round trip, which is the other row.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers import Behind, Peer, Setup, direct, proxies
from benchmarks.plan import Plan
from benchmarks.postgres import pgbench, postgres, psql
from benchmarks.rounds import Row, Sample, interleave

SIZE, ROLES, GOAL = 8, 20, 2.0
WHO = "SET search_path TO s:client_id; SET ROLE r:role"
ASK = "SELECT sum(n) FROM numbers;"
ONCE = "\\if :said = 0\n\\set role :client_id % {roles}\n{who};\n\\set said 1\n\\endif\n{ask}\n"
TRANSACTION = "\\set role :client_id % {roles}\nBEGIN;\n{who};\n{ask}\nCOMMIT;\n"
MESSAGE = "\\set role :client_id % {roles}\n{who} \\; {ask}\n"


def run(plan: Plan) -> Iterator[Row]:
    with postgres(plan.folder, scale=1) as server:
        clients = plan.clients_or(500)
        _prepare(server, max(clients))
        scripts = {"once": ONCE.format(roles=ROLES, who=WHO.replace("; ", ";\n"), ask=ASK),
                   "transaction": TRANSACTION.format(roles=ROLES, who=WHO.replace("; ", ";\n"), ask=ASK),
                   "message": MESSAGE.format(roles=ROLES, who=WHO.replace("; ", " \\; "), ask=ASK)}
        for name, text in scripts.items():
            (plan.folder / f"{name}.sql").write_text(text)
        for count in clients:
            yield _row(plan, server, count, "transaction", GOAL)
            yield _row(plan, server, count, "message", None)


def _prepare(server: Behind, clients: int) -> None:
    everything = "".join(f"CREATE ROLE r{number};" for number in range(ROLES)) + "".join(
        f"CREATE SCHEMA s{number}; GRANT USAGE ON SCHEMA s{number} TO r{number % ROLES};"
        f" CREATE TABLE s{number}.numbers AS SELECT {number} AS n; GRANT SELECT ON s{number}.numbers TO r{number % ROLES};"
        for number in range(clients))
    psql(direct(server), everything)


def _row(plan: Plan, server: Behind, clients: int, theirs: str, goal: float | None) -> Row:
    seconds = max(plan.seconds, clients / 100)

    def measure(peer: Peer) -> Sample:
        script = theirs if peer.name == "pgbouncer" else "once"
        rate, number = pgbench(peer, clients, seconds, "-f", str(plan.folder / f"{script}.sql"), "-D", "said=0")
        return Sample(rate, number)

    setup = Setup(mode="auto", theirs="transaction", reset=True, size=SIZE, core=None)
    with proxies(plan.folder, server, setup, plan.peers) as peers:
        for peer in peers:
            measure(peer)                     # dials the upstreams
        everybody = [direct(server), *peers] if "direct" in plan.peers else peers
        case = f"{clients} clients with a search_path and role each, {SIZE} upstreams; PgBouncer's: a {theirs} each time"
        return interleave(Row("different", case, "transactions/s", goal=goal), everybody, plan.rounds, measure)
