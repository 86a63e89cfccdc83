"""Mode `auto`: a client's process id is its own, and means whatever server process serves it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until
from tests.test_auto import POOL, TRUST, two


@pytest.fixture(scope="module")
def double(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("pids"), base, **TRUST, pool=POOL | {"size": 2}) as running:
        yield running


def test_a_client_has_a_process_id_of_its_own(double: Daemon) -> None:
    first, second = two(double)
    with first, second:
        pids = {first.info.backend_pid, second.info.backend_pid}
        assert len(pids) == 2
        for connection in (first, second, first):
            for text in ("select pg_backend_pid()", "select pg_catalog.pg_backend_pid ( ) as mine", "select pg_backend_pid() + 0"):
                assert connection.execute(text).fetchone() == (connection.info.backend_pid,)
        assert [column.name for column in first.execute("select pg_backend_pid()").description or ()] == ["pg_backend_pid"]
        for prefix in ("select pg_backend_pid(), 'ä', ", "select 'ä', ", "select pg_backend_pid() = pg_catalog.pg_backend_pid(), "):
            for prepare in (False, True):
                with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
                    first.execute(prefix + "nowhere, pg_backend_pid()", prepare=prepare)
                assert caught.value.diag.statement_position == str(len(prefix) + 1)
        assert first.execute("select %s", (second.info.backend_pid,)).fetchone() == (second.info.backend_pid,)


@pytest.mark.parametrize("text", ["select pg_cancel_backend(%s)", "select pg_cancel_backend({})"])
def test_a_cancel_by_sql_hits_the_right_query(double: Daemon, postgres: Postgres, text: str) -> None:
    first, second = two(double)
    with first, second:
        failed: list[Exception] = []

        def sleep() -> None:
            try:
                first.execute("select pg_sleep(60)")
            except psycopg.Error as error:
                failed.append(error)

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        running = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
        until(lambda: postgres.sql(running) == [(1,)], "the query runs")
        pid = first.info.backend_pid
        answer = second.execute(text, (pid,)) if "%s" in text else second.execute(text.format(pid).encode())
        assert answer.fetchone() == (True,)
        sleeper.join(30)
        assert [type(error) for error in failed] == [psycopg.errors.QueryCanceled]
        assert first.execute("select 1").fetchone() == (1,)


def test_views_of_server_processes_know_the_client(double: Daemon) -> None:
    """What programs ask: what am I, who waits for me, whom do I end."""
    with double.connect("catalog", application_name="mine") as first, double.connect("catalog") as second:
        own = "select application_name from pg_stat_activity where "
        assert first.execute(own + "pid = pg_backend_pid()").fetchone() == ("mine",)
        assert first.execute(own + "pid = %s", (first.info.backend_pid,)).fetchone() == ("mine",)
        assert first.execute(f"{own} pg_stat_activity.pid = {first.info.backend_pid}".encode()).fetchone() == ("mine",)
        assert second.execute(own + "pid = %s", (first.info.backend_pid,)).fetchone() is None
        assert first.execute("select count(*) from pg_locks where pid <> pg_backend_pid() and granted is null").fetchone() == (0,)
        cursor = first.execute("select pg_backend_pid();"
                               " select pid = pg_backend_pid() from pg_stat_activity where application_name = 'mine'")
        assert cursor.fetchone() == (first.info.backend_pid,)
        cursor.nextset()
        assert cursor.fetchone() == (True,)


PARSED = "select pg_cancel_backend($1)"


@pytest.fixture(scope="module")
def owned(base: dict[str, Any], postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One connection, and plugins whose things belong to another role than the one that logs in."""
    postgres.sql("create role striker login password 'str1ke'")
    postgres.sql("create role keeper")
    postgres.sql("grant keeper to striker")
    login = base["connection"] | {"user": "striker", "password": "str1ke"}
    maker = {"server": f"127.0.0.1:{postgres.port}", "user": "postgres", "password": postgres.password}
    with daemon(tmp_path_factory.mktemp("owned"), base | {"connection": login, "role": "keeper"}, **TRUST,
                provisioning={"credentials": [maker]}, pool=POOL | {"size": 1}) as running:
        yield running


