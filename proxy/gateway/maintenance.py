"""The maintenance database `postgres`, as a Backstage with ensureExists, psql or a driver sees it.

Nothing here touches a real `postgres` database: the plugins' databases may live on many servers, and the client may need
no rights on any.  Queries run on an empty Catalog whose `pg_database` holds the databases of *this user's* plugins that
truly exist.  CREATE DATABASE goes through provisioning, for names that route to a plugin the user may use.

In schema mode the database that all plugins share is served so too, for a client that does not say which plugin it
means: that is how Backstage asks for CREATE SCHEMA.  What cannot be translated is refused, never run as something else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import sqlglot
from sqlglot.errors import SqlglotError

from proxy.config.target import Engine, Target
from proxy.errors import Forbidden, NotSupported, ProxyError, UnknownDatabase
from proxy.gateway.catalog import Catalog
from proxy.gateway.engine import (
    BOOL,
    FLOAT8,
    INT4,
    INT8,
    TEXT,
    VOID,
    Column,
    Described,
    Plainly,
    Result,
    Value,
    highest_parameter,
)
from proxy.gateway.translate import syntax_error, translate

MAX_SQL = 65_536
_NAME = r'("(?:[^"]|"")+"|[a-z_][\w$]*)'
_CREATE_DATABASE = re.compile(rf"\s*create\s+database\s+{_NAME}\s*(.*?);?\s*", re.IGNORECASE | re.DOTALL)
_CREATE_SCHEMA = re.compile(rf"\s*create\s+schema\s+(if\s+not\s+exists\s+)?{_NAME}(?:\s+authorization\s+{_NAME})?\s*;?\s*",
                            re.IGNORECASE)
_REFUSED = re.compile(r"\s*(?:drop|alter)\s+(database|schema)\b", re.IGNORECASE)
_HARMLESS = re.compile(r"(?:with|=|\s|owner\s*=?\s*\S+|encoding\s*=?\s*'?utf-?8'?|template\s*=?\s*\"?template[01]\"?)*",
                       re.IGNORECASE)
_WORDS = {"begin": "T", "start": "T", "commit": "I", "end": "I", "rollback": "I", "abort": "I"}
_ACCEPTED = ("set", "reset", "discard", "deallocate", "close", "unlisten")


class Places(Protocol):
    """What this user may see and make."""

    @property
    def targets(self) -> Sequence[Target]:
        """Of the plugins that are configured."""

    def by_database(self, name: str) -> Target | None:
        """The target that a database of this name would belong to."""

    def by_schema(self, name: str) -> Target | None:
        """The target that a schema of this name would belong to, in the database at hand."""

    async def exists(self, target: Target) -> bool:
        """Is the target's database there?"""

    async def has_schema(self, target: Target) -> bool:
        """Is the target's schema there?"""

    async def create(self, target: Target) -> None:
        """CREATE DATABASE; 42P04 when it is there."""

    async def create_schema(self, target: Target, role: str | None) -> bool:
        """CREATE SCHEMA IF NOT EXISTS; was it us?  Raises Forbidden for a role that is not the target's."""


