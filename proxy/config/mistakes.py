"""Mistakes in words: file:line:column, the key, the problem, where the value came from, what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from proxy.config.database import SECRET_KEYS, shown
from proxy.config.declare import Section
from proxy.config.settings import Settings
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
# What may be shown of a value that is wrong: a number with a unit, or a short word.  Anything else could be a password.
HARMLESS = re.compile(r"-?[\d.]+ ?[a-zA-Z]{0,12}|[a-zA-Z_-]{1,12}")
SSL_KEYS = ("rejectUnauthorized", "ca", "cert", "key", "servername", "passphrase", "pfx", "ciphers", "minVersion", "maxVersion",
            "checkServerIdentity", "secureContext", "sslmode")


def unknown_keys(root: Node) -> Iterator[str]:
    """What Backstage passes over in silence below backend.database: most likely misspelt."""
    yield from _unknown(root, "backend.database", DATABASE_KEYS)
    yield from _connection(root, "backend.database")
    plugins = root.get("plugin")
    for plugin, node in (plugins.value.items() if plugins is not None and isinstance(plugins.value, dict) else ()):
        path = f"backend.database.plugin.{plugin}"
        # A dot in a plugin id is a level of its own: only objects that look like a plugin's settings are judged.
        if isinstance(node.value, dict) and any(
                not isinstance(inner.value, dict) or difflib.get_close_matches(key, PLUGIN_KEYS, 1)
                for key, inner in node.value.items()):
            yield from _unknown(node, path, PLUGIN_KEYS)
            yield from _connection(node, path)


def _connection(node: Node, path: str) -> Iterator[str]:
    connection = node.get("connection")
    if connection is not None:
        yield from _unknown(connection, f"{path}.connection", CONNECTION_KEYS)
        ssl = connection.get("ssl")
        if ssl is not None:
            yield from _unknown(ssl, f"{path}.connection.ssl", SSL_KEYS)


def _unknown(node: Node, path: str, known: Collection[str]) -> Iterator[str]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            if key not in known:
                line, column = node.key_marks.get(key, (child.line, child.column))
                place = f"{child.file}:{line}:{column}" if line else child.place
                yield f"{place}: {path}.{key}: is not a key that Backstage knows{suggest(key, tuple(known))}"


def worded(section: Node, item: Any) -> str:
    """A pydantic error as file:line:column: key: problem (origin)."""
    location = [str(part) for part in item["loc"]]
    node: Node | None = section
    parent = section
    for at, part in enumerate(location):
        if node is None:
            break
        if isinstance(node.value, list) and part.isdigit() and int(part) < len(node.value):
            parent, node = node, node.value[int(part)]
        else:
            parent, node = node, node.get(part)
        if node is None and at < len(location) - 1:
            break
    path = ".".join(["switchboard", *location])
    place = (node or parent).place
    via = f" (from {node.via})" if node is not None and node.via else ""
    if item["type"] == "extra_forbidden":
        if node is not None and location[-1] in parent.key_marks:
            line, column = parent.key_marks[location[-1]]
            place = f"{node.file}:{line}:{column}"
        return f"{place}: {path}: unknown key{suggest(location[-1], keys_at(location[:-1]))}"
    got = ""
    # A password is easily written one level too high: nothing below these is ever shown.
    secret = location[0] in ("users", "provisioning") or location[:2] == ["auth", "query"] or bool(SECRET_KEYS.search(location[-1]))
    if node is not None and not secret and (not isinstance(node.value, str) or HARMLESS.fullmatch(node.value)):
        got = f", got {shown(location[-1], node.value)}"
    elif node is not None:
        got = ", got ***"
    message = item["msg"].removeprefix("Value error, ")
    return f"{place}: {path}: {message[:1].lower()}{message[1:]}{got}{via}"


def suggest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(sorted(known))}" if known else ""


def keys_at(location: Sequence[str]) -> list[str]:
    """The keys of the section at `location`."""
    model: Any = Settings
    for part in location:
        if not (isinstance(model, type) and issubclass(model, Section)):
            return []
        entry = model.model_fields.get(part)
        if entry is None:
            continue                          # the name of a user or plugin
        model = entry.annotation
        inner = [item for item in getattr(model, "__args__", ()) if isinstance(item, type) and issubclass(item, Section)]
        if inner:
            model = inner[0]
    if not (isinstance(model, type) and issubclass(model, Section)):
        return []
    return [info.alias or name for name, info in model.model_fields.items()]
