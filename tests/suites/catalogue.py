"""The suites: what each is made of, what it needs, how it is run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

from tests.suites import by_pytest
from tests.suites.compare import Result
from tests.suites.places import Needs, Place
from tests.suites.sources import Sdist, python_with

Run = Callable[[Place, Sequence[str]], dict[str, Result]]


PLAIN = Needs()


@dataclasses.dataclass(frozen=True)
class Suite:
    about: str
    prepare: Callable[[], Run]         # raises Unavailable; what it returns runs the tests that are chosen, none: all
    needs: Needs = PLAIN


ASYNCPG = Sdist("asyncpg", "0.30.0", "c551e9928ab6707602f44811817f82ba3c446e018bfe1d3abecc8ba5f3eac851")
PSYCOPG2 = Sdist("psycopg2", "2.9.10", "12ec0b40b0273f95296233e8750441339298e6a572f7039da5b260e3c8b60e11")


def asyncpg() -> Run:
    tests = ASYNCPG.folder() / "tests"
    python = python_with("asyncpg", [f"asyncpg=={ASYNCPG.version}", "uvloop", "distro", *by_pytest.RUNNER])

    def run(place: Place, chosen: Sequence[str]) -> dict[str, Result]:
        # importlib: the sdist's own `asyncpg`, which is not compiled, must not come before the installed one.
        return by_pytest.run(python, ["-p", "suite_asyncpg", "--import-mode=importlib", "--rootdir", tests, "-c", os.devnull,
                                      *(chosen or ["."])], tests, place)

    return run


def psycopg2() -> Run:
    folder = PSYCOPG2.folder()
    python = python_with("psycopg2", [f"psycopg2-binary=={PSYCOPG2.version}", *by_pytest.RUNNER])

    def run(place: Place, chosen: Sequence[str]) -> dict[str, Result]:
        return by_pytest.run(python, ["--rootdir", folder, "-c", os.devnull, *(chosen or ["tests"])], folder, place,
                             {"PSYCOPG2_TESTDB": place.database, "PSYCOPG2_TEST_REPL_DSN": ""})

    return run


SUITES: dict[str, Suite] = {
    "asyncpg": Suite(f"asyncpg {ASYNCPG.version}", asyncpg, Needs(made_by_tests=("testdb", "asyncpg_intro_test"))),
    "psycopg2": Suite(f"psycopg2 {PSYCOPG2.version}", psycopg2, Needs(
        settings={"max_prepared_transactions": "10", "wal_level": "logical"}, sql=("create extension hstore",))),
}