def asleep(proxy: Daemon, postgres: Postgres, victim: psycopg.Connection[Any], text: str) -> list[str | None]:
    """Runs it there, in a thread that puts the SQLSTATE of its end into the list."""
    ends: list[str | None] = []

    def run() -> None:
        try:
            victim.execute(text.encode())
        except psycopg.Error as error:
            ends.append(error.sqlstate)
        else:
            ends.append(None)

    threading.Thread(target=run).start()
    until(lambda: postgres.sql(f"select 1 from pg_stat_activity where query = $${text}$$ and state = 'active'"), "the query runs")
    return ends


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("how", ["simple", "parsed", "number parsed"])
def test_a_cancel_needs_no_connection_and_no_role(owned: Daemon, postgres: Postgres, how: str, binary: bool) -> None:
    """Whose query has the only connection is stopped all the same; the answer is the server's, byte for byte."""
    victim, striker = two(owned)
    with victim, striker, psycopg.connect(postgres.dsn(), autocommit=True) as direct:
        assert victim.execute("select current_user").fetchone() == ("keeper",)
        ends = asleep(owned, postgres, victim, "select pg_sleep(60.5)")

        def ask(connection: psycopg.Connection[Any], pid: int) -> tuple[Any, ...]:
            text = PARSED if how == "parsed" else f"SELECT  pg_catalog.pg_cancel_backend( {pid} ::int ) ;"
            if how == "simple":
                answer = connection.pgconn.exec_(text.encode())
            else:
                values = [pid.to_bytes(4) if binary else b"%d" % pid] if how == "parsed" else []
                answer = connection.pgconn.exec_params(text.encode(), values, param_formats=[int(binary)] * len(values),
                                                       result_format=int(binary))
            return (answer.status, answer.command_status, answer.ntuples, answer.nfields, answer.fname(0), answer.ftype(0),
                    answer.fsize(0), answer.fformat(0), answer.ftable(0), answer.get_value(0, 0))

        with psycopg.connect(postgres.dsn()) as idle:
            wanted = ask(direct, idle.info.backend_pid)
        assert ask(striker, victim.info.backend_pid) == wanted
        until(lambda: ends, "the end of the query")
        assert ends == ["57014"]
        assert ask(striker, victim.info.backend_pid) == wanted             # who asks for nothing is not hit by it later
        assert victim.execute("select 1").fetchone() == (1,)
        assert striker.execute("select 2").fetchone() == (2,)


def test_a_cancel_hits_who_waits_and_who_keeps_its_connection(owned: Daemon, postgres: Postgres) -> None:
    first, second = two(owned)
    with first, second, owned.connect("catalog") as striker:
        first.execute("create temp table mine (a int)")                    # keeps the connection
        ends = asleep(owned, postgres, first, "select pg_sleep(60.25)")
        waits: list[str | None] = []

        def run() -> None:
            try:
                second.execute("select 'waits'")
            except psycopg.Error as error:
                waits.append(error.sqlstate)

        waiter = threading.Thread(target=run)
        waiter.start()
        until(lambda: owned.metric("switchboard_clients_waiting", plugin="catalog") == 1, "a client that waits")
        striker.execute("select pg_cancel_backend(%s)", (second.info.backend_pid,))
        waiter.join()
        assert (waits, ends) == (["57014"], [])
        striker.execute("select pg_cancel_backend(%s)", (first.info.backend_pid,))
        until(lambda: ends, "the end of the query")
        assert ends == ["57014"]
        assert first.execute("select count(*) from mine").fetchone() == (0,)


def test_who_has_taken_another_role_asks_the_server(owned: Daemon, postgres: Postgres) -> None:
    """Its rights are what it has said: that the server must judge, on a connection."""
    postgres.sql("create role bystander")
    postgres.sql("grant bystander to striker, keeper")
    victim, striker = two(owned)
    with victim, striker:
        striker.execute("set role bystander")
        ends = asleep(owned, postgres, victim, "select pg_sleep(60.75)")
        strike = threading.Thread(target=striker.execute, args=(PARSED.replace("$1", str(victim.info.backend_pid)).encode(),))
        strike.start()
        until(lambda: owned.metric("switchboard_clients_waiting", plugin="catalog") == 1, "one that waits")
        assert ends == []
        postgres.sql("select pg_cancel_backend(pid) from pg_stat_activity where query = 'select pg_sleep(60.75)'")
        strike.join()
        until(lambda: ends, "the end of the query")
