"""Suites that pytest runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.suites.compare import Result
from tests.suites.places import Place

PLUGIN = Path(__file__).parent / "plugin"
RAN = (0, 1)               # pytest's exit codes of a run in which everything was run, with or without failures
RUNNER = ("pytest>=8.3,<9", "pytest-timeout")
ONE_TEST = 120             # seconds; who hangs fails


class Broken(Exception):
    """The suite did not run to its end; holds its last words."""


def run(python: Path, arguments: Sequence[str | Path], cwd: Path, place: Place, environment: Mapping[str, str] | None = None,
        ) -> dict[str, Result]:
    """Result by test id.  Raises Broken where pytest did not run to its end."""
    record = place.folder / "record.jsonl"
    words = [python, "-m", "pytest", "-q", "-o", f"cache_dir={place.folder / 'cache'}", "-p", "suite_recorder", f"--timeout={ONE_TEST}",
             *arguments]
    variables = place.environment(SUITE_RECORD=str(record), PYTHONPATH=str(PLUGIN), **environment or {})
    done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=variables)
    if done.returncode not in RAN or not record.exists():
        raise Broken(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}")
    found: dict[str, Result] = {}
    for line in record.read_text().splitlines():
        test, outcome, words = json.loads(line)
        found[test] = Result(outcome, words.replace(place.password, "***"))
    return found
