"""Settings with transaction semantics: scripts run by a real server, and what we keep of them compared with what it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.pq import TransactionStatus

from proxy.session.consequences import Configure, Role, Set
from proxy.session.parameters import MOST_BYTES, NOTHING, Parameters, State, Value, constant, difference
from proxy.session.statements import statements
from tests.servers import Postgres

NAMES = ("search_path", "work_mem", "timezone", "my.setting", "datestyle", "role", "session_authorization", "xmloption",
         "default_transaction_isolation", "statement_timeout")
STATUS = {TransactionStatus.IDLE: b"I", TransactionStatus.INTRANS: b"T", TransactionStatus.INERROR: b"E"}


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Postgres:
    for role in ("sb_one", 'sb "two"'):
        quoted = '"' + role.replace('"', '""') + '"'
        if not postgres.sql(f"select 1 from pg_roles where rolname = '{role}'"):
            postgres.sql(f"create role {quoted}")
    return postgres


@pytest.fixture
def pair(server: Postgres) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    with psycopg.connect(server.dsn(), autocommit=True) as one, psycopg.connect(server.dsn(), autocommit=True) as other:
        yield one, other


def shown(connection: psycopg.Connection[Any]) -> dict[str, str]:
    return {name: connection.execute("select current_setting(%s, true)", (name,)).fetchall()[0][0] or "" for name in NAMES}


def play(connection: psycopg.Connection[Any], parameters: Parameters, text: str) -> None:
    """One simple query on the server, its consequences to `parameters`, as the relay tells them."""
    found = statements(text.encode())
    parameters.begin_implicit()
    done = 0
    try:
        cursor = connection.execute(text.encode(), prepare=False)
        done = len(found)
        cursor.close()
    except psycopg.Error:
        # How far a failed text came is told by its CommandCompletes; psycopg keeps none, so these scripts fail at the end.
        done = len(found) - 1
        failed = True
    else:
        failed = False
    for one in found[:done]:
        parameters.apply(one.effects)
    if failed:
        parameters.failed()
    for name in ("DateStyle", "TimeZone"):
        parameters.learn(name, connection.info.parameter_status(name) or "")
    parameters.ended(STATUS[TransactionStatus(connection.info.transaction_status)])


VALUES = {
    "search_path": ["public", "'a b', \"C\", public", "''", '"$user", public', "'x''y'"], "work_mem": ["'8MB'", "4096", "default"],
    "timezone": ["'UTC'", "'Europe/Vienna'", "default"], "my.setting": ["'a\\b''c'", "E'a\\\\b\\'c'", "ü", "$$x$$", "1"],
    "datestyle": ["iso, dmy", "'SQL'", "german"], "statement_timeout": ["'1h'", "0"],
}
ONE = st.sampled_from([f"set {how}{name} {to} {value}" for name, values in VALUES.items() for value in values
                       for how in ("", "local ", "session ") for to in ("=", "to")])
OTHER = st.sampled_from([
    "set role sb_one", "set role 'sb \"two\"'", "set role none", "reset role", "set local role sb_one",
    "set session authorization sb_one",
    "set session authorization default", "reset session authorization",
    "reset all", "reset work_mem", "reset search_path",
    "select set_config('search_path', 'a, \"B\"', false)", "select set_config('my.setting', 'q''\\q', true)",
    "select set_config('role', 'sb_one', false)", "set time zone interval '-08:00' hour to minute", "set time zone -3",
    "set xml option document",
    "set session characteristics as transaction isolation level serializable", "set schema 'Q'", "select 1/0",
    "set work_mem = 'nonsense'"])
FLOW = st.sampled_from(["begin", "commit", "rollback", "savepoint a", "savepoint b", "rollback to a", "release b", "rollback to b",
                        "commit and chain", "rollback and chain", "release a"])
TEXT = ONE | OTHER | FLOW | FLOW | st.tuples(ONE, ONE, OTHER | FLOW).map("; ".join)


@given(st.lists(TEXT, min_size=1, max_size=14))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_the_server_keeps_them(pair: tuple[psycopg.Connection[Any], psycopg.Connection[Any]], script: list[str]) -> None:
    """Whatever was said: what we kept, put on another connection, makes it like the first, and back again."""
    one, other = pair
    parameters = Parameters()
    for text in script:
        play(one, parameters, text)
    if one.info.transaction_status is not TransactionStatus.IDLE:
        play(one, parameters, "rollback")
    wanted = parameters.wanted()
    try:
        other.execute(difference(NOTHING, wanted))
        assert shown(other) == shown(one)
    finally:
        for connection in (one, other):
            connection.execute("discard all")
            connection.execute("reset role")
    other.execute(difference(NOTHING, wanted))
    other.execute(difference(wanted, NOTHING))
    assert shown(other) == shown(one)


@given(st.lists(ONE | OTHER, max_size=6), st.lists(ONE | OTHER, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_from_anyone_to_anyone(pair: tuple[psycopg.Connection[Any], psycopg.Connection[Any]],
                               first: list[str], second: list[str]) -> None:
    one, other = pair
    has, wants = Parameters(), Parameters()
    try:
        for text in first:
            play(one, has, text)
        for text in second:
            play(other, wants, text)
        one.execute(difference(has.wanted(), wants.wanted()) or b"select 1")
        assert shown(one) == shown(other)
    finally:
        for connection in pair:
            connection.execute("discard all")
            connection.execute("reset role")


def test_rights_have_no_gap() -> None:
    text = difference(State((("a", Value("1")),), "bob", None), State((("work_mem", Value("1MB")),), "eve", "bob"))
    assert text == (b'RESET ROLE; RESET "a"; SET "work_mem" TO \'1MB\'; SET SESSION AUTHORIZATION "bob"; SET ROLE "eve"')


def test_what_is_the_same_has_the_same_digest() -> None:
    texts = ("set timezone = 'utc'", "SET TIME ZONE utc", "set timezone to utc", "select set_config('TimeZone', 'utc', false)")
    digests = set()
    for text in texts:
        parameters = Parameters()
        parameters.apply(statements(text.encode())[0].effects)
        digests.add(parameters.wanted().digest)
    assert len(digests) == 1
    parameters.learn("TimeZone", "UTC")
    assert parameters.wanted().settings == (("timezone", Value("UTC")),)


def test_what_the_server_tells_of_a_local_value_does_not_last() -> None:
    parameters = Parameters()
    parameters.apply([Set("x", "1"), Set("x", "2", True)])
    parameters.learn("x", "2")
    assert parameters.wanted().settings == (("x", Value("1")),)


def test_reset_goes_back_to_the_beginning() -> None:
    parameters = Parameters({"x": "1"})
    parameters.apply([Set("x", "2"), Configure("y", "3"), Role("bob")])
    parameters.apply(statements(b"reset x; reset y")[0].effects)
    assert dict(parameters.wanted().settings) == {"x": Value("1"), "y": Value("3")}
    parameters.apply(statements(b"discard all")[0].effects)
    assert parameters.wanted() == State((("x", Value("1")),))


def test_a_client_may_not_have_us_keep_everything() -> None:
    parameters = Parameters()
    parameters.apply([Set("a.b", "'" + "x" * MOST_BYTES + "'")])
    assert parameters.too_much


def test_constants() -> None:
    assert constant("x", "'it''s'") == Value("it's")
    assert constant("search_path", "'A'") == Value("'A'", True)
    assert constant("search_path", "'a'") == Value("a")
