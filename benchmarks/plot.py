"""The ratios to PgBouncer as bars, with their ranges and goals.  Needs matplotlib (extra `bench`)."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.rounds import Row

FASTER, SLOWER = "#3b7d5c", "#b5584a"


def draw(out: Path, target: Path) -> bool:
    """An SVG of every case with a ratio; False without matplotlib or without a case."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "switchboard"      # the same figures make the same file
    from matplotlib import pyplot

    rows = [row for name in ("capacity", "pgbench", "bulk") if (out / f"{name}.json").exists()
            for row in map(Row.from_json, json.loads((out / f"{name}.json").read_text())["rows"])
            if row.ratio is not None and row.unit != "seconds"]
    if not rows:
        return False
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.24 * len(rows)), layout="constrained")
    for at, row in enumerate(rows):
        assert row.ratio is not None
        assert row.range is not None
        good = row.ratio >= 1 if row.more_is_better else row.ratio <= 1
        axes.barh(at, row.ratio, color=FASTER if good else SLOWER, height=0.7)
        axes.plot(row.range, (at, at), color="black", linewidth=1)
        if row.goal is not None:
            axes.plot((row.goal, row.goal), (at - 0.45, at + 0.45), color="black", linewidth=2, linestyle=":")
    axes.set_yticks(range(len(rows)), [f"{row.part}: {row.case}" + (" (CPU, less is better)" if not row.more_is_better else "")
                                       for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("Switchboard / PgBouncer (line: range of the rounds; dots: goal)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
    return True
