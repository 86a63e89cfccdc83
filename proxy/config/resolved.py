"""What Backstage would do for a plugin, in its own words: the record between `resolve` and `dial`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PG, SQLITE, MYSQL = ("pg",), ("better-sqlite3", "sqlite3"), ("mysql", "mysql2")
EMBEDDED = "embedded-postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Backstage's answer, under Backstage's names."""

    plugin: str
    client: str
    client_overridden: bool
    database: str | None
    schema: str | None = None
    role: str | None = None
    ensure_exists: bool = True
    ensure_schema_exists: bool = False
    division: str = "database"
    skip_migrations: bool = False
    connection: dict[str, Any] = field(default_factory=dict, repr=False)
    explicit: bool = False
    filename: str | None = None
    origins: dict[str, tuple[str, str, str]] = field(default_factory=dict, repr=False)
    """Of each key of `connection`: place, path, and what it came from."""
