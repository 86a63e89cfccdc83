"""MySQL databases are made on first use, once; missing rights come with the GRANT that helps; `check` sees it before."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config.configuration import read
from tests import mariadb
from tests.mariadb import MariaDB, OperationalError, through
from tests.servers import ROOT

pytestmark = mariadb.needed


def account(mysql: MariaDB, user: str, *grants: str) -> dict[str, Any]:
    """A connection of a new account with these rights."""
    mysql.sql(f"DROP USER IF EXISTS {user}@'%'")
    mysql.sql(f"CREATE USER {user}@'%' IDENTIFIED BY 'x'")
    for grant in grants:
        mysql.sql(f"GRANT {grant} TO {user}@'%'")
    return {"host": "127.0.0.1", "port": mysql.port, "user": user, "password": "x"}


def check(folder: Path, database: dict[str, Any], *plugins: str) -> list[dict[str, Any]]:
    config = folder / "check.yaml"
    config.write_text(yaml.safe_dump({"backend": {"database": database}, "switchboard": {"users": {"u": {"password": "p"}}}}))
    done = subprocess.run([sys.executable, "-m", "proxy", "check", "--json", "--config", str(config), *plugins], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    return list(json.loads(done.stdout))


def test_many_at_once_make_one_database(mysql: MariaDB, tmp_path: Path) -> None:
    mysql.sql("DROP DATABASE IF EXISTS backstage_plugin_rush")
    with through(mysql, tmp_path) as found:
        def come(_: int) -> None:
            found.connect("rush").close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(come, range(8)))
        assert found.daemon.metric("switchboard_provisioning_total", plugin="rush", outcome="created") == 1
        mysql.sql("DROP DATABASE backstage_plugin_rush")         # behind our back: looked for again at the next login
        with found.connect("rush") as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS backstage_plugin_rush")
    assert "backstage_plugin_rush" in mysql.databases()


def test_a_missing_right_comes_with_its_grant(mysql: MariaDB, tmp_path: Path) -> None:
    base = {"client": "mysql2", "connection": account(mysql, "p_poor")}
    with through(mysql, tmp_path, base) as found, pytest.raises(OperationalError) as caught:
        found.connect("po_or")
    assert caught.value.args == (1044, (
        "Access denied for user 'p_poor'@'%' to database 'backstage_plugin_po_or'. As an administrator: CREATE DATABASE "
        r"`backstage_plugin_po_or`; GRANT ALL ON `backstage\_plugin\_po\_or`.* TO 'p_poor'@'%';"))
    assert [(one["ok"], one["step"], one["remedy"]) for one in check(tmp_path, base, "po_or")] == [(False, "provisioning", (
        "As an administrator: CREATE DATABASE `backstage_plugin_po_or`; "
        r"GRANT ALL ON `backstage\_plugin\_po\_or`.* TO 'p_poor'@'%';"))]
    for statement in str(caught.value.args[1]).partition("As an administrator: ")[2].split("; "):
        mysql.sql(statement.rstrip(";"))
    assert check(tmp_path, base, "po_or")[0]["ok"]
    with through(mysql, tmp_path, base) as found:
        found.connect("po_or").close()


def test_who_may_not_list_databases_finds_its_own(mysql: MariaDB, tmp_path: Path) -> None:
    """`GRANT SHOW DATABASES` of the guide is not needed: one's own database is always seen."""
    mysql.sql("CREATE DATABASE IF NOT EXISTS unwitting_fox")
    base = {"client": "mysql2", "connection": account(mysql, "p_fox", "ALL ON unwitting_fox.*"),
            "plugin": {"auth": {"connection": {"database": "unwitting_fox"}}}}
    with through(mysql, tmp_path, base) as found:
        found.connect("auth").close()
        found.connect("unwitting_fox").close()
    finding = check(tmp_path, base, "auth")[0]
    assert finding["ok"]
    assert mysql.sql("SELECT version()")[0][0] in finding["note"]


def test_a_provisioner_makes_and_grants(mysql: MariaDB, tmp_path: Path) -> None:
    mysql.sql("DROP DATABASE IF EXISTS backstage_plugin_given")
    base = {"client": "mysql2", "connection": account(mysql, "p_given")}
    credential = {"server": f"127.0.0.1:{mysql.port}", "user": "root", "password": mariadb.ROOT_WORD}
    with through(mysql, tmp_path, base, provisioning={"credentials": [credential]}) as found:
        with found.connect("given") as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int)")
            cursor.execute("SELECT current_user()")
            assert cursor.fetchone() == ("p_given@%",)
        assert mariadb.ROOT_WORD not in found.daemon.log


def test_ensure_exists_off(mysql: MariaDB, tmp_path: Path) -> None:
    base = {**mysql.base(), "ensureExists": False}
    with through(mysql, tmp_path, base) as found, pytest.raises(OperationalError, match=r"1049.*Unknown database"):
        found.connect("never")
    assert check(tmp_path, base, "never")[0]["step"] == "database"


def test_check_tells_what_is_wrong(mysql: MariaDB, tmp_path: Path) -> None:
    connection = {**mysql.base()["connection"]}
    base = {"client": "mysql2", "connection": connection, "plugin": {
        "wrong": {"connection": {"password": "wrong"}}, "away": {"connection": {"port": 1}},
        "tls": {"connection": {"ssl": {"rejectUnauthorized": True}}}, "fresh": {}}}
    found = {one["plugin"]: one for one in check(tmp_path, base)}
    assert {name: (one["ok"], one["step"]) for name, one in found.items()} == {
        "wrong": (False, "login"), "away": (False, "connect"), "tls": (False, "TLS"), "fresh": (True, "database")}
    assert "created on first use" in found["fresh"]["note"]


def test_who_provisions(tmp_path: Path) -> None:
    """The base's credential on its own server, and never across engines, whatever the places are called."""
    def provisioner(base: dict[str, Any], own: dict[str, Any], **settings: Any) -> str:
        path = tmp_path / "who.yaml"
        path.write_text(yaml.safe_dump({"backend": {"database": {**base, "plugin": {"shop": own}}}, "switchboard": settings}))
        found = read([path], environ={}).target("shop").provisioner
        assert found is not None
        return found.user

    place = {"host": "h", "port": 3306}
    of_mysql = {"client": "mysql2", "connection": {**place, "user": "base", "password": "x"}}
    assert provisioner(of_mysql, {"connection": {"user": "own"}}) == "base"
    assert provisioner(of_mysql, {"connection": {"user": "own", "host": "other"}}) == "own"
    assert provisioner({**of_mysql, "client": "pg"}, {"client": "mysql2", "connection": {**place, "user": "own"}}) == "own"
    credential = {"server": "h:3306", "user": "maker"}
    assert provisioner(of_mysql, {"connection": {"user": "own"}}, provisioning={"credentials": [credential]}) == "maker"
