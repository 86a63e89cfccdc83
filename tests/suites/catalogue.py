"""The suites: what each is made of, what it needs, how it is run."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

from tests.suites import by_pytest, jdbc, node, regress
from tests.suites.compare import Result
from tests.suites.places import Needs, Place
from tests.suites.sources import Git, Sdist, python_with

Run = Callable[[Place, Sequence[str]], dict[str, Result]]


PLAIN = Needs()


@dataclasses.dataclass(frozen=True)
class Suite:
    about: str
    prepare: Callable[[], Run]         # raises Unavailable; what it returns runs the tests that are chosen, none: all
    needs: Needs = PLAIN
    sessions: int = 20                 # connections at once: upstream ones in mode `session`


ASYNCPG = Sdist("asyncpg", "0.30.0", "c551e9928ab6707602f44811817f82ba3c446e018bfe1d3abecc8ba5f3eac851")
PSYCOPG2 = Sdist("psycopg2", "2.9.10", "12ec0b40b0273f95296233e8750441339298e6a572f7039da5b260e3c8b60e11")
SQLALCHEMY = Sdist("sqlalchemy", "2.0.41", "edba70118c4be3c2b1f90754d308d0b79c6fe2c0fdc52d8ddf603916f83f4db9")
PSYCOPG = Git("https://github.com/psycopg/psycopg", "83f110367cdd249cc0a352e2246ecea9e878e5a0")      # 3.3.4


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


def psycopg() -> Run:
    folder = PSYCOPG.folder()
    python = python_with("psycopg", ["psycopg[binary]==3.3.4", "psycopg-pool", "anyio>=4", "pproxy>=2.7", "dnspython>=2.1",
                                     *by_pytest.RUNNER])

    def run(place: Place, chosen: Sequence[str]) -> dict[str, Result]:
        return by_pytest.run(python, ["--import-mode=importlib", "--test-dsn", place.words, *NO_SERVER, "-m", "not timing",
                                      *(chosen or ["tests"])], folder, place,
                             {"PSYCOPG_IMPL": "binary"})

    return run


def sqlalchemy() -> Run:
    folder = SQLALCHEMY.folder()
    python = python_with("sqlalchemy", ["psycopg[binary]==3.2.9", "asyncpg==0.30.0", "greenlet",
                                        "typing_extensions", *by_pytest.RUNNER])

    def run(place: Place, chosen: Sequence[str]) -> dict[str, Result]:
        servers = [f"postgresql+{driver}://{place.user}:{place.password}@{place.host}:{place.port}/{place.database}"
                   for driver in ("psycopg", "asyncpg")]
        return by_pytest.run(python, ["--maxfail=100000", *(word for server in servers for word in ("--dburi", server)),
                                      *(chosen or DIALECT)], folder, place)

    return run


def node_postgres() -> Run:
    return functools.partial(node.run, node.folder())


def pgjdbc() -> Run:
    return functools.partial(jdbc.run, jdbc.folder())


def pg_regress() -> Run:
    return functools.partial(regress.run, regress.folder())


NO_SERVER = ("--ignore=tests/test_typing.py", "--ignore=tests/crdb")       # of psycopg's: mypy, and another database
DIALECT = ("test/dialect/test_suite.py", "test/dialect/postgresql", "test/engine")
SUITES: dict[str, Suite] = {
    "asyncpg": Suite(f"asyncpg {ASYNCPG.version}", asyncpg, Needs(made_by_tests=("testdb", "asyncpg_intro_test"))),
    "psycopg2": Suite(f"psycopg2 {PSYCOPG2.version}", psycopg2, Needs(
        settings={"max_prepared_transactions": "10", "wal_level": "logical"}, sql=("create extension hstore",))),
    "psycopg": Suite("psycopg 3.3.4", psycopg, Needs(settings={"max_prepared_transactions": "10"}, sql=("create extension hstore",))),
    "node-postgres": Suite(f"node-postgres {node.VERSION}", node_postgres),
    "pgjdbc": Suite(f"pgjdbc {jdbc.VERSION}", pgjdbc, Needs(
        settings={"max_prepared_transactions": "64", "wal_level": "logical"}, sql=("create extension hstore",)),
        sessions=100),                 # it forgets to close some
    "pg_regress": Suite(f"PostgreSQL {regress.SOURCE.version.split('-')[0]}'s regression tests", pg_regress, Needs(
        "regression", sql=regress.LIKE_REGRESSION, binaries=regress.binaries)),
    "sqlalchemy": Suite(f"SQLAlchemy {SQLALCHEMY.version}: dialect and engine, over psycopg and asyncpg", sqlalchemy, Needs(
        settings={"max_prepared_transactions": "10"},
        sql=("create schema test_schema", "create schema test_schema_2", "create extension hstore", "create extension citext"))),
}
