"""An Engine over a SQLite file: one client's connection to it.

Everything that one message asks of the file is done in one visit to the file's thread: looking whether the tables have changed,
translating, running, and fetching the first rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import apsw
import apsw.ext

from proxy.gateway.copy_statement import parse as parse_copy
from proxy.gateway.engine import INT4, Column, Described, Engine, Raw, Result, Value
from proxy.gateway.sqlite import types
from proxy.gateway.sqlite.aside import Transactions, is_aside
from proxy.gateway.sqlite.catalog import Catalog, asks_catalog
from proxy.gateway.sqlite.copying import copied
from proxy.gateway.sqlite.faults import refused, unsupported
from proxy.gateway.sqlite.functions import provide, tell
from proxy.gateway.sqlite.normal import split, template
from proxy.gateway.sqlite.schema import relations
from proxy.gateway.sqlite.store import Store
from proxy.gateway.sqlite.translate import Translation, translate

REMEMBERED = 500              # translations of a client
FIRST = 256                   # rows that are fetched at once
T = TypeVar("T")


class File(Transactions):
    """`session`: what SQL may ask about who and where one is; `settings`: what SHOW tells; `catalog` answers for PostgreSQL's,
    `databases` for the list of databases."""

    steady = True

    def __init__(self, store: Store, connection: apsw.Connection, *, settings: dict[str, str], catalog: Catalog | None = None,
                 databases: Engine | None = None) -> None:
        super().__init__(settings)
        self.store, self.connection, self.catalog, self.databases = store, connection, catalog, databases
        self.opened = self.begun = False      # a transaction that nobody's BEGIN begins: wanted, and there
        self.at_work = self.stopped = False
        self._known: OrderedDict[tuple[str, tuple[int, ...]], Translation] = OrderedDict()
        self._declared: dict[str, dict[str, str]] = {}
        self._version: tuple[int, int] | None = None
        self._data: int | None = None         # SQLite's count of changes, when the tables were looked at

    @classmethod
    async def connect(cls, store: Store, *, session: Mapping[str, Value], settings: dict[str, str], catalog: Catalog | None = None,
                      databases: Engine | None = None) -> File:
        connection = await store.connect()
        file = cls(store, connection, settings=settings, catalog=catalog, databases=databases)

        def first() -> None:
            provide(connection, session, settings)
            file._look()

        await store.run(first)
        return file

    def constant(self, name: str, value: Value) -> None:
        """What a function without arguments answers."""
        tell(self.connection, {name: value})

    async def leave(self) -> None:
        """What is open is rolled back."""
        self.stopped = True
        self.connection.interrupt()
        await self.store.once(lambda: self.connection.close(True))

    def interrupt(self) -> None:
        """Cancel what runs, or waits for the file."""
        if self.at_work:
            self.stopped = True
            self.connection.interrupt()

    async def work(self, what: Callable[[], T]) -> T:
        """In the file's thread, unless it is cancelled before."""
        def unless_stopped() -> T:
            if self.stopped:
                raise refused("57014", "canceling statement due to user request")
            return what()

        self.at_work, self.stopped = True, False
        try:
            return await self.store.run(unless_stopped)
        finally:
            self.at_work = self.stopped = False

    # -- in the file's thread -----------------------------------------------------------------------------

    def _look(self) -> None:
        """The tables, where they have changed: here, or by another program."""
        version = self._versions()
        if version == self._version:
            self._data = self.connection.data_version()
            return
        self._known.clear()
        names = [row[0] for schema in ("sqlite_schema", "sqlite_temp_schema") for row in self.connection.execute(
            f"SELECT name FROM {schema} WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")]
        self._declared = {str(name): {str(row[1]): str(row[2]) for row in self.connection.execute(
            "SELECT * FROM pragma_table_info(?)", (name,))} for name in names}
        self._version, self._data = version, self.connection.data_version()

    def _versions(self) -> tuple[int, int]:
        return int(str(self.connection.pragma("schema_version"))), int(str(self.connection.pragma("schema_version", schema="temp")))

    def _translated(self, sql: str, oids: tuple[int, ...]) -> Translation:
        self._look()
        key = (sql, oids)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = translate(sql, self._declared, oids)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known

    def writable(self) -> None:
        """What comes from now on is one change."""
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN")
            self.opened = self.begun = True

    async def columns_of(self, table: Sequence[str], names: Sequence[str]) -> tuple[str, list[tuple[str, int]]]:
        """Of a table, or those of them.  Raises Refused (42P01, 42703)."""
        await self.work(self._look)
        if len(table) > 2 or (len(table) == 2 and table[0] not in ("public", "main")):
            raise unsupported(f"the relation {'.'.join(table)}")
        known = self._declared.get(table[-1])
        if known is None:
            raise refused("42P01", f'relation "{table[-1]}" does not exist')
        for name in names:
            if name not in known:
                raise refused("42703", f'column "{name}" of relation "{table[-1]}" does not exist')
        return table[-1], [(name, types.oid_of(known[name])) for name in names or known]

    def begin(self) -> None:
        """If one transaction is wanted, it is begun by the first change."""
        if self.opened and not self.connection.in_transaction:
            self.connection.execute("BEGIN")
            self.begun = True

    def _described(self, sql: str, oids: tuple[int, ...]) -> Described:
        found = self._translated(sql, oids)
        if found.kind.islower():
            apsw.ext.query_info(self.connection, found.sql)
        return Described(found.parameters, _columns(found))

    def _executed(self, sql: str, parameters: Sequence[Value], oids: tuple[int, ...]) -> Result:
        if not parameters and not oids:
            sql, parameters = template(sql)
            oids = (INT4,) * len(parameters)
        found = self._known.get((sql, oids))
        if found is None or found.kind != "select" or self._data is None:
            found = self._translated(sql, oids)
        bindings: dict[str, Any] = {str(number): value for number, value in enumerate(parameters, 1)}
        if found.kind == "select":
            return self._selected(found, sql, oids, bindings)
        self.begin()
        if not found.kind.islower():
            self._define(found)
            self._data = None
            return Result(found.kind)
        before = self.connection.total_changes()
        rows = list(self.connection.execute(found.sql, bindings))
        changes = self.connection.changes() if self.connection.total_changes() != before else 0
        return Result(f"INSERT 0 {changes}" if found.kind == "insert" else f"{found.kind.upper()} {changes}", _columns(found), rows)

    def _selected(self, found: Translation, sql: str, oids: tuple[int, ...], bindings: dict[str, Any]) -> Result:
        """What was known is asked at once.  Only then can be told cheaply whether somebody has changed the file since it was
        translated: SQLite counts what it sees when it begins to read.  If so, and the tables are others, once more."""
        cursor: _Cursor | None = None
        try:
            cursor = _Cursor(self, found.sql, bindings)
        except apsw.SQLError:
            if self._unchanged():
                raise
        if cursor is None or not self._unchanged():
            if cursor is not None:
                cursor.end()
            found = self._translated(sql, oids)
            cursor = _Cursor(self, found.sql, bindings)
        return Result("SELECT ", _columns(found), cursor)

    def _unchanged(self) -> bool:
        """Are the tables as they were when they were looked at?"""
        data = self.connection.data_version()
        if data == self._data:
            return True
        before = self._version
        self._look()
        self._data = data
        return before == self._version

    def _define(self, found: Translation) -> None:
        """Several statements are all or none."""
        if ";" not in found.sql or self.connection.in_transaction:
            list(self.connection.execute(found.sql))
            return
        with self.connection:
            list(self.connection.execute(found.sql))

    # -- Engine -------------------------------------------------------------------------------------------

    def split(self, sql: str) -> list[str]:
        return split(sql)

    async def describe(self, sql: str, oids: Sequence[int] = ()) -> Described:
        if is_aside(sql):
            return Described((), self.columns(sql))
        if parse_copy(sql) is not None:
            return Described((), None)
        beside = self._beside(sql)
        if beside is not None:
            await self._match()
            return await beside.describe(sql, oids)
        return await self.work(lambda: self._described(sql, tuple(oids)))

    def bind(self, sql: str, oids: Sequence[int], raws: Sequence[Raw]) -> Sequence[Any]:
        if self._beside(sql) is not None:
            return raws if self._beside(sql) is self.catalog else [raw.decode() if raw is not None else None for raw, _ in raws]
        return [None if raw is None else types.taken(raw, oid, binary=binary) for (raw, binary), oid in zip(raws, oids, strict=True)]

    def give(self, value: Value, column: Column, *, binary: bool) -> bytes | None:
        return (types.packed if binary else types.told)(value, column.oid, column.name)

    def _beside(self, sql: str) -> Catalog | Engine | None:
        """Who answers for what is not in the file."""
        if not asks_catalog(sql, self._declared.keys()):
            return None
        if self.databases is not None and "pg_database" in sql.lower() and "pg_class" not in sql.lower():
            return self.databases
        if self.catalog is None:
            raise unsupported("PostgreSQL's catalog", "The PostgreSQL of our own answers for it: pip install "
                                                      "'pg-switchboard[embedded]', and switchboard.sqlite.catalog: true.")
        return self.catalog

    async def _match(self) -> None:
        """The catalog has the tables that this client sees."""
        if self.catalog is None:
            return
        found = await self.work(lambda: relations(self.connection))
        await self.catalog.match(found)

    async def execute(self, sql: str, parameters: Sequence[Any], formats: Sequence[int] = (), oids: Sequence[int] = ()) -> Result:
        if is_aside(sql):
            return await self.aside(sql)
        if (copy := parse_copy(sql)) is not None:
            return await copied(self, copy)
        beside = self._beside(sql)
        if isinstance(beside, Catalog):
            await self._match()
            return await beside.ask(sql, parameters, oids, formats)
        if beside is not None:
            return await beside.execute(sql, parameters, formats)
        return await self.work(lambda: self._executed(sql, parameters, tuple(oids)))

    def open(self) -> None:
        self.opened, self.begun = True, False

    async def close(self, *, commit: bool) -> None:
        begun, self.opened, self.begun = self.begun, False, False
        if not begun or not self.connection.in_transaction:
            return
        if commit:
            try:
                await self.say("COMMIT")
                return
            except Exception:
                await self._roll_back()
                raise
        await self._roll_back()

    async def _roll_back(self) -> None:
        self._data = None
        if self.connection.in_transaction:
            await self.store.run(lambda: list(self.connection.execute("ROLLBACK")))

    # -- Transactions -------------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def take_over(self) -> bool:
        begun, self.begun = self.begun, False
        return begun

    async def say(self, sql: str) -> None:
        if sql.startswith("ROLLBACK"):
            self._data = None
        await self.work(lambda: list(self.connection.execute(sql)))


class _Cursor:
    """Rows as they are asked for; the first of them are here, so that most errors come before any."""

    def __init__(self, file: File, sql: str, bindings: dict[str, Any]) -> None:
        self.file = file
        self.cursor = file.connection.cursor()
        self.rows: Iterator[Any] = iter(self.cursor.execute(sql, bindings))
        self.ready = list(islice(self.rows, FIRST))
        self.ended = len(self.ready) < FIRST

    async def take(self, most: int) -> Sequence[Sequence[Value]]:
        if not self.ready and not self.ended:
            self.ready = await self.file.work(lambda: list(islice(self.rows, FIRST)))
            self.ended = len(self.ready) < FIRST
        some, self.ready = self.ready[:most], self.ready[most:]
        return some

    def end(self) -> None:
        """In the file's thread: the rest is not wanted."""
        self.ended, self.ready = True, []
        self.cursor.close()

    async def close(self) -> None:
        if not self.ended:
            await self.file.store.once(self.end)


def _columns(found: Translation) -> tuple[Column, ...] | None:
    return None if found.columns is None else tuple(Column(*each) for each in found.columns)
