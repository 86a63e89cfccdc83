"""plugin id -> what Backstage would do for it.

`resolve` mirrors @backstage/backend-defaults (tests/golden/resolver_golden.jsonl holds its answers); `dial` adds
what a proxy must know: the server, TLS, who provisions.  Two differences on purpose: a plugin whose client differs
from the base is used verbatim (so the guide), and provisioning goes to the server that the Target names.
"""

from __future__ import annotations

import re
from typing import Any

from proxy.config.connection import connection_of, inherited, origins_of
from proxy.config.database import PLUGIN_ID, Misconfigured, Reader
from proxy.config.other_engines import mysql, sqlite
from proxy.config.resolved import EMBEDDED, MYSQL, PG, SQLITE, Resolved
from proxy.config.yaml12 import Node

_SCHEMA_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

_MEANT = {"postgres": "pg", "postgresql": "pg", "pgsql": "pg", "psql": "pg", "sqlite": "better-sqlite3", "mariadb": "mysql2"} | {
    client: client for client in (*PG, EMBEDDED, *SQLITE, *MYSQL)}


def resolve(root: Node, plugin: str, problems: list[str] | None = None) -> Resolved:
    """Raises Misconfigured; with `problems`, goes on behind what can be passed over and notes it there."""
    base = Reader(root, "backend.database", problems)
    if not PLUGIN_ID.fullmatch(plugin):
        place = _place(root.get("plugin"), plugin) or root.place
        raise Misconfigured(place, f"backend.database.plugin.{plugin}", "not a valid plugin id")
    own = base.reader("plugin")
    for part in plugin.split("."):
        own = own.reader(part)               # Backstage looks keys up by path: a dot goes one level down
    base_client = base.text("client")
    if base_client is None:
        raise Misconfigured(root.place, "backend.database.client", "is missing; set it to pg, better-sqlite3 or mysql2")
    if base.child("connection") is None and base_client != EMBEDDED:
        raise Misconfigured(root.place, "backend.database.connection", "is missing")
    client = own.text("client") or base_client
    prefix = base.text("prefix") or "backstage_plugin_"
    schema_prefix = base.text("schemaPrefix") or ""
    if schema_prefix and not _SCHEMA_PREFIX.fullmatch(schema_prefix):
        base.wrong("schemaPrefix", "must start with a letter or underscore and hold only letters, digits and underscores")
    asked = base.text("pluginDivisionMode") or "database"
    division = "schema" if asked == "schema" else "database"
    if asked != "database" and client in (*SQLITE, *MYSQL):
        base.wrong("pluginDivisionMode", f"{client} does not support `{asked}`")
    skip = own.boolean("skipMigrations")
    skip = (base.boolean("skipMigrations") or False) if skip is None else skip
    common = {"plugin": plugin, "client": client, "client_overridden": client != base_client, "division": division,
              "skip_migrations": skip}
    if client in (*PG, EMBEDDED):
        return _postgres(base, own, common, prefix, schema_prefix)
    if client in SQLITE:
        return sqlite(base, own, common)
    if client in MYSQL:
        return mysql(base, own, common, prefix)
    where = own if own.child("client") is not None else base
    meant = _MEANT.get(client.lower())
    hint = f'; did you mean "{meant}"?' if meant else "; known are pg, embedded-postgres, better-sqlite3 and mysql2"
    where.wrong("client", f"unsupported client '{client}'{hint}")
    if meant != "pg":
        raise where.fault("client", f"unsupported client '{client}'{hint}")
    return _postgres(base, own, common, prefix, schema_prefix)       # to find the other mistakes too


def _place(node: Node | None, key: str) -> str:
    """Where a key stands."""
    line, column = node.key_marks.get(key, (0, 0)) if node is not None else (0, 0)
    return f"{node.file}:{line}:{column}" if node is not None and line else ""


def _postgres(base: Reader, own: Reader, common: dict[str, Any], prefix: str, schema_prefix: str) -> Resolved:
    plugin, division = common["plugin"], common["division"]
    role = own.text("role") or base.text("role")
    ensure_base = base.boolean("ensureExists")
    ensure = own.boolean("ensureExists")
    ensure = (True if ensure_base is None else ensure_base) if ensure is None else ensure
    # Backstage reads the plugin's value under this odd name, and no other.
    ensure_schema = own.boolean("getEnsureSchemaExistsConfig")
    ensure_schema = (base.boolean("ensureSchemaExists") or False) if ensure_schema is None else ensure_schema
    if common["client_overridden"]:
        connection, origins = connection_of(own), origins_of(own)
    else:
        shared, mine, origins = inherited(base, own)
        shared["application_name"] = shared.get("application_name") or f"backstage_plugin_{plugin}"
        if division != "schema":
            shared.pop("database", None)
        connection = shared | mine
    explicit = connection.get("database")
    database = explicit
    schema = None
    if division == "schema":
        schema = f"{schema_prefix}{plugin}"
        if len(schema.encode()) > 63:
            base.wrong("schemaPrefix", f'schema name "{schema}" exceeds the 63-byte limit of PostgreSQL')
        if common["client"] == EMBEDDED and not database:
            database = "backstage"
    elif database is None:
        database = f"{prefix}{plugin}"
    return Resolved(**common, database=database, schema=schema, role=role, ensure_exists=ensure,
                    ensure_schema_exists=ensure_schema, connection=connection, explicit=bool(explicit),
                    origins=origins)
