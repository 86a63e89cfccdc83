"""node-postgres: each file of its integration tests is a program of its own; tests inside it are told apart by their marks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.suites.compare import FAILED, PASSED, SKIPPED, Result
from tests.suites.places import Place
from tests.suites.sources import Git, command, made

VERSION = "8.23.0"
SOURCE = Git("https://github.com/brianc/node-postgres", "df274d1ba9ad9d11a8f1079314faeafde7208207")
TESTING = ("async", "bluebird", "co", "pg-copy-streams")      # of its devDependencies, what tests import
ONE_FILE = 120             # seconds
_MARK = re.compile(r"^  (\S.*?) (✔|\? - SKIPPED|FAILED!)", re.MULTILINE)


def folder() -> Path:
    """packages/pg with its dependencies, and without the tools of its makers."""
    source = SOURCE.folder()
    with made(f"node-pg-{VERSION}") as (home, empty):
        if empty:
            shutil.copytree(source / "packages" / "pg", home / "pg")
            package = json.loads((home / "pg" / "package.json").read_text())
            development = package.pop("devDependencies")
            package["dependencies"] |= {name: development[name] for name in TESTING}
            (home / "pg" / "package.json").write_text(json.dumps(package))
            command("npm", "install", "--no-audit", "--no-fund", "--omit=optional", "--omit=peer", cwd=home / "pg")
        return home / "pg"


def run(home: Path, place: Place, chosen: Sequence[str]) -> dict[str, Result]:
    found: dict[str, Result] = {}
    root = home / "test" / "integration"
    for path in sorted(root.rglob("*-tests.js")):
        name = str(path.relative_to(root))
        if chosen and not any(name.startswith(wanted) for wanted in chosen):
            continue
        found |= _file(home, path, name, place)
    return found


def _file(home: Path, path: Path, name: str, place: Place) -> dict[str, Result]:
    environment = place.environment(TEST_TIMEOUT="20000", NODE_NO_WARNINGS="1")
    with subprocess.Popen(["node", str(path)], cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as running:
        try:
            said, code = running.communicate(timeout=ONE_FILE)[0], running.returncode
        except subprocess.TimeoutExpired:
            running.kill()
            said, code = running.communicate()[0], -1
    text = said.decode(errors="replace").replace(place.password, "***")
    found = {name: Result(FAILED, f"exit code {code}\n{text[-1500:]}") if code else Result(PASSED)}
    for test, mark in _MARK.findall(text):
        outcome = {"✔": PASSED, "FAILED!": FAILED}.get(mark, SKIPPED)
        number = sum(1 for known in found if known == f"{name}: {test}" or known.startswith(f"{name}: {test} #"))
        found[f"{name}: {test}" + (f" #{number + 1}" if number else "")] = Result(outcome, text[-1500:] if outcome == FAILED else "")
    return found


__all__ = ["VERSION", "folder", "run"]
