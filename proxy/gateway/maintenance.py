"""The maintenance database `postgres`, as a Backstage with ensureExists, psql or a driver sees it.

Nothing here touches a real `postgres` database: the plugins' databases may live on many servers, and the client may need
no rights on any.  Queries run on an empty SQLite in memory whose `pg_database` holds the databases of *this user's*
plugins that truly exist; SQL is translated by sqlglot.  CREATE DATABASE goes through provisioning, for names that route
to a plugin the user may use.  What cannot be translated is refused, never run as something else.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from proxy.config.target import Target
from proxy.errors import Forbidden, NotSupported, ProxyError, UnknownDatabase
from proxy.gateway.engine import BOOL, FLOAT8, INT4, INT8, TEXT, Column, Result, Value

MAX_SQL = 65_536
_CREATE = re.compile(r'\s*create\s+database\s+("(?:[^"]|"")+"|[a-z_][\w$]*)\s*(.*?);?\s*', re.IGNORECASE | re.DOTALL)
_DROP = re.compile(r"\s*(?:drop|alter)\s+database\b", re.IGNORECASE)
_HARMLESS = re.compile(r"(?:with|=|\s|owner\s*=?\s*\S+|encoding\s*=?\s*'?utf-?8'?|template\s*=?\s*\"?template[01]\"?)*",
                       re.IGNORECASE)
_WORDS = {"begin": "T", "start": "T", "commit": "I", "end": "I", "rollback": "I", "abort": "I"}
_ACCEPTED = ("set", "reset", "discard", "deallocate", "close", "unlisten")
_SCHEMA = """
create table pg_database (oid integer, datname text, datdba integer, encoding integer, datlocprovider text,
  datistemplate boolean, datallowconn boolean, datconnlimit integer, datcollate text, datctype text, daticulocale text,
  datlocale text, daticurules text, datacl text, dattablespace integer);
