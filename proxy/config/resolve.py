"""plugin id -> what Backstage would do for it, and the Target that we make of that.

`resolve` mirrors @backstage/backend-defaults (tests/golden/resolver_golden.jsonl holds its answers); `target` adds
what a proxy must know: the server, TLS, who provisions.  Two differences on purpose: a plugin whose client differs
from the base is used verbatim (so the guide), and provisioning goes to the server that the Target names.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from proxy.config.connection_string import BadConnectionString, parse
from proxy.config.database import PLUGIN_ID, Misconfigured, Reader, shown
from proxy.config.libpq import BadKey, parse_hosts, server
from proxy.config.target import CloudSqlToken, Credential, Engine, Secret, Server, Target, TokenSource
from proxy.config.token_source import token_source
from proxy.config.yaml12 import Node

PG, SQLITE, MYSQL = ("pg",), ("better-sqlite3", "sqlite3"), ("mysql", "mysql2")
EMBEDDED = "embedded-postgres"
_SCHEMA_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
STARTUP_KEYS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "options", "client_encoding")


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


def resolve(root: Node, plugin: str, problems: list[str] | None = None) -> Resolved:
    """Raises Misconfigured; with `problems`, goes on behind what can be passed over and notes it there."""
    base = Reader(root, "backend.database", problems)
    if not PLUGIN_ID.fullmatch(plugin):
        raise Misconfigured(root.place, f"backend.database.plugin.{plugin}", "not a valid plugin id")
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
        raise base.fault("schemaPrefix", "must start with a letter or underscore and hold only letters, digits and underscores")
    asked = base.text("pluginDivisionMode") or "database"
    division = "schema" if asked == "schema" else "database"
    if asked != "database" and client in (*SQLITE, *MYSQL):
        raise base.fault("pluginDivisionMode", f"{client} does not support `{asked}`")
    skip = own.boolean("skipMigrations")
    skip = (base.boolean("skipMigrations") or False) if skip is None else skip
    common = {"plugin": plugin, "client": client, "client_overridden": client != base_client, "division": division,
              "skip_migrations": skip}
    if client in (*PG, EMBEDDED):
        return _postgres(base, own, common, prefix, schema_prefix)
    if client in SQLITE:
        return _sqlite(base, own, common)
    if client in MYSQL:
        return _mysql(base, own, common, prefix)
    where = own if own.child("client") is not None else base
    raise where.fault("client", f"unsupported client '{client}' for plugin {plugin}; "
                                "known are pg, embedded-postgres, better-sqlite3 and mysql2")


def _connection(reader: Reader) -> dict[str, Any]:
    """The `connection` of the base or of a plugin, as an object."""
    node = reader.child("connection")
    if node is None or node.value is None:
        return {}
    if isinstance(node.value, str):
        try:
            return _parsed(node.value)
        except BadConnectionString as error:
            raise reader.fault("connection", f"the connection string is {error}") from None
    if not isinstance(node.value, dict):
        raise reader.fault("connection", "expected an object or a connection string")
    return dict(node.plain())


def _parsed(text: str) -> dict[str, Any]:
    """As JavaScript reads it; what it refuses may still be libpq's (several hosts)."""
    try:
        return parse(text)
    except BadConnectionString:
        several = parse_hosts(text)
        if several is None:
            raise
        return several


def _origins(reader: Reader) -> dict[str, tuple[str, str, str]]:
    node = reader.child("connection")
    if node is None:
        return {}
    path = f"{reader.path}.connection"
    found = {"": (node.place, path, node.via)}           # of a connection string, and of keys that are missing
    if isinstance(node.value, dict):
        found |= {key: (inner.place, f"{path}.{key}", inner.via) for key, inner in node.value.items()}
    return found


