"""Where a suite runs: a new server, with or without Switchboard in front of it, that looks the same from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.servers import Postgres, daemon

PASSWORD = "a-password-of-no-worth"


@dataclasses.dataclass(frozen=True)
class Place:
    """Host, port and credential that a suite is given."""

    port: int
    password: str
    folder: Path                       # what the run writes goes here
    database: str
    host: str = "127.0.0.1"
    user: str = "postgres"

    def environment(self, **more: str) -> dict[str, str]:
        """libpq's variables, and none that might lead elsewhere."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return {**kept, "PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": self.user, "PGPASSWORD": self.password,
                "PGDATABASE": self.database, "PYTHONDONTWRITEBYTECODE": "1", **more}

    @property
    def words(self) -> str:
        return f"host={self.host} port={self.port} user={self.user} password={self.password} dbname={self.database}"


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a suite wants of its server.  `postgres` is no database for a suite: through us that is the maintenance database."""

    database: str = "suite"
    made_by_tests: tuple[str, ...] = ()                # databases that a test creates by itself
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sql: tuple[str, ...] = ()          # run in it
    binaries: Callable[[], Path] | None = None         # unset: the PostgreSQL that the tests always use


@contextlib.contextmanager
def place(folder: Path, needs: Needs, mode: str | None = None, pool: int = 20) -> Iterator[Place]:
    """At a server (mode None) or at a Switchboard in front of one."""
    folder.mkdir()
    server = Postgres(needs.binaries and needs.binaries(), **needs.settings)
    try:
        # One in both runs; without capitals, which a test of SQLAlchemy's takes for its own placeholders.
        server.sql(f"alter role postgres password '{PASSWORD}'")
        server.password = PASSWORD
        server.sql(f"create database {needs.database}")
        for text in needs.sql:
            server.sql(text, needs.database)
        if mode is None:
            yield Place(server.port, server.password, folder, needs.database)
            return
        with daemon(folder, configuration(server, needs), pool={"mode": mode, "size": pool}, **settings(server)) as running:
            yield Place(running.port, server.password, folder, needs.database)
    finally:
        server.remove()


def configuration(server: Postgres, needs: Needs) -> dict[str, Any]:
    """backend.database: each database is called what it is called at the server."""
    return {"client": "pg", "connection": {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password},
            "plugin": {name: {"connection": {"database": name}} for name in (needs.database, *needs.made_by_tests)}}


def settings(server: Postgres) -> dict[str, Any]:
    """Everybody whom the server knows may log in, by the password that it has there."""
    return {"users": {"postgres": {"password": server.password, "replication": True}, "*": {}},
            "auth": {"query": {"connection": server.dsn(), "cache": 0}}, "plugins": "listed"}
