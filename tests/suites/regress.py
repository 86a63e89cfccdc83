"""PostgreSQL's own regression tests, by pg_regress, against a server built from the same source.

The server reads and writes files of the tests, and as root's child it is nobody: so each run has a copy that everybody may write.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.suites.by_pytest import Broken
from tests.suites.compare import FAILED, PASSED, Result
from tests.suites.places import Place
from tests.suites.sources import Debian, Unavailable, command, made

SOURCE = Debian("postgresql-15", "15.18-0+deb12u1", "11df0df97fe3ea4ba9a791faaf39cee1d2fe571e78885b5b55d8517d27c323b4")
CONFIGURE = ("./configure", "-q", "--without-readline", "--without-zlib", "CFLAGS=-O1")
MADE = Path("src/test/regress")
# What pg_regress does to the database that it creates by itself (and, through us, could not: it asks `postgres` for it).
LIKE_REGRESSION = tuple(f"alter database regression set {name} to '{value}'" for name, value in (
    ("lc_messages", "C"), ("lc_monetary", "C"), ("lc_numeric", "C"), ("lc_time", "C"), ("bytea_output", "hex"),
    ("timezone_abbreviations", "Default")))
_LINE = re.compile(r"^(?:test|parallel group|\s)\s+(\S+)\s+\.\.\. (ok|FAILED|failed)", re.MULTILINE)


def folder() -> Path:
    """The built source, with an installation in `installed`."""
    source = SOURCE.folder()
    with made(f"built-{SOURCE.name}-{SOURCE.version}") as (home, empty):
        if empty:
            for program in ("gcc", "make", "perl"):
                if shutil.which(program) is None:
                    raise Unavailable(f"{program} is missing: PostgreSQL is built from its source")
            shutil.copytree(source, home / "tree", symlinks=True)
            command(*CONFIGURE, f"--prefix={home / 'installed'}", cwd=home / "tree")
            command("make", "-s", f"-j{os.cpu_count()}", "install", cwd=home / "tree")
            for part in (str(MADE), "contrib/spi"):
                command("make", "-s", "-C", part, cwd=home / "tree")
        return home


def binaries() -> Path:
    return folder() / "installed" / "bin"


def run(home: Path, place: Place, chosen: Sequence[str]) -> dict[str, Result]:
    tests = place.folder / "regress"
    shutil.copytree(home / "tree" / MADE, tests)
    for name in ("refint", "autoinc"):
        shutil.copy(home / "tree" / "contrib" / "spi" / f"{name}.so", tests)
    (tests / "results").mkdir(exist_ok=True)
    for path in (place.folder.parent, place.folder, tests, tests / "results"):
        path.chmod(0o777)
    which = list(chosen) if chosen else [f"--schedule={tests / 'parallel_schedule'}"]
    options = {"bindir": home / "installed" / "bin", "inputdir": tests, "outputdir": tests, "dlpath": tests, "dbname": place.database,
               "host": place.host, "port": place.port, "user": place.user, "max-connections": 15}
    words: list[str | Path] = [tests / "pg_regress", "--use-existing",
               *(f"--{name}={value}" for name, value in options.items()), *which]
    done = subprocess.run(words, cwd=tests, capture_output=True, text=True, errors="replace", env=place.environment(),
                          stdin=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        raise Broken(f"pg_regress ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    differences = (tests / "regression.diffs").read_text(errors="replace") if (tests / "regression.diffs").exists() else ""
    found: dict[str, Result] = {}
    for test, outcome in _LINE.findall(done.stdout):
        if outcome == "ok":
            found[test] = Result(PASSED)
        else:
            at = differences.find(f"/results/{test}.out")
            found[test] = Result(FAILED, differences[at:at + 1500] if at >= 0 else "")
    if not found:
        raise Broken(f"pg_regress told of no test:\n{(done.stdout + done.stderr)[-3000:]}")
    return found
