"""A snapshot under Prometheus' names: base units, `_total` for counters, labels from the configuration only.

Prometheus manual, "Metric and label naming".  Runs in the process that serves HTTP, never in the one that relays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from proxy.pool.tally import BOUNDS

WHO = ("plugin", "server", "user")
WHERE = ("plugin", "server")
COUNTERS = {
    "connections": ("client_logins", "Clients that were let in."),
    "leases": ("leases", "Times an upstream connection was handed to a client."),
    "queries": ("queries", "Queries answered (one per ReadyForQuery)."),
    "transactions": ("transactions", "Transactions ended, those of single statements included."),
    "from_client": ("client_received_bytes", "Bytes from clients to upstreams."),
    "from_upstream": ("client_sent_bytes", "Bytes from upstreams to clients."),
}
TIMES = {
    "wait_time": ("wait_seconds", "Time that clients waited for an upstream connection."),
    "query_time": ("query_seconds", "From a request forwarded to its ReadyForQuery."),
    "transaction_time": ("transaction_seconds", "From a transaction's first request to ReadyForQuery idle."),
}
STATES = ("idle", "active", "resetting", "cancelling", "connecting", "closing")


class Collector:
    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.now = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        yield from self._series(self.now["series"])
        yield from self._pools(self.now["pools"], self.now["apart"])
        yield from self._hosts(self.now["hosts"])
        yield from self._rest()

    def _process(self) -> Iterable[Metric]:
        now = self.now
        build = InfoMetricFamily("switchboard_build", "What runs.")
        build.add_metric((), {key: str(value) for key, value in now["build"].items()})
        config = InfoMetricFamily("switchboard_config", "What is configured.")
        config.add_metric((), {"fingerprint": now["config"]["fingerprint"]})
        process = now["process"]
        gauges = [("up", "The proxy answers.", 1), ("ready", "It is ready to serve.", process["ready"] and not process["draining"]),
                  ("draining", "It is stopping.", process["draining"]),
                  ("clients_connected", "Client connections, logged in or not.", process["clients"]),
                  ("clients_limit", "Client connections at most.", process["max_clients"]),
                  ("tasks", "Pieces of work in the background; a client is one.", process["tasks"]),
                  ("start_time_seconds", "Start, since the epoch.", process["started_at"]),
                  ("config_loaded_time_seconds", "When the configuration was read, since the epoch.", now["config"]["loaded_at"]),
                  ("config_last_reload_successful", "The last reload worked.", now["config"]["reload_ok"])]
        if process["embedded"] is not None:
            gauges.append(("embedded_up", "Our own PostgreSQL runs.", process["embedded"]))
        return [build, config, *(GaugeMetricFamily(f"switchboard_{name}", text, value=float(value)) for name, text, value in gauges)]

    def _series(self, rows: list[dict[str, Any]]) -> Iterable[Metric]:
        clients = GaugeMetricFamily("switchboard_clients", "Clients logged in.", labels=WHO)
        errors = CounterMetricFamily("switchboard_errors", "Errors of upstreams, by SQLSTATE class.", labels=(*WHO, "class"))
        pins = CounterMetricFamily("switchboard_pins", "Leases kept past a transaction.", labels=(*WHO, "reason"))
        counters = {key: CounterMetricFamily(f"switchboard_{name}", text, labels=WHO) for key, (name, text) in COUNTERS.items()}
        times = {key: HistogramMetricFamily(f"switchboard_{name}", text, labels=WHO) for key, (name, text) in TIMES.items()}
        for row in rows:
            who = [row[label] for label in WHO]
            clients.add_metric(who, row["clients"])
            for key, counter in counters.items():
                counter.add_metric(who, row[key])
            for key, time in times.items():
                time.add_metric(who, *buckets(row[key]))
            for name, count in row["errors"].items():
                errors.add_metric([*who, name], count)
            for name, count in row["pins"].items():
                pins.add_metric([*who, name], count)
        return [clients, errors, pins, *counters.values(), *times.values()]

    def _pools(self, rows: list[dict[str, Any]], apart: list[dict[str, Any]]) -> Iterable[Metric]:
        upstreams = GaugeMetricFamily("switchboard_upstreams", "Upstream connections by state.", labels=(*WHERE, "state"))
        connect = HistogramMetricFamily("switchboard_connect_seconds", "Time to connect and log in.", labels=WHERE)
        gauges = {key: GaugeMetricFamily(f"switchboard_{name}", text, labels=WHERE) for key, name, text in (
            ("size", "pool_size", "Upstream connections at most."), ("waiting", "clients_waiting", "Clients without an upstream."),
            ("max_wait", "max_wait_seconds", "How long the first of them has waited."),
            ("kept", "pool_kept", "Upstream connections kept open: min_size, or what was lately needed."),
            ("listening", "clients_listening", "Clients at rest whose channels the listening connection hears."))}
        counters = {key: CounterMetricFamily(f"switchboard_{name}", text, labels=WHERE) for key, name, text in (
            ("connect_failures", "connect_failures", "Connects that failed."), ("closed", "upstreams_closed", "Upstreams closed."),
            ("evicted", "evicted", "Upstreams closed in favour of another plugin, in the server's budget."),
            ("resets", "resets", "Upstreams reset for the next client."),
            ("rollbacks", "rollbacks", "Transactions of lost clients rolled back."))}
        up = GaugeMetricFamily("switchboard_upstream_up", "The last connect worked.", labels=WHERE)
        for row in rows:
            where = [row[label] for label in WHERE]
            for state in STATES:
                upstreams.add_metric([*where, state], row[state])
            connect.add_metric(where, *buckets(row["connect"]))
            for key, gauge in gauges.items():
                gauge.add_metric(where, row[key])
            for key, counter in counters.items():
                counter.add_metric(where, row[key])
            if row["up"] is not None:
                up.add_metric(where, float(row["up"]))
        for row in apart:
            upstreams.add_metric([row["plugin"], row["server"], row["state"]], row["count"])
        return [upstreams, connect, up, *gauges.values(), *counters.values()]

    def _hosts(self, rows: list[dict[str, Any]]) -> Iterable[Metric]:
        up = GaugeMetricFamily("switchboard_host_up", "The last connect to this host worked.", labels=("host",))
        standby = GaugeMetricFamily("switchboard_host_standby", "This host said that it is a standby.", labels=("host",))
        for row in rows:
            name = f"[{row['host']}]:{row['port']}" if ":" in row["host"] else f"{row['host']}:{row['port']}"
            up.add_metric([name], float(row["up"]))
            if row["role"] is not None:
                standby.add_metric([name], float(row["role"] == "standby"))
        return [up, standby]

    def _rest(self) -> Iterable[Metric]:
        now = self.now
        auth = CounterMetricFamily("switchboard_auth_failures", "Logins refused, by reason.", labels=("reason",))
        refused = CounterMetricFamily("switchboard_refused", "Clients refused, by SQLSTATE class.", labels=("class",))
        limited = CounterMetricFamily("switchboard_limited", "Clients that met a limit, or whose wrong password was answered late.",
                                      labels=("limit",))
        for family, rows in ((auth, now["auth_failures"]), (refused, now["refused"]), (limited, now["limited"])):
            for name, count in rows.items():
                family.add_metric([name], count)
        provisioned = CounterMetricFamily("switchboard_provisioning", "Databases and schemas looked after.",
                                          labels=("plugin", "outcome"))
        for row in now["provisioning"]:
            provisioned.add_metric([row["plugin"], row["outcome"]], row["count"])
        tokens = CounterMetricFamily("switchboard_tokens", "Passwords that programs and clouds made.", labels=("kind", "outcome"))
        for row in now["tokens"]:
            tokens.add_metric([row["kind"], row["outcome"]], row["count"])
        took = HistogramMetricFamily("switchboard_provisioning_seconds", "Time of provisioning.", labels=())
        took.add_metric((), *buckets(now["provisioning_time"]))
        expiry = GaugeMetricFamily("switchboard_certificate_expiry_time_seconds", "End of a certificate, or of the next "
                                   "of several, since the epoch.", labels=("certificate", "plugin"))
        for row in now["certificates"]:
            expiry.add_metric([row["which"], row["plugin"]], row["not_after"])
        return [auth, refused, limited, provisioned, tokens, took, expiry]


def buckets(found: dict[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative, as Prometheus counts."""
    total, rows = 0.0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), found["counts"], strict=True):
        total += count
        rows.append((bound, total))
    return rows, found["total"]


def render(snapshot: dict[str, Any], accept: str = "") -> tuple[bytes, str]:
    """The page and its content type: OpenMetrics for who accepts it, else Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Collector(snapshot))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
