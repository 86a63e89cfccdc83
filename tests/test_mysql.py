"""MySQL on its own wire: PyMySQL through the proxy to a real MariaDB."""

from __future__ import annotations

import threading

import pytest

from tests import mariadb
from tests.mariadb import OperationalError, Through
from tests.servers import until

pytestmark = mariadb.needed
LONG = ", ".join(f"information_schema.collations {name}" for name in "abcdef")


def test_a_query(through: Through) -> None:
    with through.connect("catalog") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1, database()")
        assert cursor.fetchall() == ((1, "backstage_plugin_catalog"),)
        assert connection.get_server_info().endswith(through.server.sql("SELECT version()")[0][0])


def test_a_wrong_password_and_a_stranger_look_the_same(through: Through) -> None:
    words = []
    for user in ("backstage", "nobody"):
        with pytest.raises(OperationalError) as caught:
            through.connect("catalog", user=user, password="wrong")
        words.append(str(caught.value).replace(user, "USER"))
    assert words[0] == words[1] == '(1045, "Access denied for user \'USER\'@\'127.0.0.1\' (using password: YES)")'


# -- without a database -----------------------------------------------------------------------------------


def test_a_database_is_made_and_chosen_as_backstage_does(through: Through) -> None:
    with through.connect(None) as connection, connection.cursor() as cursor:
        for _ in range(2):
            cursor.execute("CREATE DATABASE IF NOT EXISTS `backstage_plugin_made-here`")
        with pytest.raises(mariadb.ProgrammingError, match=r"1007"):
            cursor.execute("CREATE DATABASE `backstage_plugin_made-here`")
        cursor.execute("SHOW DATABASES LIKE 'backstage\\_plugin\\_made%'")
        assert cursor.fetchall() == (("backstage_plugin_made-here",),)
        cursor.execute("SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci")
        cursor.execute("SET @@session.sql_mode = 'ANSI_QUOTES'")
        cursor.execute("USE `made-here`")
        cursor.execute("SELECT database(), @@sql_mode, @@collation_connection")
        assert cursor.fetchall() == (("backstage_plugin_made-here", "ANSI_QUOTES", "utf8mb4_unicode_ci"),)
    assert "backstage_plugin_made-here" in through.server.databases()


def test_what_needs_a_database_says_so(through: Through) -> None:
    with through.connect(None) as connection, connection.cursor() as cursor:
        cursor.execute("/* hello */ SELECT 1 AS one, version(), database(), connection_id(), user()")
        assert cursor.fetchall() == (("1", connection.get_server_info(), None, str(connection.thread_id()), "backstage@127.0.0.1"),)
        for text in ("SHOW TABLES", "SELECT * FROM t", "INSERT INTO t VALUES (1)"):
            with pytest.raises(OperationalError, match=r"1046.*No database selected.*USE a plugin's id"):
                cursor.execute(text)
        connection.ping()
        for text in ("DROP DATABASE backstage_plugin_catalog", "CREATE DATABASE backstage_plugin_x CHARACTER SET latin1"):
            with pytest.raises(mariadb.Error, match=r"1235"):
                cursor.execute(text)
        with pytest.raises(OperationalError, match=r"1049.*Unknown database '9-somebody'"):
            connection.select_db("9-somebody")
        connection.select_db("backstage_plugin_catalog")
        cursor.execute("SELECT database()")
        assert cursor.fetchall() == (("backstage_plugin_catalog",),)


# -- USE --------------------------------------------------------------------------------------------------


def test_a_connection_stays_with_its_plugin(through: Through) -> None:
    with through.connect("catalog") as connection, connection.cursor() as cursor:
        for name in ("catalog", "backstage_plugin_catalog"):
            connection.select_db(name)
            for text in (f"USE {name}", f" use `{name}` ;", f"/* which */ USE {name}"):
                cursor.execute(text)
            cursor.execute("SELECT database()")
            assert cursor.fetchall() == (("backstage_plugin_catalog",),)
        cursor.execute("USE information_schema")
        cursor.execute("SELECT database()")
        assert cursor.fetchall() == (("information_schema",),)
        for text in ("USE search", "use backstage_plugin_search", "USE `search`;"):
            with pytest.raises(OperationalError, match=r"1044.*'backstage'@'127.0.0.1' to database.*plugin catalog's.*database search"):
                cursor.execute(text)
        with pytest.raises(OperationalError, match=r"1049"):
            connection.select_db("9-nothing")
    with through.connect("catalog") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT database()")          # the next rider is where it wants to be
        assert cursor.fetchall() == (("backstage_plugin_catalog",),)


# -- KILL -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["told", "server"])
def test_a_query_is_killed_by_either_id(through: Through, by: str) -> None:
    with through.connect("catalog") as victim, through.connect("catalog") as killer, victim.cursor() as slow, killer.cursor() as cursor:
        slow.execute("SELECT connection_id()")
        found = slow.fetchone()
        assert found is not None
        number = victim.thread_id() if by == "told" else found[0]
        ended: list[BaseException] = []

        def sleep() -> None:
            try:
                slow.execute(f"SELECT count(*) FROM {LONG}")
            except mariadb.Error as fault:
                ended.append(fault)

        thread = threading.Thread(target=sleep)
        thread.start()
        asks = f"SELECT 1 FROM information_schema.processlist WHERE id = {found[0]} AND info LIKE '%count%'"
        until(lambda: through.server.sql(asks), "the query")
        cursor.execute(f"KILL QUERY {number}")
        thread.join()
        assert ended
        assert ended[0].args[0] == 1317
        slow.execute("SELECT 1")                      # the connection lives
        cursor.execute("SELECT 2")
        assert cursor.fetchone() == (2,)


def test_a_connection_is_killed_from_the_lobby_and_from_elsewhere(through: Through) -> None:
    for database in (None, "search", "catalog"):
        with through.connect(database) as killer, killer.cursor() as cursor:
            victim = through.connect("catalog")
            cursor.execute(f"KILL {victim.thread_id()}")

            def gone(victim: mariadb.Connection = victim) -> bool:
                try:
                    victim.ping(reconnect=False)
                except mariadb.Error:
                    return True
                return False

            until(gone, "the end of the victim")
            victim.close()
            with pytest.raises(OperationalError, match=r"1094.*Unknown thread id: 77777"):
                cursor.execute("KILL 77777")


def test_nobody_kills_what_is_another_users(mysql: mariadb.MariaDB, tmp_path_factory: pytest.TempPathFactory) -> None:
    users = {"backstage": {"password": "s3cret"}, "other": {"password": "s3cret", "plugins": ["search"]}}
    with (mariadb.through(mysql, tmp_path_factory.mktemp("kill"), users=users) as through, through.connect("catalog") as victim,
          through.connect("search", user="other") as killer, killer.cursor() as cursor):
        with pytest.raises(OperationalError, match=r"1095.*not owner"):
            cursor.execute(f"KILL QUERY {victim.thread_id()}")
        with pytest.raises(OperationalError, match=r"1044.*may not use plugin catalog"):
            through.connect("catalog", user="other")
        victim.ping(reconnect=False)