def _postgres(base: Reader, own: Reader, common: dict[str, Any], prefix: str, schema_prefix: str) -> Resolved:
    plugin, division = common["plugin"], common["division"]
    role = own.text("role") or base.text("role")
    ensure_base = base.boolean("ensureExists")
    ensure = own.boolean("ensureExists")
    ensure = (True if ensure_base is None else ensure_base) if ensure is None else ensure
    # Backstage reads the plugin's value under this odd name, and no other.
    ensure_schema = own.boolean("getEnsureSchemaExistsConfig")
    ensure_schema = (base.boolean("ensureSchemaExists") or False) if ensure_schema is None else ensure_schema
    shared = {} if common["client_overridden"] else _connection(base)
    if division != "schema":
        shared.pop("database", None)
    mine = _connection(own)
    shared["application_name"] = shared.get("application_name") or f"backstage_plugin_{plugin}"
    if common["client_overridden"]:
        shared = {}
    connection = shared | mine
    explicit = connection.get("database")
    database = explicit
    schema = None
    if division == "schema":
        schema = f"{schema_prefix}{plugin}"
        if len(schema.encode()) > 63:
            raise base.fault("schemaPrefix", f'schema name "{schema}" exceeds the 63-byte limit of PostgreSQL')
        if common["client"] == EMBEDDED and not database:
            database = "backstage"
    elif database is None:
        database = f"{prefix}{plugin}"
    return Resolved(**common, database=database, schema=schema, role=role, ensure_exists=ensure,
                    ensure_schema_exists=ensure_schema, connection=connection, explicit=bool(explicit),
                    origins=({} if common["client_overridden"] else _origins(base)) | _origins(own))


def _known_type(base: Reader, own: Reader, connection: dict[str, Any]) -> None:
    kind = connection.get("type")
    if not kind or kind == "default":
        return
    node = own.child("connection")
    where = own if node is not None and node.get("type") is not None else base
    raise where.reader("connection").fault("type", f"unknown connection type {shown('type', kind)} for {MYSQL[0]}")


def _sqlite_connection(reader: Reader) -> dict[str, Any]:
    node = reader.child("connection")
    if node is not None and isinstance(node.value, str):
        return {"filename": node.value}
    return _connection(reader)


def _sqlite(base: Reader, own: Reader, common: dict[str, Any]) -> Resolved:
    node = base.child("connection")
    shared = {} if common["client_overridden"] else _sqlite_connection(base)
    named = shared.get("filename") if not common["client_overridden"] else node is not None and isinstance(
        node.value, dict) and node.plain().get("filename")
    if named not in (None, False, ":memory:"):
        raise base.fault("connection", "`filename` is not supported for the base connection; use `directory`, or a "
                                       "filename for each plugin")
    connection = shared | _sqlite_connection(own)
    name = connection.get("filename")
    if name == ":memory:":
        filename = ":memory:"
    else:
        filename = posixpath.normpath(posixpath.join(str(connection.get("directory") or ""),
                                                     str(name or f"{common['plugin']}.sqlite").lstrip("/")
                                                     if connection.get("directory") else str(name or f"{common['plugin']}.sqlite")))
    return Resolved(**common, database=filename, filename=filename, connection=connection,
                    role=own.text("role") or base.text("role"))


def _mysql_connection(reader: Reader) -> dict[str, Any]:
    node = reader.child("connection")
    if node is None or not isinstance(node.value, str):
        return _connection(reader)
    try:
        url = urlsplit(node.value)
        port = url.port or 3306
    except ValueError:
        raise reader.fault("connection", "the connection string is not a URL") from None
    if url.scheme != "mysql":
        raise reader.fault("connection", "a MySQL connection string starts with mysql://")
    if not url.username or not url.password:
        raise reader.fault("connection", "a MySQL connection string needs user and password")
    if not re.fullmatch(r"/[^/]+", url.path):
        raise reader.fault("connection", "a MySQL connection string needs exactly one path segment, the database")
    if re.search(r"%(?![0-9a-fA-F]{2})", url.path):
        raise reader.fault("connection", "the connection string has a bad % escape")
    return {"user": url.username, "password": url.password, "host": url.netloc.rpartition("@")[2].removesuffix(f":{url.port}"),
            "port": port, "database": unquote(url.path[1:])}


