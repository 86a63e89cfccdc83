"""A pytest plugin for other people's suites: one line of JSON per test in the file that SUITE_RECORD names.

It alone lies on the path of the suite's Python, and imports nothing of ours.
"""

import json
import os

import pytest

WORSE = ("passed", "skipped", "failed")
worst: dict[str, tuple[str, str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome = "skipped" if hasattr(report, "wasxfail") and report.outcome != "passed" else report.outcome
    words = str(report.longrepr)[-1500:] if outcome == "failed" else ""
    before = worst.setdefault(report.nodeid, (outcome, words))
    if WORSE.index(outcome) > WORSE.index(before[0]):
        worst[report.nodeid] = outcome, words


def pytest_runtest_logfinish(nodeid: str) -> None:
    outcome, words = worst.pop(nodeid, ("failed", "no report"))
    with open(os.environ["SUITE_RECORD"], "a") as file:
        file.write(json.dumps([nodeid, outcome, words]) + "\n")
