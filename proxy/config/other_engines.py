"""A plugin's database where the client is not PostgreSQL: SQLite's files and MySQL's servers, by Backstage's rules."""

from __future__ import annotations

import posixpath
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from proxy.config.connection import connection_of, origins_of
from proxy.config.database import Reader, shown
from proxy.config.resolved import MYSQL, Resolved


def _sqlite_connection(reader: Reader) -> dict[str, Any]:
    node = reader.child("connection")
    if node is not None and isinstance(node.value, str):
        return {"filename": node.value}
    return connection_of(reader)


def sqlite(base: Reader, own: Reader, common: dict[str, Any]) -> Resolved:
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
                    role=own.text("role") or base.text("role"),
                    origins=({} if common["client_overridden"] else origins_of(base)) | origins_of(own))


def _mysql_connection(reader: Reader) -> dict[str, Any]:
    node = reader.child("connection")
    if node is None or not isinstance(node.value, str):
        return connection_of(reader)
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


def mysql(base: Reader, own: Reader, common: dict[str, Any], prefix: str) -> Resolved:
    shared = {} if common["client_overridden"] else _mysql_connection(base)
    shared.pop("database", None)
    connection = shared | _mysql_connection(own)
    _known_type(base, own, {"type": None if connection.get("type") == "cloudsql" else connection.get("type")})
    ensure_base, ensure = base.boolean("ensureExists"), own.boolean("ensureExists")
    explicit = connection.get("database")
    return Resolved(**common, database=explicit or f"{prefix}{common['plugin']}", connection=connection,
                    ensure_exists=(True if ensure_base is None else ensure_base) if ensure is None else ensure,
                    role=own.text("role") or base.text("role"), explicit=bool(explicit),
                    origins=({} if common["client_overridden"] else origins_of(base)) | origins_of(own))


def _known_type(base: Reader, own: Reader, connection: dict[str, Any]) -> None:
    kind = connection.get("type")
    if not kind or kind == "default":
        return
    node = own.child("connection")
    where = own if node is not None and node.get("type") is not None else base
    raise where.reader("connection").fault("type", f"unknown connection type {shown('type', kind)} for {MYSQL[0]}")
