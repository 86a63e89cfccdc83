"""The comparison of clients' own suites: its judgement, and a quick part of a real one where it can be had."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT
from tests.suites import compare
from tests.suites.catalogue import PSYCOPG2, SUITES
from tests.suites.compare import Comparison, Result, reasons
from tests.suites.sources import CACHE

pytestmark = pytest.mark.drivers


def comparison(direct: dict[str, str], through: dict[str, str], known: str = "", mode: str = "session") -> Comparison:
    return Comparison("some", mode, {test: Result(outcome) for test, outcome in direct.items()},
                      {test: Result(outcome, "why") for test, outcome in through.items()}, reasons(known))


def test_what_passes_only_directly_is_a_difference() -> None:
    found = comparison({"a": "passed", "b": "passed", "c": "failed", "d": "passed", "e": "passed"},
                       {"a": "passed", "b": "failed", "c": "failed", "d": "skipped"})
    assert {test: result.outcome for test, result in found.unexplained.items()} == {"b": "failed", "d": "skipped", "e": "missing"}
    assert "DIFFERENCE b: failed\n    why" in found.table()
    assert "3 differences" in found.table()


def test_reasons_explain_differences() -> None:
    known = "# Why a and\n# all of b.\na\nb::*\n\n# only: auto\n# Another.\nc\n"
    direct, through = dict.fromkeys(("a", "b::1", "b::2", "c"), "passed"), dict.fromkeys(("a", "b::1", "b::2", "c"), "failed")
    assert list(comparison(direct, through, known).unexplained) == ["c"]
    assert not comparison(direct, through, known, "auto").unexplained
    assert "a reason that nothing needs: b::*" in comparison({"a": "passed"}, {"a": "failed"}, known).table()
    with pytest.raises(ValueError, match="c: no reason"):
        reasons("# Why.\na\n\nc\n")


@pytest.mark.parametrize("suite", SUITES)
def test_every_reason_is_well_formed(suite: str) -> None:
    for reason in compare.reasons_of(suite):
        assert len(reason.text) > 40
    assert {path.stem for path in compare.REASONS.glob("*.txt")} <= SUITES.keys()


@pytest.mark.parametrize("mode", ["session", "auto"])
def test_a_quick_part_of_psycopg2s_suite(mode: str) -> None:
    """Needs nothing of the network: where the suite has been fetched once, it stays in the cache."""
    if not (CACHE / f"psycopg2-{PSYCOPG2.version}" / ".ready").exists():
        pytest.skip("psycopg2's suite has not been fetched here (python -m tests.suites psycopg2)")
    done = subprocess.run([sys.executable, "-m", "tests.suites", "psycopg2", "--json", "--mode", mode, "tests/test_transaction.py",
                           "tests/test_with.py"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["direct"]["passed"] > 20
    assert found["differences"] == {}


def test_a_suite_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.suites", "psycopg"], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env={"XDG_CACHE_HOME": str(tmp_path), "PATH": "/nowhere"})
    assert done.returncode == 2
    assert done.stderr.startswith("psycopg: git: ")
    assert not list((tmp_path / "switchboard-suites").glob("psycopg*"))
