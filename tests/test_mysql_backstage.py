"""A real Backstage whose plugins live in two engines: most in PostgreSQL, some in MySQL, all behind the same daemon.

It asks for its MySQL databases by itself (ensureExists), on a connection without a database, as it does for PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import mariadb
from tests.backstage.backend import Unavailable, backstage, install
from tests.mariadb import MariaDB
from tests.servers import Postgres, daemon
from tests.test_backstage import Told, catalog, notifications, scaffolder, settings

pytestmark = [mariadb.needed, pytest.mark.backstage]
IN_MYSQL = ("auth", "catalog", "notifications", "user-settings")


@pytest.fixture(scope="module")
def modules() -> Path:
    try:
        return install()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def server() -> Iterator[Postgres]:
    found = Postgres()
    yield found
    found.remove()


def database(postgres: dict[str, Any], mysql: dict[str, Any]) -> dict[str, Any]:
    return {"client": "pg", "connection": postgres,
            "plugin": {plugin: {"client": "mysql2", "connection": mysql} for plugin in IN_MYSQL}}


def test_backstage_on_two_engines(modules: Path, server: Postgres, mysql: MariaDB, tmp_path: Path) -> None:
    for name in IN_MYSQL:
        mysql.sql(f"DROP DATABASE IF EXISTS `backstage_plugin_{name}`")
    told = Told()
    real = database({"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password},
                    mysql.base()["connection"])
    with daemon(tmp_path, real, mysql={"listen": ["127.0.0.1:0"]}) as proxy:
        login = {"host": "127.0.0.1", "user": "backstage", "password": "s3cret"}
        pointed = database({**login, "port": proxy.port}, {**login, "port": proxy.mysql_port})
        for start in (1, 2):
            with backstage(tmp_path, pointed, modules) as backend:
                told(f"start {start}", "ready")
                catalog(backend, told)
                user = backend.guest()
                scaffolder(backend, user, told)
                notifications(backend, user, start, told)
                settings(backend, user, start, told)
        assert {f"backstage_plugin_{plugin}" for plugin in IN_MYSQL} <= mysql.databases()
        assert not {f"backstage_plugin_{plugin}" for plugin in IN_MYSQL} & server.databases()
        queries = {plugin: int(proxy.metric("switchboard_queries_total", plugin=plugin)) for plugin in (*IN_MYSQL, "scaffolder")}
        told("queries by plugin", queries)
        assert all(queries.values())
