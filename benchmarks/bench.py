"""`make bench`: what Switchboard costs, next to PgBouncer and to no proxy at all.

    python benchmarks/bench.py                                  everything, about half an hour
    python benchmarks/bench.py --quick                          everything, short: is it alive?
    python benchmarks/bench.py capacity --modes transaction --clients 16 --shapes simple
    python benchmarks/bench.py report                           only write RESULTS.md and the plot anew

PGBOUNCER=path names another PgBouncer.  A part that ran alone replaces its own cases in benchmarks/out; RESULTS.md is
written from all that is there (a quick run has its own: benchmarks/out/quick).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __package__ in (None, ""):                 # run as a file
    sys.path[0] = str(HERE.parent)

from benchmarks import bulk, capacity, cold, different, machine, memory, mysql, pgbench, plot, report, sqlite  # noqa: E402
from benchmarks.plan import Plan  # noqa: E402
from benchmarks.rounds import Row  # noqa: E402

PARTS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "capacity": capacity.run, "pgbench": pgbench.run, "bulk": bulk.run, "memory": memory.run, "cold": cold.run,
    "different": different.run, "mysql": mysql.run, "sqlite": sqlite.run}
SHAPES = ("simple", "extended", "prepared")
MODES = ("session", "transaction", "auto")
PEERS = ("direct", "switchboard", "pgbouncer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}, report; default: all but the last")
    parser.add_argument("--quick", action="store_true", help="few short rounds")
    parser.add_argument("--rounds", type=int, help="per case (default 5; quick 2)")
    parser.add_argument("--seconds", type=float, help="of a round (default 2.5; quick 1)")
    parser.add_argument("--clients", type=int, nargs="+", default=[], help="default: as the part thinks best")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    options = parser.parse_args()
    if unknown := set(options.parts) - {*PARTS, "report"}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    out = HERE / "out" / "quick" if options.quick else HERE / "out"
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="sb-bench-"))
    folder.chmod(0o755)                       # the servers read in it as `nobody`
    plan = Plan(folder, options.rounds or (2 if options.quick else 5), options.seconds or (1.0 if options.quick else 2.5),
                tuple(options.clients), tuple(options.modes), tuple(options.shapes), tuple(options.peers), options.quick)
    try:
        for name in options.parts or PARTS:
            if name != "report":
                for row in PARTS[name](plan):
                    _keep(out / f"{name}.json", row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    target = out if options.quick else HERE
    drawn = plot.draw(out, target / "results.svg")
    report.write(out, target / "RESULTS.md", "results.svg" if drawn else None)
    print(f"{target / 'RESULTS.md'}" + ("" if drawn else " (no plot: pip install matplotlib)"))
    return 0


def _keep(file: Path, row: Row) -> None:
    """Put the row in its place, so that what a broken run has measured is not lost."""
    rows = [Row.from_json(old) for old in json.loads(file.read_text())["rows"]] if file.exists() else []
    at = next((at for at, old in enumerate(rows) if (old.case, old.unit) == (row.case, row.unit)), len(rows))
    rows[at:at + 1] = [row]
    file.write_text(json.dumps({"at": machine.described(), "rows": [each.as_json() for each in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
