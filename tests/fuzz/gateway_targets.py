"""Strangers' texts to the gateways: statements for a SQLite file, values, and the data of COPY."""

from __future__ import annotations

import struct
from collections.abc import Callable

import apsw
import apsw.ext

from proxy.errors import ProxyError
from proxy.gateway import copy_rows, copy_statement
from proxy.gateway.sqlite import catalog, types
from proxy.gateway.sqlite.faults import fault_of
from proxy.gateway.sqlite.functions import provide
from proxy.gateway.sqlite.normal import split
from proxy.gateway.sqlite.translate import translate

_DECLARED = {"t": {"a": "integer", "b": "text", "c": "boolean", "d": "datetime", "e": "json"}, "u": {"a": "bigint", "x": "varchar(9)"}}
_OPTIONS = ("", "csv", "(format csv, header match)", "(format csv, quote 'x', escape 'y', null 'n')", "(delimiter '|', null '')")


def _file() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    provide(connection, {"version": "x", "current_database": "d", "current_user": "u", "session_user": "u", "current_schema": "public",
                         "pg_backend_pid": 1}, {})
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    for name, columns in _DECLARED.items():
        connection.execute(f"create table {name} ({', '.join(f'{column} {kind}' for column, kind in columns.items())})")
    return connection


_FILE = _file()


def fuzz_sqlite(data: bytes) -> None:
    """It is translated and prepared, or refused in words."""
    text = data.decode("utf-8", "replace")
    try:
        for part in split(text):
            catalog.asks_catalog(part, _DECLARED)
            found = translate(part, _DECLARED)
            try:
                apsw.ext.query_info(_FILE, found.sql)
            except apsw.Error as error:
                assert len(fault_of(error).sqlstate) == 5
    except ProxyError:
        pass


def fuzz_values(data: bytes) -> None:
    """Parameters of any type; what is taken is told again."""
    if len(data) < 3:
        return
    oid = int.from_bytes(data[:2])
    try:
        value = types.taken(data[3:], oid, binary=bool(data[2] & 1))
        types.told(value, oid, "c")
        types.packed(value, oid, "c")
    except (ProxyError, ValueError, struct.error, IndexError):            # all that a session tells as malformed
        pass


def fuzz_copy(data: bytes) -> None:
    """In any pieces, the same rows."""
    if not data:
        return
    copy = copy_statement.parse(f"copy t from stdin {_OPTIONS[data[0] % len(_OPTIONS)]}")
    assert copy is not None
    body = data[1:]

    def rows(size: int) -> object:
        reader, found = copy_rows.Reader(copy, ["a", "b"]), []
        try:
            for at in range(0, len(body), size):
                found += reader.feed(body[at:at + size])
            return found + reader.finish()
        except ProxyError as fault:
            return fault.message

    assert rows(len(body) or 1) == rows(3) == rows(1)


def fuzz_copy_statement(data: bytes) -> None:
    try:
        copy_statement.parse("copy " + data.decode("utf-8", "replace"))
    except ProxyError:
        pass


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): found for name, found in list(globals().items()) if name.startswith("fuzz_")}
