"""PostgreSQL's catalog of a SQLite file, answered by a PostgreSQL.

psql's \\d, the reflection of SQLAlchemy, BI tools: they all ask pg_catalog and information_schema, in hundreds of ways.  So the
PostgreSQL of our own has a database beside each file with the same tables, empty, and answers.  Who asks there may not read those
tables (42501), change anything, or see who else does: a question that mixes them with the catalog is refused, not answered with
nothing.  Each runs in a transaction that is rolled back, so that nothing stays for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Container, Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import generators, pq, sql

from proxy.config.target import Credential, Server
from proxy.errors import ProxyError, UpstreamFault
from proxy.gateway.engine import Column, Described, Raw, Result
from proxy.gateway.sqlite.faults import Refused, unsupported
from proxy.gateway.sqlite.functions import SAME
from proxy.gateway.sqlite.normal import words
from proxy.gateway.sqlite.schema import Relation
from proxy.session.tokens import Kind

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

log = logging.getLogger(__name__)
ROLE = "switchboard_catalog"
AT_ONCE = 4                   # connections of one file's askers
LONGEST = "30s"               # of a question
_ASKED = frozenset(("regclass", "regtype", "regproc", "regnamespace", "regrole", "regprocedure", "format_type", "to_regclass",
                    "to_regtype", "current_schemas", "col_description", "obj_description", "shobj_description", "has_table_privilege",
                    "has_schema_privilege", "has_column_privilege", "has_database_privilege", "information_schema"))
_HINTS = ("pg_", "information_schema", "advisory", "reg", "format_type", "current_schemas", "_privilege", "_description")
_QUERIES = frozenset(("select", "with", "values", "table"))
_FORBIDDEN = ("pg_stat_get_activity(integer)", "pg_cancel_backend(integer)", "pg_terminate_backend(integer, bigint)",
              "pg_sleep(double precision)", "pg_notify(text, text)")
_FIELDS = {"S": pq.DiagnosticField.SEVERITY, "C": pq.DiagnosticField.SQLSTATE, "M": pq.DiagnosticField.MESSAGE_PRIMARY,
           "D": pq.DiagnosticField.MESSAGE_DETAIL, "H": pq.DiagnosticField.MESSAGE_HINT,
           "P": pq.DiagnosticField.STATEMENT_POSITION}


def asks_catalog(text: str, tables: Container[str]) -> bool:
    """Is it a question about the catalog?  `tables`: of the file, whatever they are called."""
    lower = text.lower()
    if not any(hint in lower for hint in _HINTS):
        return False
    found = words(text)
    if not found or found[0].value not in _QUERIES:
        return False
    for at, token in enumerate(found):
        if "advisory" in token.value and token.kind is Kind.WORD:
            raise unsupported("an advisory lock")
        if token.kind not in (Kind.WORD, Kind.NAME) or token.value in tables:
            continue
        called = at + 1 < len(found) and found[at + 1].value == "("
        if token.value == "pg_catalog":
            if not (at + 3 < len(found) and found[at + 2].value in SAME and found[at + 3].value == "("):
                return True
        elif token.value in _ASKED or (token.value.startswith("pg_") and not (called and token.value in SAME)):
            return True
    return False


class Catalog:
    """Beside one file.  `name` of the database; `server` and `admin`: the PostgreSQL of our own, as its superuser."""

    def __init__(self, name: str, server: Server, admin: Credential) -> None:
        self.name, self.server, self.admin = name, server, admin
        self.version = ""
        self._word = secrets.token_urlsafe(24)
        self._known: dict[str, Relation] | None = None
        self._lock = asyncio.Lock()
        self._idle: list[psycopg.AsyncConnection[tuple[object, ...]]] = []
        self._places = asyncio.Semaphore(AT_ONCE)

    # -- the tables ---------------------------------------------------------------------------------------

    async def match(self, wanted: Sequence[Relation]) -> None:
        """Make the empty tables those of the file."""
        async with self._lock:
            if self._known is None:
                await self._make()
            known = self._known or {}
            if {one.name: one for one in wanted} == known:
                return
            async with await self._connect(self.name, self.admin.user, self._secret()) as connection:
                await self._change(connection, known, wanted)
            self._known = {one.name: one for one in wanted}

    async def _make(self) -> None:
        """The database, anew."""
        name = sql.Identifier(self.name)
        async with await self._connect("postgres", self.admin.user, self._secret()) as connection:
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            await connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(name))
            await connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
            role = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (f"{ROLE}:{self.name}",))
            identity, word = sql.Identifier(f"{ROLE}:{self.name}"), sql.Literal(self._word)
            begins = sql.SQL("CREATE ROLE {} LOGIN") if await role.fetchone() is None else sql.SQL("ALTER ROLE {}")
            await connection.execute(sql.SQL("{} PASSWORD {}").format(begins.format(identity), word))
            await connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, identity))
            await connection.execute(sql.SQL("ALTER ROLE {} SET statement_timeout TO {}").format(identity, sql.Literal(LONGEST)))
        async with await self._connect(self.name, self.admin.user, self._secret()) as connection:
            for function in _FORBIDDEN:
                await connection.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(sql.SQL(function)))
        self._known = {}

    async def _change(self, connection: psycopg.AsyncConnection[tuple[object, ...]], known: dict[str, Relation],
                      wanted: Sequence[Relation]) -> None:
        there = {one.name for one in wanted if known.get(one.name) == one}
        for name, one in known.items():
            if name not in there:
                await self._try(connection, f"DROP {one.kind} IF EXISTS public.{sql.Identifier(name).as_string(None)} CASCADE")
        made = [one for one in wanted if one.name not in there]
        for one in made:
            await self._try(connection, one.sql)
        # A table that was dropped took what refers to it along: all are told again, and what is there says so.
        for one in wanted:
            for more in one.more:
                await self._try(connection, more)
        role = sql.Identifier(f"{ROLE}:{self.name}")
        await connection.execute(sql.SQL("GRANT REFERENCES ON ALL TABLES IN SCHEMA public TO {}").format(role))

    async def _try(self, connection: psycopg.AsyncConnection[tuple[object, ...]], text: str) -> None:
        """What SQLite has and PostgreSQL does not is left out.  By the extended protocol, which runs one statement and no second: a
        default is another program's text."""
        with contextlib.suppress(ProxyError):
            await self._send(connection, lambda conn: conn.send_query_params(text.encode(), None))

    def _secret(self) -> str:
        return self.admin.password.reveal() if self.admin.password is not None else ""

    async def _connect(self, database: str, user: str, word: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
        try:
            connection = await psycopg.AsyncConnection.connect(
                host=self.server.host, port=self.server.port, dbname=database, user=user, password=word, autocommit=True,
                application_name="switchboard catalog", client_encoding="UTF8", connect_timeout=10)
        except psycopg.Error as error:
            log.error("the catalog of SQLite files cannot be asked", exc_info=error)
            raise UpstreamFault("the PostgreSQL that answers for the catalog of SQLite files cannot be reached") from None
        self.version = self.version or connection.info.parameter_status("server_version") or ""
        return connection

    async def begin(self) -> str:
        """The version that clients are told."""
        async with self._lock:
            if self._known is None:
                await self._make()
        return self.version

    # -- questions ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
        async with self._places:
            connection = self._idle.pop() if self._idle else None
            if connection is None or connection.closed:
                connection = await self._connect(self.name, f"{ROLE}:{self.name}", self._word)
            good = False
            try:
                await self._send(connection, lambda conn: conn.send_query(b"BEGIN READ ONLY"))
                yield connection
                good = True
            except ProxyError:
                good = connection.pgconn.transaction_status != pq.TransactionStatus.UNKNOWN
                raise
            finally:
                if good:
                    await self._send(connection, lambda conn: conn.send_query(b"ROLLBACK"))
                    self._idle.append(connection)
                else:
                    await connection.close()

    async def _send(self, connection: psycopg.AsyncConnection[tuple[object, ...]], send: Callable[[PGconn], None]) -> PGresult:
        try:
            send(connection.pgconn)
            results: Sequence[PGresult] = await connection.wait(generators.execute(connection.pgconn))
        except psycopg.Error:
            raise UpstreamFault("the PostgreSQL that answers for the catalog of SQLite files went away") from None
        result = results[-1]
        if result.status == pq.ExecStatus.FATAL_ERROR:
            fields = {letter: (result.error_field(field) or b"").decode() for letter, field in _FIELDS.items()}
            if fields["C"] == "42501" and re.match(r"permission denied for (table|view) (?!pg_)", fields["M"]):
                raise unsupported("a question to the catalog and to tables at once", "Ask one after the other.")
            if fields["C"] == "42501" and "pg_notify" in fields["M"]:
                raise unsupported("NOTIFY")
            raise Refused(fields)
        return result

    async def describe(self, text: str, oids: Sequence[int]) -> Described:
        async with self._connection() as connection:
            await self._send(connection, lambda conn: conn.send_prepare(b"", text.encode(), list(oids) or None))
            found = await self._send(connection, lambda conn: conn.send_describe_prepared(b""))
            return Described(tuple(found.param_type(at) for at in range(found.nparams)), _columns(found))

    async def ask(self, text: str, raws: Sequence[Raw], oids: Sequence[int], formats: Sequence[int]) -> Result:
        """Rows in the formats that were asked for; where they differ from column to column, it is asked twice."""
        def asked(form: int) -> Callable[[PGconn], None]:
            return lambda conn: conn.send_query_params(text.encode(), [raw for raw, _ in raws], list(oids) or None,
                                                       [int(binary) for _, binary in raws], form)

        async with self._connection() as connection:
            answers = {form: await self._send(connection, asked(form)) for form in sorted(set(formats) or {0})}
            found = next(iter(answers.values()))
            of = [answers[formats[0] if len(formats) == 1 else formats[at] if at < len(formats) else 0]
                  if formats else found for at in range(found.nfields)]
            rows = [[of[at].get_value(row, at) for at in range(found.nfields)] for row in range(found.ntuples)]
            return Result("SELECT ", _columns(found), rows, encoded=True)

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()


def _columns(found: PGresult) -> tuple[Column, ...] | None:
    if not found.nfields:
        return None
    return tuple(Column((found.fname(at) or b"").decode(), found.ftype(at)) for at in range(found.nfields))


