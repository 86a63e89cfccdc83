"""`python -m tests.suites <suite>`: a client's own test suite, directly and through Switchboard, compared test by test.

Exit codes: 0 no differences; 1 a test passes only directly, and no reason is known; 2 the suite could not be had or did not run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence

from tests.suites.by_pytest import Broken
from tests.suites.catalogue import SUITES, Suite
from tests.suites.compare import PASSED, Comparison, reasons_of
from tests.suites.places import place
from tests.suites.sources import Unavailable, scratch

MODES = ("session", "transaction", "auto")


def upstreams(suite: Suite, mode: str) -> int:
    return suite.sessions if mode == "session" else 4 if mode == "auto" else 20


def compare(name: str, suite: Suite, mode: str, pool: int, chosen: Sequence[str]) -> Comparison:
    """Both runs.  Raises Unavailable, and Broken when a run did not come to its end or nothing passed directly."""
    run = suite.prepare()
    with scratch() as folder:
        with place(folder / "direct", suite.needs) as where:
            direct = run(where, chosen)
        if PASSED not in {result.outcome for result in direct.values()}:
            raise Broken(f"no test of {name} passes directly: nothing can be compared")
        with place(folder / "through", suite.needs, mode, pool) as where:
            through = run(where, chosen)
    return Comparison(name, mode, direct, through, reasons_of(name))


def main() -> int:
    names = "\n".join(f"  {name:14}{suite.about}" for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__, epilog=f"suites:\n{names}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=[*SUITES, "all"])
    parser.add_argument("tests", nargs="*", help="only these, as the suite's own runner names them")
    parser.add_argument("--mode", choices=MODES, default="session")
    parser.add_argument("--pool", type=int, help="upstream connections (mode auto: 4)")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))      # servers and folders go also when somebody ends us
    code = 0
    for name in SUITES if wanted.suite == "all" else [wanted.suite]:
        try:
            found = compare(name, SUITES[name], wanted.mode, wanted.pool or upstreams(SUITES[name], wanted.mode), wanted.tests)
        except (Unavailable, Broken) as fault:
            print(f"{name}: {fault}", file=sys.stderr)
            code = code or 2
            continue
        print(json.dumps(found.as_json()) if wanted.json else found.table(), flush=True)
        code = 1 if found.unexplained else code
    return code


if __name__ == "__main__":
    sys.exit(main())
