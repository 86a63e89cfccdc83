"""From Backstage's answer to a Target: the server that its driver would reach, TLS, the credential."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.config.connection import parsed
from proxy.config.connection_string import BadConnectionString
from proxy.config.database import Misconfigured
from proxy.config.libpq import server
from proxy.config.mysql import CLOUDSQL, mysql_server, mysql_source
from proxy.config.resolved import EMBEDDED, MYSQL, SQLITE, Resolved
from proxy.config.target import CloudSqlToken, Credential, Engine, Secret, Server, Target, TokenSource
from proxy.config.token_source import token_source
from proxy.config.words import BadKey, texts

TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_DURATION = re.compile(r"\s*\d+(?:\.\d+)?\s*(?:us|ms|s|min|h|d)?\s*")
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
    startup: dict[str, str] = field(default_factory=dict)


def dial(found: Resolved, environ_user: str, problems: list[str] | None = None) -> Dial:
    """pg's ConnectionParameters: what is empty falls to localhost, 5432 and the user of the process (MySQL: 3306, none).

    Raises Misconfigured; with `problems`, notes each mistake there and answers with what can be read."""
    def note(fault: BadKey) -> None:
        mistake = _astray(found, fault.key, fault.problem)
        if problems is None:
            raise mistake
        problems.append(str(mistake))

    connection, database = found.connection, found.database
    if connection.get("connectionString"):
        try:
            connection = connection | parsed(str(connection["connectionString"]))
        except BadConnectionString as error:
            note(BadKey("connectionString", f"the connection string {error}"))
        database = connection.get("database")
    for key in TIMEOUTS:
        value = connection.get(key)
        if value not in (None, "", False) and not _DURATION.fullmatch(str(value)):
            note(BadKey(key, "expected milliseconds, or a number with a unit such as 30s or 5min"))
    texts(connection, ("user", "password", "database", *STARTUP_KEYS), note)
    if found.client in MYSQL:
        where, source = mysql_server(connection, note), mysql_source(connection, note)
    else:
        where, source = server(connection, note), token_source(connection, note)
        if isinstance(source, CloudSqlToken) and source.locate:
            where = replace(where, host=source.instance)       # Google is asked where that is, at each dial
    user = str(connection.get("user") or ("" if found.client in MYSQL else environ_user))
    password = connection.get("password") if source is None else None
    return Dial(host=where.host, port=where.port, user=user, server=where, source=source,
                startup={key: str(connection[key]) for key in STARTUP_KEYS if connection.get(key) not in (None, "", False)},
                password=None if password in (None, "") else str(password), database=str(database or user))


def _astray(found: Resolved, key: str, problem: str) -> Misconfigured:
    """The mistake, where the key stands; a missing one where what asks for it stands."""
    origins, (head, dot, rest) = found.origins, key.partition(".")
    for name, tail in ((key, ""), (head, dot + rest)):
        if name in origins:
            place, path, via = origins[name]
            return Misconfigured(place, path + tail, problem, via)
    asker = next((origins[name] for name in ("connectionString", "type", "") if name in origins), None)
    place, path, via = asker or ("", f"backend.database.plugin.{found.plugin}.connection", "")
    return Misconfigured(place, f"{path.removesuffix('.connectionString').removesuffix('.type')}.{key}", problem, via)


def target(found: Resolved, environ_user: str, problems: list[str] | None = None) -> Target:
    """Without provisioner: `configuration` knows who that is.  Mistakes as `dial` tells them."""
    if found.client in SQLITE:
        engine = Engine.MEMORY if found.filename == ":memory:" else Engine.SQLITE
        return Target(plugin=found.plugin, engine=engine, filename=None if engine is Engine.MEMORY else found.filename,
                      database=f"backstage_plugin_{found.plugin}" if engine is Engine.MEMORY else found.plugin)
    where = dial(found, environ_user, problems)
    if found.client in MYSQL:
        if found.connection.get("type") == "cloudsql":         # Backstage knows it, so `dial` says where it would lead
            mistake = _astray(found, CLOUDSQL.key, CLOUDSQL.problem)
            if problems is None:
                raise mistake
            problems.append(str(mistake))
        return Target(plugin=found.plugin, engine=Engine.MYSQL, database=where.database, server=where.server,
                      ensure_exists=found.ensure_exists, configured_database=found.explicit, credential=_credential(where))
    explicit = found.explicit or found.division == "schema"
    shared: dict[str, Any] = {"plugin": found.plugin, "database": where.database, "schema": found.schema, "role": found.role,
              "ensure_exists": found.ensure_exists, "configured_database": explicit,
              # Backstage makes the schema when either is asked for.
              "ensure_schema_exists": found.ensure_schema_exists or found.ensure_exists}
    if found.client == EMBEDDED:
        return Target(engine=Engine.EMBEDDED, **shared)
    return Target(engine=Engine.POSTGRES, server=where.server, startup=where.startup, credential=_credential(where), **shared)


def _credential(where: Dial) -> Credential:
    return Credential(user=where.user, password=Secret(where.password) if where.password else None, source=where.source)
