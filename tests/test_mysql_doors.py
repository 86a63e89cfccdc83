"""At the wrong door: who speaks the other protocol, or asks for a plugin of the other kind, is told where to knock."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests import mariadb
from tests.mariadb import MariaDB, OperationalError, Through

pytestmark = mariadb.needed


@pytest.fixture(scope="module")
def mixed(mysql: MariaDB, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    """PostgreSQL for most, MySQL for one."""
    plugin = {"shop": {"client": "mysql2", "connection": mysql.base()["connection"]}}
    with mariadb.through(mysql, tmp_path_factory.mktemp("mixed"), {**base, "plugin": plugin}) as found:
        yield found


def test_each_wire_serves_its_plugins(mixed: Through) -> None:
    with mixed.connect("shop") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT database()")
        assert cursor.fetchone() == ("backstage_plugin_shop",)
    with mixed.daemon.connect("catalog") as postgres:
        assert postgres.execute("select current_database()").fetchone() == ("backstage_plugin_catalog",)


def test_a_postgres_client_asks_for_a_mysql_plugin(mixed: Through) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        mixed.daemon.connect("shop")
    assert "plugin shop lives in MySQL, and this port speaks PostgreSQL's protocol" in str(caught.value)
    assert f"Connect a MySQL client to 127.0.0.1:{mixed.daemon.mysql_port}" in str(caught.value)


def test_a_mysql_client_asks_for_a_postgres_plugin(mixed: Through) -> None:
    told = f"plugin catalog lives in PostgreSQL.*Connect a PostgreSQL client to 127.0.0.1:{mixed.daemon.port}"
    with pytest.raises(mariadb.Error, match=told) as caught:
        mixed.connect("catalog")
    assert caught.value.args[0] == 1235
    with mixed.connect("shop") as connection, pytest.raises(mariadb.Error, match=told):
        connection.select_db("catalog")
    with mixed.connect(None) as connection, pytest.raises(mariadb.Error, match=told):
        connection.select_db("catalog")


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_a_postgres_client_at_mysqls_port(mixed: Through, sslmode: str) -> None:
    """Who comes before our greeting is told in its own words; who is slower sees a greeting that it cannot read."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(f"host=127.0.0.1 port={mixed.daemon.mysql_port} user=backstage dbname=catalog sslmode={sslmode}")
    words = str(caught.value)
    assert f"Connect a PostgreSQL client to 127.0.0.1:{mixed.daemon.port}" in words or "received invalid response" in words or (
        "expected authentication request" in words) or "lost synchronization" in words


def test_a_postgres_startup_behind_the_greeting_ends(mixed: Through) -> None:
    with socket.create_connection(("127.0.0.1", mixed.daemon.mysql_port), 10) as sock:
        assert sock.recv(4096)[4] == 10
        sock.sendall(bytes((0, 0, 0, 8, 4, 210, 22, 47)))
        answer = sock.recv(4096)
        assert answer[4] == 0xFF
        assert b"Got packets out of order" in answer
        assert sock.recv(1) == b""


def test_a_mysql_client_at_postgres_port(mixed: Through) -> None:
    with pytest.raises(mariadb.Error, match=rf"1235.*speaks PostgreSQL's protocol.*127.0.0.1:{mixed.daemon.mysql_port}"):
        mixed.connect("shop", port=mixed.daemon.port)


def test_others_at_mysqls_port(mixed: Through) -> None:
    for first in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + bytes(200), b"\xff" * 64, b""):
        with socket.create_connection(("127.0.0.1", mixed.daemon.mysql_port), 10) as sock:
            sock.sendall(first)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                continue


def test_nothing_is_borrowed_across_engines(mysql: MariaDB, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A plugin of another engine has what its own section says, and nothing of the base."""
    lean = {"lean": {"client": "mysql2", "connection": {"host": "127.0.0.1", "port": mysql.port}}}
    with (mariadb.through(mysql, tmp_path_factory.mktemp("lean"), {**base, "plugin": lean}) as found,
          pytest.raises(OperationalError) as caught):
        found.connect("lean")
    assert base["connection"]["user"] not in str(caught.value)
    assert "''@" in str(caught.value)
