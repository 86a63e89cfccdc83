"""A snapshot: everything the outside may see, as plain JSON, copied in one go when asked.

    build         version, python, hot_path
    config        fingerprint, loaded_at (epoch), reload_ok
    process       started_at (epoch), ready, draining, clients, max_clients, tasks, embedded (null without one)
    series        one object per Tally: plugin, server, user, counters, histograms as {counts, total}
    pools         one object per pool: plugin, server, database, mode, size, idle, active, resetting, cancelling, connecting, closing,
                  waiting, max_wait, kept, listening, up, connect {counts, total}, connect_failures, closed, evicted, resets, rollbacks
    apart         [{plugin, server, state, count}]: upstreams for replication, or of pools that a reload replaced
    hosts         [{host, port, up, role}]: each host of a server that was tried
    tokens        [{kind, outcome, count}]: passwords that programs and clouds made
    auth_failures, refused, limited   {reason, SQLSTATE class or limit: count}
    provisioning  [{plugin, outcome, count}], provisioning_time
    certificates  [{which, plugin, not_after}]

Nothing here was formatted: names are given by `metrics`, in another process.
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy.hot import PATH
from proxy.net.tasks import running
from proxy.pool.dedicated import Dedicated
from proxy.pool.pool import Pool
from proxy.pool.tally import Histogram, Tally
from proxy.server.certificates import report

if TYPE_CHECKING:
    from proxy.server.worker import Worker

Snapshot = dict[str, Any]


def histogram(found: Histogram) -> dict[str, Any]:
    return {"counts": found.counts, "total": found.total}


def series(tally: Tally) -> dict[str, Any]:
    return {"plugin": tally.plugin, "server": tally.server, "user": tally.user, "clients": tally.clients,
            "connections": tally.connections, "leases": tally.leases, "queries": tally.queries,
            "transactions": tally.transactions, "from_client": tally.from_client, "from_upstream": tally.from_upstream,
            "errors": dict(tally.errors), "pins": dict(tally.pins), "wait_time": histogram(tally.wait_time),
            "query_time": histogram(tally.query_time), "transaction_time": histogram(tally.transaction_time)}


def of_pool(pool: Pool) -> dict[str, Any]:
    counters = pool.counters
    cancelling = sum(1 for upstream in pool.resting if upstream.cancels)
    return {"plugin": pool.target.plugin, "server": str(pool.server), "database": pool.target.database,
            "mode": str(pool.settings.mode), "size": pool.settings.size, "idle": pool.idle_count, "active": len(pool.busy),
            "resetting": len(pool.resting) - cancelling, "cancelling": cancelling,
            "connecting": pool.coming, "closing": len(pool.leaving), "waiting": pool.waiting, "max_wait": pool.max_wait,
            "kept": pool.kept, "listening": len(pool.listener.ears) if pool.listener is not None else 0,
            "up": pool.up, "connect": histogram(counters.connect_time), "connect_failures": counters.connect_failures,
            "closed": counters.closed, "evicted": counters.evicted, "resets": counters.resets, "rollbacks": counters.rollbacks}


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A plugin's pool with those of users that have a mode of their own."""
    first = rows[0]
    for row in rows[1:]:
        for key, value in row.items():
            if key == "connect":
                first[key] = {"counts": [a + b for a, b in zip(first[key]["counts"], value["counts"], strict=True)],
                              "total": first[key]["total"] + value["total"]}
            elif key == "max_wait":
                first[key] = max(first[key], value)
            elif key == "mode":
                first[key] += f", {value}"
            elif key == "up":
                first[key] = value if first[key] is None else first[key]
            elif isinstance(value, int):
                first[key] += value
    return first


def _counts(worker: Worker, pool: Pool) -> bool:
    """Is it in a row of `pools`?"""
    own = worker.pools.get(pool.target.plugin)
    return own is not None and (pool is own or own.others.get(pool.settings.mode) is pool)


def _apart(pools: list[Pool]) -> list[dict[str, Any]]:
    """Upstreams that count against no pool: replication, and what still serves clients of an older configuration."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for pool in pools:
        counts[pool.target.plugin, str(pool.server), pool.state if isinstance(pool, Dedicated) else "retiring"] += pool.open
    return [{"plugin": plugin, "server": server, "state": state, "count": count} for (plugin, server, state), count in counts.items()]


def snapshot(worker: Worker) -> Snapshot:
    return {
        "build": {"version": __version__, "python": platform.python_version(), "hot_path": PATH},
        "config": {"fingerprint": worker.configuration.fingerprint, "loaded_at": worker.loaded_at, "reload_ok": worker.reload_ok},
        "process": {"started_at": worker.started_at, "ready": worker.ready, "draining": worker.draining,
                    "clients": len(worker.clients), "max_clients": worker.settings.max_clients, "tasks": running(),
                    "embedded": worker.embedded_alive() if worker.embedded_alive else None},
        "series": [series(tally) for tally in worker.tallies.values()],
        "pools": [_together([of_pool(pool), *map(of_pool, pool.others.values())]) for pool in worker.pools.values()],
        "apart": _apart([pool for pool in worker.all_pools() if not _counts(worker, pool)]),
        "hosts": worker.reach.report(),
        "tokens": [{"kind": kind, "outcome": outcome, "count": count} for (kind, outcome), count in worker.mint.outcomes.items()],
        "auth_failures": dict(worker.auth_failures), "refused": dict(worker.refused), "limited": dict(worker.limited),
        "provisioning": [{"plugin": plugin, "outcome": outcome, "count": count}
                         for (plugin, outcome), count in worker.provision.outcomes.items()],
        "provisioning_time": histogram(worker.provision.time),
        "certificates": report(worker.certificates, worker.pools.values()),
    }
