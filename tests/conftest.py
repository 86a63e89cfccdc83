"""Servers shared by the whole run, and what was skipped told last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import clouds, mariadb
from tests.oracle.stage import Stage, stage
from tests.servers import Daemon, Postgres, daemon


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def base(postgres: Postgres) -> dict[str, Any]:
    """backend.database on the shared server."""
    return {"client": "pg", "connection": {"host": "127.0.0.1", "port": postgres.port, "user": "postgres",
                                           "password": postgres.password}}


@pytest.fixture(scope="session", params=["session", "transaction", "auto"])
def proxy(request: pytest.FixtureRequest, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon in each pool mode."""
    folder: Path = tmp_path_factory.mktemp("daemon")
    with daemon(folder, base, pool={"mode": request.param, "size": 8}) as running:
        yield running


@pytest.fixture(scope="session", params=["session", "transaction", "auto"])
def trusting(request: pytest.FixtureRequest, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon in each pool mode, for tests of single bytes: nobody is asked for a password."""
    with daemon(tmp_path_factory.mktemp("trusting"), base, auth={"method": "trust"}, users={"backstage": {}},
                pool={"mode": request.param}) as running:
        yield running


def _mysql_servers() -> list[str]:
    return [name for name, found in (("mariadb", mariadb.program()), ("mysql", mariadb.mysqld())) if found is not None] or ["none"]


@pytest.fixture(scope="session", params=_mysql_servers())
def mysql(request: pytest.FixtureRequest) -> Iterator[mariadb.MariaDB]:
    """MariaDB, and MySQL where MYSQLD names one."""
    binary = mariadb.program() if request.param == "mariadb" else mariadb.mysqld()
    if binary is None:
        pytest.skip("needs mariadbd (Debian: mariadb-server), or MYSQLD")
    with mariadb.running(binary) as server:
        yield server


@pytest.fixture(scope="session")
def through(mysql: mariadb.MariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mariadb.Through]:
    """The daemon in front of it."""
    with mariadb.through(mysql, tmp_path_factory.mktemp("mysql"), pool={"size": 8}) as running:
        yield running


@pytest.fixture(scope="session")
def metadata() -> Iterator[str]:
    """One for the whole run: google-auth reads its address once."""
    with clouds.metadata() as address:
        yield address


@pytest.fixture(scope="session")
def oracle(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server and proxies of one, two and three connections in mode `auto` in front of it."""
    with stage(postgres, tmp_path_factory.mktemp("oracle")) as found:
        yield found