def _mysql(base: Reader, own: Reader, common: dict[str, Any], prefix: str) -> Resolved:
    shared = {} if common["client_overridden"] else _mysql_connection(base)
    shared.pop("database", None)
    connection = shared | _mysql_connection(own)
    _known_type(base, own, {"type": None if connection.get("type") == "cloudsql" else connection.get("type")})
    ensure_base, ensure = base.boolean("ensureExists"), own.boolean("ensureExists")
    explicit = connection.get("database")
    return Resolved(**common, database=explicit or f"{prefix}{common['plugin']}", connection=connection,
                    ensure_exists=(True if ensure_base is None else ensure_base) if ensure is None else ensure,
                    role=own.text("role") or base.text("role"), explicit=bool(explicit),
                    origins=({} if common["client_overridden"] else _origins(base)) | _origins(own))


# -- from Backstage's answer to a Target ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """What the pg driver would really reach: the first of several hosts, the rest is in `server`."""

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    database: str
    server: Server
    source: TokenSource | None = None


def dial(found: Resolved, environ_user: str) -> Dial:
    """pg's ConnectionParameters: what is empty falls to localhost, 5432 and the user of the process."""
    connection, database = found.connection, found.database
    if connection.get("connectionString"):
        try:
            connection = connection | _parsed(str(connection["connectionString"]))
        except BadConnectionString as error:
            raise _astray(found, "connectionString", str(error)) from None
        database = connection.get("database")
    try:
        if found.client in MYSQL:
            where, source = server({"port": 3306} | {key: connection[key] for key in ("host", "port") if connection.get(key)}), None
        else:
            where, source = server(connection), token_source(connection)
            if isinstance(source, CloudSqlToken) and source.locate:
                where = replace(where, host=source.instance)       # Google is asked where that is, at each dial
    except BadKey as error:
        raise _astray(found, error.key, error.problem) from None
    user = str(connection.get("user") or environ_user)
    password = connection.get("password") if source is None else None
    return Dial(host=where.host, port=where.port, user=user, server=where, source=source,
                password=None if password in (None, "") else str(password), database=str(database or user))


def _astray(found: Resolved, key: str, problem: str) -> Misconfigured:
    """The mistake, where the key stands; a missing one where what asks for it stands."""
    origins = found.origins
    if key in origins:
        place, path, via = origins[key]
        return Misconfigured(place, path, problem, via)
    asker = next((origins[name] for name in ("connectionString", "type", "") if name in origins), None)
    place, path, via = asker or ("", f"backend.database.plugin.{found.plugin}.connection", "")
    return Misconfigured(place, f"{path.removesuffix('.connectionString').removesuffix('.type')}.{key}", problem, via)


def target(found: Resolved, environ_user: str) -> Target:
    """Without provisioner: `configuration` knows who that is."""
    if found.client in SQLITE:
        engine = Engine.MEMORY if found.filename == ":memory:" else Engine.SQLITE
        return Target(plugin=found.plugin, engine=engine, filename=None if engine is Engine.MEMORY else found.filename,
                      database=f"backstage_plugin_{found.plugin}" if engine is Engine.MEMORY else str(found.filename))
    where = dial(found, environ_user)
    if found.client in MYSQL:
        return Target(plugin=found.plugin, engine=Engine.MYSQL, database=where.database)
    explicit = found.explicit or found.division == "schema"
    shared: dict[str, Any] = {"plugin": found.plugin, "database": where.database, "schema": found.schema, "role": found.role,
              "ensure_exists": found.ensure_exists, "configured_database": explicit,
              # Backstage makes the schema when either is asked for.
              "ensure_schema_exists": found.ensure_schema_exists or found.ensure_exists}
    if found.client == EMBEDDED:
        return Target(engine=Engine.EMBEDDED, **shared)
    startup = {key: str(found.connection[key]) for key in STARTUP_KEYS if found.connection.get(key) not in (None, "", False)}
    return Target(engine=Engine.POSTGRES, server=where.server, startup=startup, credential=Credential(
        user=where.user, password=Secret(where.password) if where.password else None, source=where.source), **shared)
