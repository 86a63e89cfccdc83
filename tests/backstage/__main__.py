"""`python -m tests.backstage`: four replicas of a real Backstage on twelve connections, each plugin looking for the others.

Needs Node 20 and npm; installs what tests/backstage/package-lock.json names.  Exit codes: 0 no differences; 1 some; 2 Backstage
could not be had.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.backstage.backend import Unavailable, install
from tests.backstage.replicas import DIVISIONS, play
from tests.servers import Postgres


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.backstage", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("divisions", nargs="*", metavar="division", choices=[*DIVISIONS, []],
                        help=f"how plugins are divided: {', '.join(DIVISIONS)}; unset: one after another")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=100, help="of each spy, at least")
    parser.add_argument("--events", type=int, default=20, help="published, each to all other replicas")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))      # servers go also when somebody ends us
    try:
        modules = install()
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 2
    faults = 0
    for division in asked.divisions or DIVISIONS:
        server = Postgres()
        try:
            with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as folder:
                found = play(server, modules, Path(folder), division, replicas=asked.replicas, rounds=asked.rounds, bells=asked.events)
        finally:
            server.remove()
        print(*found.faults, found, sep="\n", flush=True)
        faults += len(found.faults)
    return faults > 0


if __name__ == "__main__":
    sys.exit(main())