class Maintenance(Plainly):
    """An Engine."""

    def __init__(self, *, user: str, pid: int, version: str, places: Places, database: str = "postgres") -> None:
        self.places = places
        self.settings = {"server_version": version, "server_version_num": "160000", "transaction_isolation": "read committed",
                         "standard_conforming_strings": "on", "client_encoding": "UTF8", "search_path": '"$user", public'}
        self.catalog = Catalog(user=user, pid=pid, version=version, database=database, settings=self.settings)

    # -- Engine -------------------------------------------------------------------------------------------

    def split(self, sql: str) -> list[str]:
        if len(sql) > MAX_SQL:
            raise NotSupported("the statement is too long for the maintenance database")
        if ";" not in sql.strip().rstrip(";"):
            return [sql.strip().rstrip(";")] if sql.strip(" \t\n\r;") else []
        try:
            tokens = sqlglot.tokenize(sql, read="postgres")
        except SqlglotError:
            raise syntax_error(sql) from None
        parts, start = [], 0
        for token in tokens:
            if token.token_type is sqlglot.TokenType.SEMICOLON:
                parts.append(sql[start:token.start])
                start = token.end + 1
        parts.append(sql[start:])
        return [part.strip() for part in parts if part.strip()]

    async def describe(self, sql: str, oids: Sequence[int] = ()) -> Described:
        return Described((TEXT,) * highest_parameter(sql), self._columns(sql))

    def _columns(self, sql: str) -> tuple[Column, ...] | None:
        if _special(sql):
            return None
        if (name := _shown(sql)) is not None:
            return (Column(name),)
        query, columns = translate(sql)
        rows = self.catalog.fetch(query, {str(number): None for number in range(1, 100)})
        return _typed(columns, rows)

    async def execute(self, sql: str, parameters: Sequence[Value], formats: Sequence[int] = (), oids: Sequence[int] = ()) -> Result:
        word = sql.split(maxsplit=1)[0].lower() if sql.strip() else ""
        if word in _WORDS:
            return Result(word.upper() if word != "start" else "BEGIN", status=_WORDS[word])
        if word in _ACCEPTED:
            return Result(word.upper())
        if (match := _CREATE_DATABASE.fullmatch(sql)) is not None:
            return await self._create_database(_unquoted(match[1]), match[2])
        if (match := _CREATE_SCHEMA.fullmatch(sql)) is not None:
            return await self._create_schema(_unquoted(match[2]), _unquoted(match[3]), lenient=match[1] is not None)
        if (match := _REFUSED.match(sql)) is not None:
            raise NotSupported(f"{match[1].lower()}s are not dropped or altered through the maintenance database",
                               hint="Connect to the database server itself as its owner.")
        if (name := _shown(sql)) is not None:
            if name not in self.settings:
                fault = NotSupported(f'unrecognized configuration parameter "{name}"')
                fault.sqlstate = "42704"
                raise fault
            return Result("SHOW", (Column(name),), [[self.settings[name]]])
        query, columns = translate(sql)
        await self._fill(query, [value for value in parameters if isinstance(value, str)])
        rows = self.catalog.fetch(query, {str(at): value for at, value in enumerate(parameters, 1)})
        return Result(f"SELECT {len(rows)}", _typed(columns, rows), rows)

    # -- databases and schemas ----------------------------------------------------------------------------

    async def _create_database(self, name: str, options: str) -> Result:
        if options and not _HARMLESS.fullmatch(options):
            raise NotSupported(f"CREATE DATABASE options are not supported here: {options[:60]}",
                               hint="Databases are made from template0 with the plugin's user as owner.")
        target = self.places.by_database(name)
        if target is None or target.database != name:
            raise Forbidden(f'permission denied to create database "{name}"',
                            detail="Only databases of plugins that you may use are created through the proxy.")
        if target.engine is Engine.SQLITE:
            raise NotSupported(f"the file of plugin {target.plugin} is made when somebody connects to it")
        await self.places.create(target)
        return Result("CREATE DATABASE")

    async def _create_schema(self, name: str, role: str, *, lenient: bool) -> Result:
        target = self.places.by_schema(name)
        if target is None:
            raise Forbidden(f'permission denied to create schema "{name}"',
                            detail="Only schemas of plugins that you may use are created through the proxy.")
        if await self.places.create_schema(target, role or None):
            return Result("CREATE SCHEMA")
        if lenient:
            return Result("CREATE SCHEMA", notice=("NOTICE", f'schema "{name}" already exists, skipping', "42P06"))
        fault = ProxyError(f'schema "{name}" already exists')
        fault.sqlstate = "42P06"
        raise fault

    async def _fill(self, query: str, bound: list[str]) -> None:
        """`pg_database` and `pg_namespace`, truly."""
        words = [word.replace("''", "'") for word in re.findall(r"'((?:[^']|'')+)'", query)] + bound
        if "pg_database" in query:
            names = await self._existing(words, bound)
            self.catalog.fill(
                "pg_database", "oid, datname, datdba, encoding, datlocprovider, datistemplate, datallowconn, datconnlimit, "
                "datcollate, datctype, dattablespace",
                [(16384 + at, name, 10, 6, "c", 0, 1, -1, "C.UTF-8", "C.UTF-8", 1663) for at, name in enumerate(sorted(names))])
        if "pg_namespace" in query or "information_schema_schemata" in query:
            schemas = {"public"}
            asked = {target.schema: target for target in self.places.targets if target.schema}
            asked |= {word: target for word in words if (target := self.places.by_schema(word)) is not None}
            schemas |= {str(name) for name, target in asked.items() if await self.places.has_schema(target)}
            self.catalog.fill("pg_namespace", "oid, nspname, nspowner",
                              [(16384 + at, name, 10) for at, name in enumerate(sorted(schemas))])

    async def _existing(self, words: list[str], bound: list[str]) -> set[str]:
        """Databases that exist, of those that are configured or that the query compares with: perhaps a plugin nobody listed."""
        names = {"postgres"}
        asked: dict[str, Target] = {target.database: target for target in self.places.targets}
        for word in words:
            if word not in asked and 0 < len(word) <= 63 and (found := self._named(word)) is not None:
                asked[word] = found
        for name, target in asked.items():
            try:
                if await self.places.exists(target):
                    names.add(name)
            except ProxyError:
                if name in bound or len(asked) == 1:
                    raise                     # the one that was asked for: its server's trouble is the answer
        return names

    def _named(self, name: str) -> Target | None:
        try:
            target = self.places.by_database(name)
        except UnknownDatabase:
            return None
        return target if target is not None and target.database == name else None


def _unquoted(name: str | None) -> str:
    if name is None:
        return ""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _special(sql: str) -> bool:
    word = sql.split(maxsplit=1)[0].lower() if sql.strip() else ""
    return not word or word in _WORDS or word in _ACCEPTED or word in ("create", "drop", "alter")


def _shown(sql: str) -> str | None:
    words = sql.lower().rstrip("; \n").split()
    if words[:1] != ["show"]:
        return None
    return "transaction_isolation" if words[1:] == ["transaction", "isolation", "level"] else "_".join(words[1:])


def _typed(names: list[str], rows: Sequence[Sequence[Value]]) -> tuple[Column, ...]:
    width = len(rows[0]) if rows else len(names)
    named = names if len(names) == width and "*" not in names else [f"column{at + 1}" for at in range(width)]
    return tuple(Column(name, _oid(name, rows[0][at] if rows else None)) for at, name in enumerate(named))


def _oid(name: str, value: Value) -> int:
    if name.startswith(("datis", "datallow", "rolsuper", "rolcan", "rolcreate", "pg_is_in")):
        return BOOL
    if name == "count":
        return INT8
    if name == "pg_advisory_unlock_all":
        return VOID
    return INT4 if isinstance(value, int) else FLOAT8 if isinstance(value, float) else TEXT
