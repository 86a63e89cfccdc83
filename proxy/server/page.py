"""The status page: one table, readable at a glance, that renews itself; light or dark as the reader's machine is.

Rates are differences between two snapshots, so the first look shows none.  Nothing is loaded from anywhere else.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from time import monotonic
from typing import Any

STYLE = """:root{color-scheme:light dark;--line:#8883;--head:#8881;--bad:#c62828;--ok:#2e7d32;--wait:#b26a00}
@media(prefers-color-scheme:dark){:root{--bad:#ff6b6b;--ok:#6fcf97;--wait:#f2b84b}}
body{font:15px/1.4 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem}
h1{font-size:1.35rem;margin:0 0 .2rem}p{margin:.2rem 0 1rem}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{background:var(--head);font-weight:600}td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}
.bad{color:var(--bad);font-weight:600}.ok{color:var(--ok)}.wait{color:var(--wait);font-weight:600}
meter{width:5rem;vertical-align:middle}"""
HEADS = ("Plugin", "Target", "Mode", "Clients", "Waiting", "Longest wait", "Upstreams", "Queries/s", "In/s", "Out/s", "Errors/s",
         "Queries")


class Rates:
    """What happened since the snapshot before, per second."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self._at = 0.0
        self._before: dict[tuple[str, str], tuple[float, ...]] = {}

    def of(self, snapshot: dict[str, Any]) -> dict[tuple[str, str], tuple[float, ...] | None]:
        """(plugin, server) -> queries, bytes in, bytes out, errors, each per second; None for the first look."""
        now: dict[tuple[str, str], tuple[float, ...]] = {}
        for row in snapshot["series"]:
            key = row["plugin"], row["server"]
            mine = (row["queries"], row["from_client"], row["from_upstream"], sum(row["errors"].values()))
            now[key] = tuple(map(sum, zip(now.get(key, (0, 0, 0, 0)), mine, strict=True)))
        at = self.clock()
        took, before = at - self._at, self._before
        rates = {key: tuple(max(0.0, new - old) / took for new, old in zip(values, before[key], strict=True))
                 if key in before and took > 0 else None for key, values in now.items()}
        self._at, self._before = at, now
        return rates


def status_page(snapshot: dict[str, Any], rates: Rates) -> str:
    process = snapshot["process"]
    found = rates.of(snapshot)
    rows = "".join(_row(pool, snapshot["series"], found.get((pool["plugin"], pool["server"]))) for pool in snapshot["pools"])
    word, kind = ("draining", "wait") if process["draining"] else ("ready", "ok") if process["ready"] else ("starting", "wait")
    if process["embedded"] is False:
        word, kind = "its own PostgreSQL is down", "bad"
    build = snapshot["build"]
    return (f"<!doctype html><html lang='en'><meta charset='utf-8'><meta http-equiv='refresh' content='3'>"
            f"<meta name='viewport' content='width=device-width'><title>Switchboard</title><style>{STYLE}</style>"
            f"<h1>Switchboard <span class='{kind}'>{word}</span></h1>"
            f"<p>{_safe(build['version'])} · {_safe(build['hot_path'])} hot path · "
            f"{process['clients']} of {process['max_clients']} clients · configuration {_safe(snapshot['config']['fingerprint'])}"
            f"{'' if snapshot['config']['reload_ok'] else ' · <span class=bad>the last reload failed</span>'}</p>"
            f"<table><tr>{''.join(f'<th>{head}</th>' for head in HEADS)}</tr>{rows}</table>"
            f"<p><a href='/metrics'>metrics</a> · <a href='/status.json'>json</a></p></html>")


def _row(pool: dict[str, Any], series: list[dict[str, Any]], rate: tuple[float, ...] | None) -> str:
    mine = [row for row in series if row["plugin"] == pool["plugin"] and row["server"] == pool["server"]]
    state = "ok" if pool["up"] else "bad" if pool["up"] is False else ""
    waiting = f"<span class='wait'>{pool['waiting']}</span>" if pool["waiting"] else "0"
    longest = f"<span class='wait'>{pool['max_wait']:.1f} s</span>" if pool["waiting"] else "–"
    upstreams = (f"<meter min='0' max='{pool['size']}' value='{pool['active']}'></meter> {pool['active']} active, "
                 f"{pool['idle']} idle of {pool['size']}")
    queries, received, sent, errors = rate or (None, None, None, None)
    cells = [f"<span class='{state}'>{_safe(pool['plugin'])}</span>", _safe(f"{pool['server']}/{pool['database']}"),
             _safe(pool["mode"]), str(sum(row["clients"] for row in mine)), waiting, longest, upstreams, _number(queries),
             _bytes(received), _bytes(sent),
             f"<span class='bad'>{_number(errors)}</span>" if errors else _number(errors), str(sum(row["queries"] for row in mine))]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _safe(text: object) -> str:
    return html.escape(str(text))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
