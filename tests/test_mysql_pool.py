"""Connections to MySQL servers: reused behind a reset, limited, counted, drained, cut."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests import mariadb
from tests.mariadb import MariaDB, OperationalError, Through, through
from tests.servers import Daemon, until

pytestmark = mariadb.needed


def one(connection: mariadb.Connection, text: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchone()


@pytest.fixture
def single(mysql: MariaDB, tmp_path: Path) -> Any:
    with through(mysql, tmp_path, pool={"size": 1, "query_wait_timeout": "20s"}) as found:
        yield found


def test_the_next_rider_finds_nothing_of_the_last(single: Through) -> None:
    with single.connect("catalog", autocommit=False) as first, first.cursor() as cursor:
        number = one(first, "SELECT connection_id()")
        cursor.execute("CREATE OR REPLACE TABLE left_behind (id int) ENGINE=InnoDB" if not single.server.mysql else "SELECT 1")
        cursor.execute("CREATE TEMPORARY TABLE mine (id int)")
        cursor.execute("SET @user_variable = 1, SESSION sql_mode = 'ANSI_QUOTES', NAMES latin1")
        cursor.execute("PREPARE p FROM 'SELECT 1'")
        cursor.execute("SELECT get_lock('sb', 0)")
        cursor.execute("USE information_schema")
        cursor.execute("USE catalog")
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO left_behind VALUES (1)")
    with single.connect("catalog") as second, second.cursor() as cursor:
        assert one(second, "SELECT connection_id()") == number
        state = "SELECT database(), @user_variable, @@sql_mode = 'ANSI_QUOTES', is_free_lock('sb'), @@character_set_client"
        assert one(second, state) == ("backstage_plugin_catalog", None, 0, 1, "utf8mb4")
        assert one(second, "SELECT count(*) FROM left_behind") == (0,)
        for text, errno in (("SELECT * FROM mine", 1146), ("EXECUTE p", 1243)):
            with pytest.raises(mariadb.Error) as caught:
                cursor.execute(text)
            assert caught.value.args[0] == errno
    until(lambda: single.daemon.metric("switchboard_resets_total", plugin="catalog") >= 2, "the resets")
    assert single.daemon.metric("switchboard_rollbacks_total", plugin="catalog") == 1


def test_a_full_pool_lets_wait_and_then_says_so(mysql: MariaDB, tmp_path: Path) -> None:
    with through(mysql, tmp_path, pool={"size": 1, "query_wait_timeout": "1s"}) as found, found.connect("catalog"):
        with pytest.raises(OperationalError, match=r"1040.*query_wait_timeout.*Raise switchboard.pool.size"):
            found.connect("catalog")
        found.connect("search").close()


def test_clients_of_other_abilities_have_connections_of_their_own(single: Through) -> None:
    """Flags and character sets are agreed on at login: the idle one makes room."""
    with single.connect("catalog") as plain:
        first = one(plain, "SELECT connection_id()")
    with single.connect("catalog", client_flag=2) as found_rows, found_rows.cursor() as cursor:      # FOUND_ROWS
        assert one(found_rows, "SELECT connection_id()") != first
        cursor.execute("CREATE OR REPLACE TABLE found (id int)" if not single.server.mysql else "CREATE TABLE found (id int)")
        cursor.execute("INSERT INTO found VALUES (1), (1)")
        assert cursor.execute("UPDATE found SET id = 1") == 2
    with single.connect("catalog") as plain, plain.cursor() as cursor:
        assert cursor.execute("UPDATE found SET id = 1") == 0
    assert single.daemon.metric("switchboard_upstreams", plugin="catalog", state="idle") <= 1


@pytest.mark.parametrize(("setting", "limit"), [({"max_clients_per_user": 1}, "user"), ({"max_clients_per_plugin": 1}, "plugin"),
                                                ({"max_clients_per_address": 1}, "address"), ({"max_clients": 1}, "clients")])
def test_limits(mysql: MariaDB, tmp_path: Path, setting: dict[str, Any], limit: str) -> None:
    with through(mysql, tmp_path, **setting) as found:
        with found.connect("catalog"), pytest.raises(OperationalError, match=r"1040.*too many"):
            found.connect("catalog")
        assert found.daemon.metric("switchboard_limited_total", limit=limit) == 1
        until(lambda: not found.daemon.metric("switchboard_clients"), "the client's leaving")
        found.connect("catalog").close()


def test_guessing_is_slowed_down(mysql: MariaDB, tmp_path: Path) -> None:
    with through(mysql, tmp_path, auth={"throttle_failures": 1}) as found:
        for _ in range(3):
            with pytest.raises(OperationalError, match="1045"):
                found.connect("catalog", password="wrong")
        assert found.daemon.metric("switchboard_limited_total", limit="late answer") == 2
        assert found.daemon.metric("switchboard_auth_failures_total", reason="28P01") == 3


def test_metrics(mysql: MariaDB, tmp_path: Path) -> None:
    with through(mysql, tmp_path) as found, found.connect("catalog") as connection, connection.cursor() as cursor:
        def metric(name: str, **more: str) -> float:
            return found.daemon.metric(f"switchboard_{name}", plugin="catalog", **more)

        before = metric("queries_total"), metric("transactions_total"), metric("client_sent_bytes_total")
        cursor.execute("SELECT repeat('x', 100000)")
        connection.begin()
        cursor.execute("SELECT 1")
        connection.commit()
        with pytest.raises(mariadb.Error):
            cursor.execute("nonsense")
        assert metric("queries_total") - before[0] == 5
        assert metric("transactions_total") - before[1] == 3
        assert 100_000 < metric("client_sent_bytes_total") - before[2] < 101_000
        assert metric("errors_total", **{"class": "42"}) == 1
        assert metric("clients", user="backstage") == 1
        assert metric("upstreams", state="active") == 1
        assert metric("query_seconds_count") == metric("queries_total")
        assert metric("upstream_up") == 1
        assert "catalog" in found.daemon.get("/")
        assert f"127.0.0.1:{mysql.port}/backstage_plugin_catalog" in found.daemon.get("/")


def test_a_drain_waits_for_transactions(mysql: MariaDB, tmp_path: Path) -> None:
    running = Daemon(tmp_path, mysql.base(), mysql={"listen": ["127.0.0.1:0"]})
    found = Through(running, mysql)
    try:
        busy, idle = found.connect("catalog", autocommit=False), found.connect("catalog")
        assert one(busy, "SELECT 1") == (1,)
        busy.begin()
        found.daemon.signal(signal.SIGTERM)
        with pytest.raises(OperationalError) as caught:
            until(lambda: idle.ping(reconnect=False), "never")
            one(idle, "SELECT 1")
        assert caught.value.args[0] in (1053, 2006, 2013)
        with pytest.raises(OperationalError):
            found.connect("catalog")
        assert one(busy, "SELECT 2") == (2,)
        busy.commit()
        assert running.process.wait(30) == 0
        for connection in (busy, idle):
            connection._force_close()  # type: ignore[attr-defined]
    finally:
        running.stop()


def test_time_limits(mysql: MariaDB, tmp_path: Path) -> None:
    pool = {"query_timeout": "1s", "idle_transaction_timeout": "1s"}
    with through(mysql, tmp_path, pool=pool) as found:
        with found.connect("catalog") as slow:
            number = one(slow, "SELECT connection_id()")[0]
            with pytest.raises(OperationalError, match=r"3024.*query timeout"):
                one(slow, "SELECT sleep(60)")
        until(lambda: not mysql.sql(f"SELECT 1 FROM information_schema.processlist WHERE id = {number} AND info LIKE '%sleep%'"),
              "the end of the query at the server")
        with found.connect("catalog") as idle, idle.cursor() as cursor:
            idle.begin()
            cursor.execute("SELECT 1")
            found.daemon.logged("idle transaction timeout")
            with pytest.raises(OperationalError):
                cursor.execute("SELECT 1")


def test_a_client_that_vanishes_in_the_middle(single: Through) -> None:
    with single.connect("catalog") as first:
        number = one(first, "SELECT connection_id()")[0]

        def ask() -> None:
            with contextlib.suppress(mariadb.Error):
                one(first, "SELECT sleep(60)")

        threading.Thread(target=ask).start()
        busy = f"SELECT 1 FROM information_schema.processlist WHERE id = {number} AND info LIKE '%sleep%'"
        until(lambda: single.server.sql(busy), "the query")
        first._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        with single.connect("catalog") as second:
            assert one(second, "SELECT connection_id()")[0] != number


def test_a_server_that_restarts(mysql: MariaDB, tmp_path: Path) -> None:
    binary = mariadb.program() or mariadb.mysqld()
    assert binary is not None
    with mariadb.running(binary) as own, through(own, tmp_path) as found:
        with found.connect("catalog") as connection:
            own.stop()
            with pytest.raises(OperationalError) as caught:
                one(connection, "SELECT 1")
            assert caught.value.args[0] in (1053, 1927, 2006, 2013, 4031)
        own.start()
        with found.connect("catalog") as connection:
            assert one(connection, "SELECT 1") == (1,)


def test_a_server_that_is_not_there(mysql: MariaDB, tmp_path: Path) -> None:
    base = {"client": "mysql2", "connection": {"host": "127.0.0.1", "port": 1, "user": "u"}}
    with through(mysql, tmp_path, base) as found, pytest.raises(OperationalError, match=r"1429.*port 1 failed: Connection refused"):
        found.connect("catalog")


def test_a_reload_keeps_clients_and_changes_pools(mysql: MariaDB, tmp_path: Path) -> None:
    with through(mysql, tmp_path) as found, found.connect("catalog") as connection:
        found.daemon.settings["pool"] = {"size": 3}
        found.daemon.write(found.daemon.database)
        found.daemon.signal(signal.SIGHUP)
        found.daemon.logged("msg=reloaded")
        assert one(connection, "SELECT 1") == (1,)
        with found.connect("catalog") as other:
            assert one(other, "SELECT 1") == (1,)
        assert found.daemon.metric("switchboard_pool_size", plugin="catalog") == 3


def test_a_crowd_on_few_connections(mysql: MariaDB, tmp_path: Path) -> None:
    """Clients that come, ask, leave politely or in the middle, and kill each other: nobody meets what is another's."""
    with through(mysql, tmp_path, pool={"size": 3, "query_wait_timeout": "30s"}) as found:
        with found.connect("catalog") as first:
            one(first, "SELECT 1")
        met: list[object] = []

        def live(number: int) -> None:
            chance = random.Random(number)
            for turn in range(12):
                try:
                    connection = found.connect("catalog")
                except mariadb.Error as fault:
                    met.append(fault)
                    continue
                mine = f"{number}-{turn}"
                try:
                    before = one(connection, f"SELECT @me, {'0' if mysql.mysql else '@@in_transaction'}, database()")
                    if before != (None, 0, "backstage_plugin_catalog"):
                        met.append(before)
                    one(connection, f"SET @me = '{mine}'")
                    if chance.random() < 0.5:
                        connection.begin()
                    if one(connection, "SELECT @me, repeat('x', 50000)")[0] != mine:
                        met.append("another's variable")
                    match chance.randrange(4):
                        case 0:
                            connection._execute_command(3, "SELECT sleep(0.05), repeat('y', 100000)")  # type: ignore[attr-defined]
                            connection._force_close()  # type: ignore[attr-defined]
                        case 1:
                            connection._force_close()  # type: ignore[attr-defined]
                        case 2:
                            connection.kill(connection.thread_id())
                        case _:
                            connection.close()
                except mariadb.Error as fault:
                    if fault.args[0] not in (1317, 1927, 2006, 2013):
                        met.append(fault)
                finally:
                    connection._force_close()  # type: ignore[attr-defined]

        threads = [threading.Thread(target=live, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not met
        until(lambda: found.daemon.metric("switchboard_clients", plugin="catalog") == 0, "everybody's leaving")
        until(lambda: found.daemon.metric("switchboard_upstreams", state="active") == 0, "the upstreams' return")
        assert found.daemon.metric("switchboard_upstreams") <= 3


def test_connections_are_kept_warm_for_the_usual_client(mysql: MariaDB, tmp_path: Path) -> None:
    with through(mysql, tmp_path, pool={"size": 4, "min_size": 3}) as found:
        found.connect("catalog").close()
        until(lambda: found.daemon.metric("switchboard_upstreams", plugin="catalog", state="idle") == 3, "the warm ones")
        clients = [found.connect("catalog") for _ in range(3)]
        assert found.daemon.metric("switchboard_connect_seconds_count", plugin="catalog") == 3
        for client in clients:
            client.close()


def test_a_budget_over_plugins(mysql: MariaDB, tmp_path: Path) -> None:
    """What one plugin keeps idle makes room for another."""
    with through(mysql, tmp_path, upstream={"budget": 2}, pool={"query_wait_timeout": "1s"}) as found:
        for name in ("catalog", "search", "auth", "catalog"):
            with found.connect(name) as connection:
                assert one(connection, "SELECT database()") == (f"backstage_plugin_{name}",)
        with found.connect("catalog"), found.connect("search"), pytest.raises(OperationalError, match="1040"):
            found.connect("auth")
        assert found.daemon.metric("switchboard_evicted_total") >= 2
