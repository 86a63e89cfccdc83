"""The examples of MySQL in config/examples and in the README, hosts aside, run by a daemon on real servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import mariadb
from tests.mariadb import MariaDB, bare
from tests.servers import ROOT, Postgres

pytestmark = mariadb.needed
WANT = {"mysql": {"auth": ("backstage@%", "unwitting_fox_jumps"), "catalog": ("backstage@%", "backstage_plugin_catalog")},
        "postgresql-and-mysql": {"shop": ("fort@%", "shuffle_ransack_playback")}}


@pytest.fixture(scope="module")
def server(mysql: MariaDB) -> MariaDB:
    """With the accounts of the examples, and the databases that somebody else made."""
    for user, word in (("backstage", "password"), ("fort", "knox")):
        mysql.sql(f"DROP USER IF EXISTS {user}@'%'")
        mysql.sql(f"CREATE USER {user}@'%' IDENTIFIED BY '{word}'")
    for name, user in (("unwitting_fox_jumps", "backstage"), ("shuffle_ransack_playback", "fort")):
        mysql.sql(f"CREATE DATABASE IF NOT EXISTS {name}")
        mysql.sql(f"GRANT ALL ON {name}.* TO {user}@'%'")
    mysql.sql("GRANT ALL ON `backstage\\_plugin\\_%`.* TO backstage@'%'")
    return mysql


@pytest.mark.parametrize("name", WANT)
def test_the_examples(server: MariaDB, postgres: Postgres, base: dict[str, Any], tmp_path: Path, name: str) -> None:
    text = (ROOT / "config/examples" / f"{name}.yaml").read_text()
    text = text.replace("mysql.example.com:3306", f"127.0.0.1:{server.port}").replace("mysql.example.com", "127.0.0.1").replace(
        "port: 3306", f"port: {server.port}").replace(
        "foo:bar@db.example.com:5432", f"postgres:{postgres.password}@127.0.0.1:{postgres.port}")
    with bare(tmp_path, yaml.safe_load(text)["backend"]["database"]) as found:
        for plugin, (user, database) in WANT[name].items():
            with found.connect(plugin) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT current_user(), database()")
                assert cursor.fetchone() == (user, database)
        if name.startswith("postgresql"):
            with found.daemon.connect("catalog") as other:
                assert other.execute("select current_database()").fetchone() == ("backstage_plugin_catalog",)


EXAMPLE = re.search(r"^```mysql-session\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_readmes_session(through: mariadb.Through) -> None:
    """Each line is what a client says, and hears."""
    assert EXAMPLE is not None
    for name in ("catalog", "search"):
        through.connect(name).close()
    clients: dict[str, mariadb.Connection] = {}
    try:
        for line in EXAMPLE[1].splitlines():
            name, _, rest = line.partition("> ")
            said, _, expected = (part.strip() for part in rest.partition("  →  "))
            name = name.strip("[]")
            if name not in clients:
                clients[name] = through.connect(None if name == "none" else name)
            with clients[name].cursor() as cursor:
                try:
                    cursor.execute(said.replace("{catalog}", str(clients["catalog"].thread_id()) if "catalog" in clients else ""))
                    heard = ", ".join(str(row[0]) for row in cursor.fetchall() if str(row[0]) in expected or "SHOW" not in said) or "OK"
                except mariadb.Error as fault:
                    heard = f"ERROR {fault.args[0]}"
            assert heard == expected, line
    finally:
        for client in clients.values():
            client.close()
