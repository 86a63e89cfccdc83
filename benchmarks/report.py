"""RESULTS.md from what the runs have left: goals first, then one table per part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rounds import Row

TITLES = {
    "capacity": "Capacity: the proxy alone on one core, a C client and a C server on the other",
    "pgbench": "pgbench, a real PostgreSQL, everything on the same cores",
    "bulk": "Bulk transfers",
    "memory": "Idle clients",
    "cold": "A cold pool",
    "different": "Clients with settings of their own",
    "mysql": "The MySQL relay, beside the PostgreSQL relay in session mode",
    "sqlite": "SQLite files behind the gateway, beside sqlite3's own shell over a pipe",
}
PEERS = ("direct", "mysql", "shell", "switchboard", "pgbouncer")


def write(out: Path, target: Path, plot: str | None) -> None:
    """Render every part that `out` holds."""
    parts = {name: json.loads((out / f"{name}.json").read_text()) for name in TITLES if (out / f"{name}.json").exists()}
    if not parts:
        return
    rows = {name: [Row.from_json(row) for row in part["rows"]] for name, part in parts.items()}
    newest = max(parts.values(), key=lambda part: str(part["at"]["date"]))["at"]
    lines = ["# Results", "", "Written by `make bench`; what is measured and how: [README](README.md).", ""]
    lines += [f"* {name}: {value}" for name, value in newest.items()]
    lines += ["", "Each figure is the median of interleaved rounds. **Ratio** is Switchboard by PgBouncer, **range** the least and the",
              "greatest ratio of two rounds side by side. CPU is the proxy's own: µs per operation are ms per 1,000.", ""]
    lines += _goals([row for found in rows.values() for row in found])
    if plot:
        lines += [f"![Ratios to PgBouncer]({plot})", ""]
    for name, found in rows.items():
        lines += [f"## {TITLES[name]}", "", *_table(found), ""]
    target.write_text("\n".join(lines).rstrip() + "\n")


def _goals(rows: Sequence[Row]) -> list[str]:
    lines = ["## Goals", "", "| case | goal | found | |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        if row.reached is None or row.goal is None:
            continue
        found = row.median("switchboard") if row.absolute else row.ratio
        what = row.unit if row.absolute else "of PgBouncer"
        sign = "≥" if row.more_is_better else "≤"
        verdict = "reached" if row.reached else "**short**"
        lines.append(f"| {row.part}: {row.case} | {sign} {row.goal:g} {what} | {found:.2f} | {verdict} |")
    return [*lines, ""]


def _table(rows: Sequence[Row]) -> list[str]:
    peers = [peer for peer in PEERS if any(peer in row.values for row in rows)]
    with_cpu = any(row.cpu for row in rows)
    measured = [peer for peer in peers if peer != "direct"]
    head = ["case", "unit", *peers, "ratio", "range"] + ([*(f"CPU µs {peer}" for peer in measured)] if with_cpu else [])
    lines = [f"| {' | '.join(head)} |", f"| --- | --- |{' ---: |' * (len(head) - 2)}"]
    for row in rows:
        cells = [row.case, row.unit, *(_number(row.median(peer)) for peer in peers),
                 f"{row.ratio:.2f}" if row.ratio else "-", f"{row.range[0]:.2f}-{row.range[1]:.2f}" if row.range else "-"]
        if with_cpu:
            cells += [_number(row.median_cpu(peer)) for peer in measured]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
