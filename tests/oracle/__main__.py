"""`python -m tests.oracle [--scripts N] [--seed N] [--most N]`: many scripts, and 0 differences."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.oracle.scripts import scripts
from tests.oracle.shrink import shrunk
from tests.oracle.stage import Blocked, stage
from tests.oracle.steps import Script
from tests.servers import Postgres


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--scripts", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most", type=int, default=20, help="so many different faults are shown")
    asked = parser.parse_args()
    faults: set[str] = set()
    played = differing = blocked = 0
    postgres = Postgres()
    try:
        with tempfile.TemporaryDirectory(prefix="sb-oracle-", dir="/tmp") as folder, stage(postgres, Path(folder)) as both:
            @seed(asked.seed)
            @settings(max_examples=asked.scripts, database=None, deadline=None, phases=[Phase.generate],
                      suppress_health_check=list(HealthCheck))
            @given(scripts())
            def play(one: tuple[Script, int]) -> None:
                nonlocal played, differing, blocked
                played += 1
                if not played % 500:
                    print(f"{played} scripts", file=sys.stderr, flush=True)
                try:
                    found = both.differences(*one)
                except Blocked as told:
                    blocked += 1
                    print(told, flush=True)
                    return
                if not found:
                    return
                differing += 1
                kind = re.sub(r"\d{3,}", "n", "".join(line for line in found.splitlines() if not line[2:3].isdigit()))
                if kind not in faults and len(faults) < asked.most:
                    faults.add(kind)
                    short = shrunk(both, *one)
                    print(f"script {played}, {one[1]} connections\n{both.differences(short, one[1]) or found}\n", flush=True)

            play()
    finally:
        postgres.remove()
    print(f"{played} scripts, seed {asked.seed}: {differing} differences, {blocked} blocked")
    return differing > 0


if __name__ == "__main__":
    sys.exit(main())