create table pg_roles (oid integer, rolname text, rolsuper boolean, rolcreatedb boolean, rolcanlogin boolean);
create table pg_namespace (oid integer, nspname text);
create table pg_type (oid integer, typname text, typnamespace integer, typarray integer, typdelim text);
create table pg_tablespace (oid integer, spcname text);
create table pg_settings (name text, setting text);
"""


class Maintenance:
    """An Engine.  `exists` and `create` are provisioning; `allowed` routes a database name for this user."""

    def __init__(self, *, user: str, pid: int, version: str, targets: Sequence[Target],
                 allowed: Callable[[str], Target | None], exists: Callable[[Target], Awaitable[bool]],
                 create: Callable[[Target], Awaitable[None]]) -> None:
        self.user, self.pid, self.version = user, pid, version
        self.targets, self.allowed = targets, allowed
        self.exists, self.create = exists, create
        self._bound: tuple[str, ...] = ()     # what the query at hand compares with
        self.database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.database.executescript(_SCHEMA)
        self._functions()
        self.database.set_authorizer(_only_reading)

    def _functions(self) -> None:
        shows = {"server_version": self.version, "server_version_num": "160000", "transaction_isolation": "read committed",
                 "standard_conforming_strings": "on", "client_encoding": "UTF8", "search_path": '"$user", public'}
        self.settings = shows
        make = self.database.create_function
        make("version", 0, lambda: f"PostgreSQL {self.version} (Switchboard maintenance database)")
        make("current_database", 0, lambda: "postgres")
        make("current_catalog", 0, lambda: "postgres")
        make("current_schema", 0, lambda: "public")
        make("current_user", 0, lambda: self.user)
        make("session_user", 0, lambda: self.user)
        make("pg_backend_pid", 0, lambda: self.pid)
        make("pg_is_in_recovery", 0, lambda: 0)
        make("current_setting", 1, lambda name: shows.get(str(name).lower()))
        make("pg_get_userbyid", 1, lambda _oid: self.user)
        make("pg_encoding_to_char", 1, lambda _number: "UTF8")
        make("array_to_string", -1, lambda *_: None)
        make("array_length", -1, lambda *_: None)
        make("has_database_privilege", -1, lambda *_: 1)

    # -- Engine -------------------------------------------------------------------------------------------

    def split(self, sql: str) -> list[str]:
        if len(sql) > MAX_SQL:
            raise NotSupported("the statement is too long for the maintenance database")
        if ";" not in sql.strip().rstrip(";"):
            return [sql.strip().rstrip(";")] if sql.strip(" \t\n\r;") else []
        try:
            tokens = sqlglot.tokenize(sql, read="postgres")
        except SqlglotError:
            raise _syntax(sql) from None
        parts, start = [], 0
        for token in tokens:
            if token.token_type is sqlglot.TokenType.SEMICOLON:
                parts.append(sql[start:token.start])
                start = token.end + 1
        parts.append(sql[start:])
        return [part.strip() for part in parts if part.strip()]

    def describe(self, sql: str) -> tuple[Column, ...] | None:
        if _special(sql):
            return None
        if (name := _shown(sql)) is not None:
            return (Column(name),)
        query, columns = self._translate(sql)
        numbers: dict[str, Value] = {str(number): None for number in range(1, 100)}
        rows = self._fetch(query, numbers)
        return _typed(columns, rows, query)

    async def execute(self, sql: str, parameters: Sequence[Value]) -> Result:
        word = sql.split(maxsplit=1)[0].lower() if sql.strip() else ""
        if word in _WORDS:
            return Result(word.upper() if word != "start" else "BEGIN", status=_WORDS[word])
        if word in _ACCEPTED:
            return Result(word.upper())
        if (match := _CREATE.fullmatch(sql)) is not None:
            return await self._create(match)
        if _DROP.match(sql):
            raise NotSupported("databases are not dropped or altered through the maintenance database",
                               hint="Connect to the database server itself as its owner.")
        if (name := _shown(sql)) is not None:
            if name not in self.settings:
                fault = NotSupported(f'unrecognized configuration parameter "{name}"')
                fault.sqlstate = "42704"
                raise fault
            return Result("SHOW", (Column(name),), [[self.settings[name]]])
        query, columns = self._translate(sql)
        self._bound = tuple(value for value in parameters if isinstance(value, str))
        await self._fill(query)
        rows = self._fetch(query, {str(at): value for at, value in enumerate(parameters, 1)})
        return Result(f"SELECT {len(rows)}", _typed(columns, rows, query), rows)

    # -- databases ----------------------------------------------------------------------------------------

    async def _create(self, match: re.Match[str]) -> Result:
        name = match[1][1:-1].replace('""', '"') if match[1].startswith('"') else match[1].lower()
        if match[2] and not _HARMLESS.fullmatch(match[2]):
            raise NotSupported(f"CREATE DATABASE options are not supported here: {match[2][:60]}",
                               hint="Databases are made from template0 with the plugin's user as owner.")
        target = self.allowed(name)
        if target is None or target.database != name:
            raise Forbidden(f'permission denied to create database "{name}"',
                            detail="Only databases of plugins that you may use are created through the proxy.")
        await self.create(target)
        return Result("CREATE DATABASE")

    async def _fill(self, query: str) -> None:
        """`pg_database`, truly."""
        if "pg_database" not in query and "pg_roles" not in query:
            return
        names = {"postgres"}
        asked: dict[str, Target] = {target.database: target for target in self.targets}
        for word in re.findall(r"'((?:[^']|'')+)'", query):
            self._consider(asked, word.replace("''", "'"))
        for name in self._bound:
            self._consider(asked, name)
        for name, target in asked.items():
            try:
                if await self.exists(target):
                    names.add(name)
            except ProxyError:
                if name in self._bound or len(asked) == 1:
                    raise                     # the one that was asked for: its server's trouble is the answer
        self.database.set_authorizer(None)
        self.database.execute("delete from pg_database")
        self.database.executemany(
            "insert into pg_database values (?, ?, 10, 6, 'c', 0, 1, -1, 'C.UTF-8', 'C.UTF-8', null, null, null, null, 1663)",
            [(16384 + at, name) for at, name in enumerate(sorted(names))])
        self.database.execute("delete from pg_roles")
        self.database.execute("insert into pg_roles values (10, ?, 0, 1, 1)", (self.user,))
        self.database.set_authorizer(_only_reading)

    def _consider(self, asked: dict[str, Target], name: str) -> None:
        """A name that the query compares with: perhaps a plugin nobody listed."""
        if name in asked or not 0 < len(name) <= 63:
            return
        try:
            target = self.allowed(name)
        except UnknownDatabase:
            return
        if target is not None and target.database == name:
            asked[name] = target

    # -- SQL ----------------------------------------------------------------------------------------------

    def _translate(self, sql: str) -> tuple[str, list[str]]:
        """SQLite's SQL and the names of the columns."""
        try:
            tree = sqlglot.parse_one(sql, read="postgres")
        except (SqlglotError, RecursionError):
            raise _syntax(sql) from None
        if not isinstance(tree, exp.Query):
            raise NotSupported("the maintenance database answers queries about databases and CREATE DATABASE",
                               hint="Connect to a plugin's database for anything else.")
        for table in tree.find_all(exp.Table):
            table.set("db", None)
            table.set("catalog", None)
        for dot in list(tree.find_all(exp.Dot)):
            if isinstance(dot.expression, exp.Func) and dot.this.name == "pg_catalog":
                dot.replace(dot.expression)
        for text in list(tree.find_all(exp.ByteString)):      # E'...' is text with escapes, as good as a plain literal
            text.replace(exp.Literal.string(text.name))
        columns = [_column_name(part) for part in tree.selects]
        query = tree.sql(dialect="sqlite").replace("SQLITE_VERSION()", "version()")
        return re.sub(r"\bCURRENT_(USER|CATALOG|SCHEMA)\b(?!\()", lambda m: m[0].lower() + "()", query), columns

    def _fetch(self, query: str, parameters: dict[str, Value]) -> list[Sequence[Value]]:
        steps = time.monotonic() + 2
        self.database.set_progress_handler(lambda: time.monotonic() > steps, 10_000)
        try:
            return self.database.execute(query, parameters).fetchmany(10_000)
        except sqlite3.Error as error:
            text = str(error)
            fault = NotSupported(f"not supported by the maintenance database: {text}")
            if text.startswith("no such table"):
                fault = NotSupported(f'relation "{text.rpartition(": ")[2]}" does not exist',
                                     hint="This is the maintenance database; connect to a plugin's database.")
                fault.sqlstate = "42P01"
            elif text.startswith("no such function"):
                fault.sqlstate = "42883"
            elif text.startswith("no such column"):
                fault.sqlstate = "42703"
            raise fault from None


