"""From Backstage's answer to a Target: the server that its driver would reach, TLS, the credential."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from proxy.config.connection import parsed
from proxy.config.connection_string import BadConnectionString
from proxy.config.database import Misconfigured
from proxy.config.libpq import BadKey, server
from proxy.config.resolved import EMBEDDED, MYSQL, SQLITE, Resolved
from proxy.config.target import CloudSqlToken, Credential, Engine, Secret, Server, Target, TokenSource
from proxy.config.token_source import token_source

STARTUP_KEYS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "options", "client_encoding")


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
            connection = connection | parsed(str(connection["connectionString"]))
        except BadConnectionString as error:
            raise _astray(found, "connectionString", f"the connection string {error}") from None
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
