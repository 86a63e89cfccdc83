"""A little catalog to ask: an empty SQLite in memory with PostgreSQL's names.

Only reading is possible.  What is asked about is filled in by its owner just before; a query has two seconds and
10,000 rows.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence

from proxy.errors import NotSupported, ProxyError
from proxy.gateway.engine import Value

MAX_SECONDS = 2.0
MAX_ROWS = 10_000
_SCHEMA = """
create table pg_database (oid integer, datname text, datdba integer, encoding integer, datlocprovider text,
  datistemplate boolean, datallowconn boolean, datconnlimit integer, datcollate text, datctype text, daticulocale text,
  datlocale text, daticurules text, datacl text, dattablespace integer);
create table pg_roles (oid integer, rolname text, rolsuper boolean, rolcreatedb boolean, rolcanlogin boolean);
create table pg_namespace (oid integer, nspname text, nspowner integer, nspacl text);
create table pg_type (oid integer, typname text, typnamespace integer, typarray integer, typdelim text);
create table pg_tablespace (oid integer, spcname text);
create table pg_settings (name text, setting text);
create view information_schema_schemata as select nspname as schema_name from pg_namespace;
"""


class Catalog:
    """`database` is the name that `current_database()` tells; `settings` are what SHOW and current_setting know."""

    def __init__(self, *, user: str, pid: int, version: str, database: str, settings: Mapping[str, str]) -> None:
        self.user = user
        self.sqlite = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.sqlite.executescript(_SCHEMA)
        self.sqlite.execute("insert into pg_roles values (10, ?, 0, 1, 1)", (user,))
        make = self.sqlite.create_function
        constants: dict[str, Value] = {
            "version": f"PostgreSQL {version} (Switchboard maintenance database)", "current_database": database,
            "current_catalog": database, "current_schema": "public", "current_user": user, "session_user": user,
            "pg_backend_pid": pid, "pg_is_in_recovery": 0,
            "pg_advisory_unlock_all": ""}      # pools of drivers call it between users; there are no locks to be had here
        for name, value in constants.items():
            make(name, 0, lambda value=value: value)
        make("current_setting", 1, lambda name: settings.get(str(name).lower()))
        make("pg_get_userbyid", 1, lambda _oid: user)
        make("pg_encoding_to_char", 1, lambda _number: "UTF8")
        for name in ("array_to_string", "array_length", "obj_description", "shobj_description"):
            make(name, -1, lambda *_: None)
        for name in ("has_database_privilege", "has_schema_privilege"):
            make(name, -1, lambda *_: 1)
        # psql spells "not a system schema" so; SQLite has no regular expressions of its own.
        make("regexp", 2, lambda pattern, text: re.search(pattern, text) is not None if pattern == "^pg_" else None)
        self.sqlite.set_authorizer(_only_reading)

    def fill(self, table: str, columns: str, rows: Iterable[Sequence[Value]]) -> None:
        """Replace what `table` holds.  The names are ours, never a client's."""
        self.sqlite.set_authorizer(None)
        try:
            self.sqlite.execute(f"delete from {table}")
            marks = ", ".join("?" * (columns.count(",") + 1))
            self.sqlite.executemany(f"insert into {table} ({columns}) values ({marks})", rows)
        finally:
            self.sqlite.set_authorizer(_only_reading)

    def fetch(self, query: str, parameters: Mapping[str, Value]) -> list[Sequence[Value]]:
        """Rows of a query in SQLite's SQL.  Raises NotSupported with PostgreSQL's SQLSTATE for what is missing."""
        end = time.monotonic() + MAX_SECONDS
        self.sqlite.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        try:
            return self.sqlite.execute(query, dict(parameters)).fetchmany(MAX_ROWS)
        except sqlite3.Error as error:
            raise _fault(str(error)) from None


def _only_reading(action: int, *_: object) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY


def _fault(text: str) -> ProxyError:
    fault = NotSupported(f"not supported by the maintenance database: {text}")
    if text.startswith("no such table"):
        fault = NotSupported(f'relation "{text.rpartition(": ")[2]}" does not exist',
                             hint="This is the maintenance database; connect to a plugin's database.")
        fault.sqlstate = "42P01"
    elif text.startswith("no such function"):
        fault.sqlstate = "42883"
    elif text.startswith("no such column"):
        fault.sqlstate = "42703"
    return fault
