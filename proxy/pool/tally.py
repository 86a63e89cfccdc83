"""What happened, as plain numbers: the only thing the hot path writes for people to see.

A Tally belongs to one (plugin, server, user).  The relay adds to its slots; nobody formats, locks or looks up a
label while a query runs.  `server/snapshot` copies the slots when asked, `server/metrics` gives them names.
Times are seconds, sizes are bytes, everything is since the start of the process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from proxy.hot import hot

# Prometheus' advice is few buckets; these span a cached point query to a report.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class PureHistogram:
    """Counts by upper bound (`le`), not cumulative; the last one is +Inf."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value


class PureTally:
    """Counters of one (plugin, server, user).  `clients` is a gauge, all else only grows."""

    __slots__ = (
        "clients",
        "connections",
        "errors",
        "from_client",
        "from_upstream",
        "leases",
        "pins",
        "plugin",
        "queries",
        "query_time",
        "server",
        "transaction_time",
        "transactions",
        "user",
        "wait_time",
    )

    def __init__(self, plugin: str, server: str, user: str) -> None:
        self.plugin = plugin
        self.server = server
        self.user = user
        self.clients = 0              # logged in now
        self.connections = 0          # logins that succeeded
        self.leases = 0               # times an upstream was handed to a client
        self.queries = 0              # Query, Sync or FunctionCall answered by ReadyForQuery
        self.transactions = 0         # times ReadyForQuery said idle after work
        self.from_client = 0          # bytes client -> upstream
        self.from_upstream = 0        # bytes upstream -> client
        self.errors: Counter[str] = Counter()   # ErrorResponses of upstreams by SQLSTATE class ("23", "42", ...)
        self.pins: Counter[str] = Counter()     # leases kept past a transaction, by reason
        self.wait_time = PureHistogram()            # for an upstream connection
        self.query_time = PureHistogram()           # request forwarded -> ReadyForQuery
        self.transaction_time = PureHistogram()     # first request -> ReadyForQuery idle


if TYPE_CHECKING or hot is None:
    Histogram = PureHistogram
    Tally = PureTally
else:
    hot.set_bounds(BOUNDS)
    Histogram, Tally = hot.Histogram, hot.Tally