def _only_reading(action: int, *_: object) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY


def _special(sql: str) -> bool:
    word = sql.split(maxsplit=1)[0].lower() if sql.strip() else ""
    return not word or word in _WORDS or word in _ACCEPTED or word in ("create", "drop", "alter")


def _shown(sql: str) -> str | None:
    words = sql.lower().rstrip("; \n").split()
    if words[:1] != ["show"]:
        return None
    return "transaction_isolation" if words[1:] == ["transaction", "isolation", "level"] else "_".join(words[1:])


def _syntax(sql: str) -> NotSupported:
    fault = NotSupported(f'syntax error in "{sql.strip()[:40]}"')
    fault.sqlstate = "42601"
    return fault


def _column_name(part: exp.Expr) -> str:
    if isinstance(part, (exp.Alias, exp.Column)) or (part.is_star and not isinstance(part, exp.Func)):
        return part.alias_or_name or "*"
    inner = part.this if isinstance(part, exp.Cast) else part
    if isinstance(inner, exp.Anonymous):
        return str(inner.this).lower()
    if not isinstance(inner, exp.Func):
        return "?column?"
    name = inner.sql_name().lower()
    return {"current_version": "version"}.get(name, name)      # knex reads rows[0].version, and never connects without it


def _typed(names: list[str], rows: Sequence[Sequence[Value]], query: str) -> tuple[Column, ...]:
    width = len(rows[0]) if rows else len(names)
    named = names if len(names) == width and "*" not in names else [f"column{at + 1}" for at in range(width)]
    return tuple(Column(name, _oid(name, rows[0][at] if rows else None)) for at, name in enumerate(named))


def _oid(name: str, value: Value) -> int:
    if name.startswith(("datis", "datallow", "rolsuper", "rolcan", "rolcreate", "pg_is_in")):
        return BOOL
    if name == "count":
        return INT8
    return INT4 if isinstance(value, int) else FLOAT8 if isinstance(value, float) else TEXT
