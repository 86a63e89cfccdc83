"""A real server is the judge: whatever a statement left in its session, the text must have told.

Each statement runs outside of a transaction; what the session has is asked before and after.  A difference that `read` had
no effect for is a failure.  More than happened may be told: that costs a connection, not the truth.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.session.consequences import (
    Authorization,
    Configure,
    Discard,
    Doubt,
    Effect,
    Execute,
    Listen,
    Pin,
    Prepare,
    Reason,
    Reset,
    ResetAll,
    Role,
    Set,
    Unlisten,
    Unpin,
)
from proxy.session.statements import read, statements
from proxy.session.tokens import tokens
from tests.servers import Postgres
from tests.test_session_statements import KNOWN, ORDINARY

SETUP = """
    create role sb_bob; create table t (id serial primary key, a text, b text, v jsonb); create table u (id int, d int unique);
    create sequence s; insert into t (a) values ('b'); create view w as select * from t;
    create function mine(int) returns int language plpgsql as $$ begin perform pg_advisory_lock(42); return $1; end $$;
    create function sets() returns text language sql as $$ select set_config('work_mem', '9MB', false) $$;
    create procedure p(int) language plpgsql as $$ begin create temp table if not exists made (a int); end $$;
    create type pair as (a int, b int); create domain small as int check (value < 10);
"""

EXTRA = (Path(__file__).with_name("session_statements.txt")).read_text().splitlines()
TEXTS = list(dict.fromkeys([*(text for text, _ in KNOWN), *ORDINARY, *EXTRA]))

STATE = {
    "settings": "select coalesce(jsonb_object_agg(name, setting), '{}') from pg_settings where name not in "
                "('transaction_isolation', 'transaction_read_only', 'transaction_deferrable', 'is_superuser', 'in_hot_standby')",
    "custom": "select jsonb_build_array(current_setting('my.thing', true), current_setting('x.y', true), current_setting('a', true))",
    "role": "select to_jsonb(current_setting('role') || ' ' || session_user || ' ' || current_user)",
    "advisory": "select coalesce(jsonb_agg(to_jsonb(l) order by classid, objid, objsubid, mode), '[]') from pg_locks l "
                "where locktype = 'advisory' and pid = pg_backend_pid()",
    "channels": "select coalesce(jsonb_agg(c order by c), '[]') from pg_listening_channels() c",
    "prepared": "select coalesce(jsonb_agg(name order by name), '[]') from pg_prepared_statements where from_sql",
    "cursors": "select coalesce(jsonb_agg(name order by name), '[]') from pg_cursors where is_holdable",
    "temporary": "select jsonb_build_array((select count(*) from pg_class where relnamespace = pg_my_temp_schema()), "
                 "(select count(*) from pg_proc where pronamespace = pg_my_temp_schema()), "
                 "(select count(*) from pg_type where typnamespace = pg_my_temp_schema()))",
}
QUERY = ("select " + ", ".join(f"({text})" for text in STATE.values())).encode()
ANYTHING = {Reason.OBSCURE, Reason.UNKNOWN, Reason.LENGTH, Reason.LIBRARY}      # a library brings settings of its own
SETTINGS = (Set, Configure, Reset, ResetAll, Discard)
REASONS = {"settings": Reason.SETTING, "custom": Reason.SETTING, "role": Reason.SETTING, "advisory": Reason.ADVISORY,
           "channels": Reason.LISTEN, "prepared": Reason.PREPARED, "cursors": Reason.HOLD, "temporary": Reason.TEMPORARY}
KINDS: dict[str, tuple[type, ...]] = {
    "settings": SETTINGS, "custom": SETTINGS, "role": (Role, Authorization, Discard), "advisory": (Discard,),
    "channels": (Listen, Unlisten, Discard), "prepared": (Prepare, Discard), "cursors": (Discard,), "temporary": (Discard,)}


def told(what: str, effects: Sequence[Effect]) -> bool:
    """Do the effects speak of this part of the session's state?"""
    kinds = (Doubt, Execute, *KINDS[what])
    return any(isinstance(effect, kinds) or (isinstance(effect, Pin | Unpin) and effect.reason in {*ANYTHING, REASONS[what]})
               for effect in effects)


