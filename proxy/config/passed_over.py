"""What Backstage passes over in silence below `backend.database`, and what is most likely a mistake though its driver
makes something of it.

    connection: {hots: db}                  a key that nobody reads, with what was probably meant
    postgresql://db/x?sslmod=require        the same in a URL
    client: pg, connection: mysql://...     another database's URL; likewise `host=db dbname=x`, `db:5432/x`, `:memory:`
    connection: {ssl: true, sslmode: ...}   of two only one counts

All this is warned of, because a Backstage that runs with it should go on running.  But a misspelt key that was to protect
the connection (`sslmod`, `chanel_binding`) is refused: passing over it would show to everybody what was to be encrypted.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple
from urllib.parse import parse_qsl

from proxy.config.connection_string import ESCAPES
from proxy.config.mistakes import suggest
from proxy.config.resolved import EMBEDDED, MYSQL, PG, SQLITE
from proxy.config.yaml12 import Node

DATABASE_KEYS = ("client", "connection", "prefix", "schemaPrefix", "plugin", "pluginDivisionMode", "role", "ensureExists",
                 "ensureSchemaExists", "skipMigrations", "knexConfig")
PLUGIN_KEYS = ("client", "connection", "role", "ensureExists", "skipMigrations", "knexConfig", "getEnsureSchemaExistsConfig")
# What node-postgres, knex and Backstage's connectors read, and libpq's words that a connection URL may carry.
CONNECTION_KEYS = (
    "host", "port", "user", "password", "database", "connectionString", "ssl", "application_name", "fallback_application_name",
    "statement_timeout", "query_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "connectionTimeoutMillis",
    "client_encoding", "options", "keepAlive", "keepAliveInitialDelayMillis", "binary", "replication", "type", "instance",
    "ipAddressType", "tokenCredential", "tokenRenewableOffsetTime", "region", "searchPath", "expirationChecker", "maxLifetimeSeconds",
    "min", "max", "idleTimeoutMillis", "allowExitOnIdle", "filename", "directory", "charset", "timezone", "socketPath",
    "sslmode", "sslcert", "sslkey", "sslrootcert", "sslnegotiation", "sslsni", "uselibpqcompat", "channel_binding",
    "target_session_attrs", "load_balance_hosts", "require_auth", "ssl_min_protocol_version", "ssl_max_protocol_version",
    "passwordCommand", "authMechanism")
SSL_KEYS = ("rejectUnauthorized", "ca", "cert", "key", "servername", "passphrase", "pfx", "ciphers", "minVersion", "maxVersion",
            "checkServerIdentity", "secureContext", "sslmode")
# Misspelt, these would leave a connection open that was to be closed.
GUARDS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation", "channel_binding", "require_auth",
          "ssl_min_protocol_version")
# libpq's words that neither node-postgres nor we apply -> what does the same here.
LIBPQ = {
    "dbname": "database", "hostaddr": "host", "connect_timeout": "switchboard.upstream.connect_timeout",
    "passfile": "the environment variable PGPASSFILE", "service": "", "requirepeer": "", "gssencmode": "", "krbsrvname": "",
    "sslcrl": "", "sslcrldir": "", "sslpassword": "", "sslcompression": "", "sslcertmode": "",
} | {key: f"switchboard.upstream.{key}" for key in ("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")}
_SCHEME = re.compile(r"(?P<jdbc>jdbc:)?(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CLIENTS = {"postgres": "pg", "postgresql": "pg", "mysql": "mysql2", "mysql2": "mysql2", "mariadb": "mysql2",
            "sqlite": "better-sqlite3", "sqlite3": "better-sqlite3"}
_ELSEWHERE = ("http", "https", "mssql", "sqlserver", "oracle", "mongodb", "mongodb+srv", "redis", "rediss", "file", "ftp")


class PassedOver(NamedTuple):
    """`text` is file:line:column: key: what is odd; `unsafe`: not to be passed over by us."""

    text: str
    unsafe: bool = False


def passed_over(root: Node) -> Iterator[PassedOver]:
    """Everything of that kind below backend.database."""
    base = _client(root, "")
    yield from _unknown(root, "backend.database", DATABASE_KEYS)
    yield from _connection(root, "backend.database", base)
    plugins = root.get("plugin")
    for plugin, node in (plugins.value.items() if plugins is not None and isinstance(plugins.value, dict) else ()):
        path = f"backend.database.plugin.{plugin}"
        # A dot in a plugin id is a level of its own: only objects that look like a plugin's settings are judged.
        if isinstance(node.value, dict) and any(
                not isinstance(inner.value, dict) or difflib.get_close_matches(key, PLUGIN_KEYS, 1)
                for key, inner in node.value.items()):
            yield from _unknown(node, path, PLUGIN_KEYS)
            yield from _connection(node, path, _client(node, base))


def _client(node: Node, default: str) -> str:
    """The client under the first of its names."""
    client = node.get("client")
    name = client.value if client is not None and isinstance(client.value, str) else default
    return next((names[0] for names in (PG, SQLITE, ("mysql2", *MYSQL)) if name in names), "pg" if name == EMBEDDED else name)


def _connection(node: Node, path: str, client: str) -> Iterator[PassedOver]:
    connection = node.get("connection")
    if connection is None:
        return
    path += ".connection"
    if isinstance(connection.value, str):
        yield from _string(connection, path, client)
        return
    yield from _unknown(connection, path, CONNECTION_KEYS, guards=GUARDS)
    inner = connection.get("connectionString")
    if inner is not None and isinstance(inner.value, str):
        yield from _string(inner, f"{path}.connectionString", client)
    ssl, sslmode = connection.get("ssl"), connection.get("sslmode")
    if ssl is not None:
        yield from _unknown(ssl, f"{path}.ssl", SSL_KEYS)
    if ssl is not None and sslmode is not None:
        compatible = connection.get("uselibpqcompat")
        loser, winner = (ssl, "sslmode") if compatible is not None and str(compatible.value).lower() == "true" else (sslmode, "ssl")
        name = "ssl" if loser is ssl else "sslmode"
        yield PassedOver(f"{loser.place}: {path}.{name}: counts for nothing beside {winner}; leave one of the two out")


def _string(node: Node, path: str, client: str) -> Iterator[PassedOver]:
    """A connection string; nothing of it is shown but the names of keys, which stand behind the password."""
    via = f" (from {node.via})" if node.via else ""
    odd = foreign(node.value, client)
    if odd is not None:
        yield PassedOver(f"{node.place}: {path}: the connection string {odd}{via}")
    elif client == "pg":
        for key in _unread(node.value):
            problem, unsafe = _problem(key, CONNECTION_KEYS, GUARDS)
            yield PassedOver(f"{node.place}: {path}: ?{key}= {problem}{via}", unsafe)


def foreign(text: str, client: str) -> str | None:
    """Why this text is hardly meant for that client."""
    text = text.strip()
    found = _SCHEME.match(text)
    scheme = found["scheme"].lower() if found else ""
    meant = "better-sqlite3" if text == ":memory:" else _CLIENTS.get(scheme)
    if found and found["jdbc"]:
        return 'is for Java; leave out "jdbc:"'
    if meant is not None and meant != client:
        return f"is one for client {meant}, and client is {client}; change one of the two"
    if scheme in _ELSEWHERE:
        return f"begins with {scheme}://, and client is {client}"
    if client == "pg" and re.match(r"[a-z]+://[^@/?#]*[/?#][^=]*@", text):
        return f'has an "@" behind its first "/"{ESCAPES}'
    if client == "pg" and re.match(r"(?:host|hostaddr|port|user|dbname|service)\s*=", text):
        return "has libpq's keyword form, which node-postgres does not read; write postgresql://user@host:5432/database, or an object"
    if client == "pg" and re.match(r"[^/?#:@\s]+:\d+(?:/|$)", text):
        return "has no scheme; begin it with postgresql://"
    return None


def _unread(text: str) -> Iterator[str]:
    """The keys behind the `?` that nobody knows.  A key is a word: else it is a piece of a password with a `?` in it."""
    socket = text.strip().startswith("socket:")
    if socket or _SCHEME.match(text.strip()):
        known = (*CONNECTION_KEYS, "db", "encoding") if socket else CONNECTION_KEYS
        query = text.partition("#")[0].partition("?")[2]
        if "@" not in query:
            yield from (key for key, _ in parse_qsl(query, keep_blank_values=True)
                        if key not in known and re.fullmatch(r"[A-Za-z_]{1,40}", key))


def _unknown(node: Node, path: str, known: Collection[str], *, guards: Collection[str] = ()) -> Iterator[PassedOver]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            if key not in known:
                line, column = node.key_marks.get(key, (child.line, child.column))
                place = f"{child.file}:{line}:{column}" if line else child.place
                problem, unsafe = _problem(key, known, guards)
                yield PassedOver(f"{place}: {path}.{key}: {problem}", unsafe)


def _problem(key: str, known: Collection[str], guards: Collection[str]) -> tuple[str, bool]:
    if guards and key in LIBPQ:
        instead = f"; use {LIBPQ[key]}" if LIBPQ[key] else ""
        return f"is libpq's, and applied neither by node-postgres nor by Switchboard{instead}", False
    return f"is not a key that Backstage knows{suggest(key, tuple(known))}", bool(difflib.get_close_matches(key, guards, 1, 0.8))