def has(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    row = connection.execute(QUERY, prepare=False).fetchone()
    assert row is not None
    return dict(zip(STATE, row, strict=True))


def judge(connection: psycopg.Connection[Any], text: bytes) -> list[str]:
    """What the text left in the session and did not tell; the session is cleaned behind it."""
    before = has(connection)
    try:
        result = connection.pgconn.exec_(text)
        while result.status == psycopg.pq.ExecStatus.COPY_OUT and connection.pgconn.get_copy_data(0)[0] > 0:
            pass
        if result.status == psycopg.pq.ExecStatus.COPY_IN:
            connection.pgconn.put_copy_end(b"enough")
        while connection.pgconn.get_result() is not None:
            pass
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.pgconn.exec_(b"rollback")
        after = has(connection)
    finally:
        for clean in (b"rollback", b"reset session authorization", b"reset role", b"discard all"):
            connection.pgconn.exec_(clean)
    if before["role"] != after["role"]:       # which settings are shown depends on who asks
        before["settings"] = {name: value for name, value in before["settings"].items() if name in after["settings"]}
    return [what for what in STATE if before[what] != after[what] and not told(what, read(text))]


@pytest.fixture(scope="module")
def session(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    postgres.sql("create database sb_judge")
    with psycopg.connect(postgres.dsn("sb_judge"), autocommit=True) as connection:
        for text in SETUP.split(";\n"):
            connection.execute(text.encode())
        yield connection
    postgres.sql("drop database sb_judge with (force)")
    postgres.sql("drop role sb_bob")


def dressed(text: str, chance: random.Random) -> str:
    """The same statement in other words: comments and blanks between tokens, keywords in any case."""
    pieces, at = [], 0
    for token in tokens(text):
        between = text[at:token.start]
        if between.isspace() and chance.random() < 0.5:
            between = chance.choice([" /* '; $$ */ ", "\n-- listen \"\n", "\t\f\r\n", " /* /* */ -- */ "])
        word = text[token.start:token.end]
        pieces += [between, word.upper() if token.kind == 1 and chance.random() < 0.5 else word]
        at = token.end
    return "".join(pieces) + text[at:]


def test_there_are_some_hundred() -> None:
    assert len(TEXTS) > 300


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_left_was_told(session: psycopg.Connection[Any], text: str) -> None:
    assert judge(session, text.encode()) == []


def test_what_is_left_was_told_in_other_words(session: psycopg.Connection[Any]) -> None:
    chance = random.Random(20)
    missed = [(other, what) for text in TEXTS for other in [dressed(text, chance)] if (what := judge(session, other.encode()))]
    assert missed == []


def test_statements_end_where_the_server_ends_them(session: psycopg.Connection[Any]) -> None:
    """As many results as statements, over all pairs of a sample."""
    sample = ["select 1", "select 'a;b' ; ", "select E'\\';'", "select $a$;$$;$a$", "select 1 -- ;\n", "select /* ; /* ; */ */ 2",
              "select \"a;\" from (select 1 as \"a;\") x", "select 'a'\n  ';b'", "select E'a'\n -- '\n '\\';'", "select 1 as begin",
              "select (1)", ";;", "select $1$;$1$", "select U&'\\0061;'", "select b'1', x'ff', n';'", "select 1.5e3, .5, 1e-3, 0xff",
              "select case when true then 1 end", "show work_mem", "select 'é;'", "select 1 as é$;$é"]
    for one, other in itertools.product(sample, sample):
        text = f"{one};{other}".encode()
        session.pgconn.send_query(text)
        results, failed = 0, False
        while (result := session.pgconn.get_result()) is not None:
            results += result.status != psycopg.pq.ExecStatus.EMPTY_QUERY
            failed |= result.status == psycopg.pq.ExecStatus.FATAL_ERROR
        if not failed:
            assert len(statements(text)) == results, text


@pytest.mark.long
@pytest.mark.skipif("REGRESSION_SQL" not in os.environ, reason="REGRESSION_SQL names a folder of .sql files to judge by")
def test_files(session: psycopg.Connection[Any]) -> None:
    missed = []
    for path in sorted(Path(os.environ["REGRESSION_SQL"]).glob("*.sql")):
        content = re.sub(rb"(?m)^\\.*$|\\(?:gset|gexec|gdesc|;|crosstabview|g)\b.*$", b"", path.read_bytes())
        if len(content) > 1 << 18:
            content = content[:1 << 18].rpartition(b";\n")[0]
        for one in statements(content):
            text = content[one.start:one.end]
            if re.match(rb"(?i)copy\b.*\b(from\s+stdin|to)\b|.*\bpg_(terminate_backend|sleep)", text, re.DOTALL):
                continue
            if what := judge(session, text):
                missed.append((path.name, text[:200], what))
    assert missed == []
