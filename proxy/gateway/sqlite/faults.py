"""SQLite's errors, in PostgreSQL's words and SQLSTATEs (manual, "PostgreSQL Error Codes")."""

from __future__ import annotations

import re

import apsw

from proxy.errors import NotSupported, UnknownDatabase, UpstreamFault, UpstreamRefused


class Locked(UpstreamRefused):
    """Somebody else has the file; to be asked again."""


class Refused(UpstreamRefused):
    """An error that ends no session."""


def refused(sqlstate: str, message: str, detail: str = "", hint: str = "", kind: type[UpstreamRefused] = Refused,
            **fields: str) -> UpstreamRefused:
    """`fields`: more of the manual's one-letter codes."""
    return kind({"S": "ERROR", "V": "ERROR", "C": sqlstate, "M": message, "D": detail, "H": hint, **fields})


_CONSTRAINTS = {apsw.SQLITE_CONSTRAINT_UNIQUE: "23505", apsw.SQLITE_CONSTRAINT_PRIMARYKEY: "23505",
                apsw.SQLITE_CONSTRAINT_ROWID: "23505", apsw.SQLITE_CONSTRAINT_NOTNULL: "23502",
                apsw.SQLITE_CONSTRAINT_FOREIGNKEY: "23503", apsw.SQLITE_CONSTRAINT_CHECK: "23514"}
_TEXTS = (
    (re.compile(r'no such (?:table|view): (?:main\.)?"?(.+?)"?$'), "42P01", 'relation "{}" does not exist'),
    (re.compile(r'no such column: "?(.+?)"?(?: - should this be .*)?$'), "42703", 'column "{}" does not exist'),
    (re.compile(r"table \S+ has no column named (.+)"), "42703", 'column "{}" does not exist'),
    (re.compile(r"no such index: (.+)"), "42704", 'index "{}" does not exist'),
    (re.compile(r"no such function: (.+)"), "42883", "function {} does not exist"),
    (re.compile(r"wrong number of arguments to function (.+)\(\)"), "42883", "function {} does not take so many arguments"),
    (re.compile(r'(?:table|view|index) "?(.+?)"? already exists'), "42P07", 'relation "{}" already exists'),
    (re.compile(r"duplicate column name: (.+)"), "42701", 'column "{}" specified more than once'),
    (re.compile(r"ambiguous column name: (.+)"), "42702", 'column reference "{}" is ambiguous'),
    (re.compile(r'near "(.*)": syntax error'), "42601", 'syntax error at or near "{}"'),
    (re.compile(r"no such savepoint: (.+)"), "3B001", 'savepoint "{}" does not exist'),
    (re.compile(r"misuse of aggregate.*?: (.+)"), "42803", "aggregate functions are not allowed here: {}"),
    (re.compile(r"ON CONFLICT clause does not match any"), "42P10",
     "there is no unique or exclusion constraint matching the ON CONFLICT specification"),
    (re.compile(r"(?:integer overflow)"), "22003", "bigint out of range"),
)


def fault_of(error: apsw.Error) -> UpstreamFault:
    """What a client is told."""
    code, text = getattr(error, "extendedresult", 0), str(error)
    if isinstance(error, apsw.BusyError):
        if code == apsw.SQLITE_BUSY_SNAPSHOT:
            return refused("40001", "could not serialize access due to concurrent update",
                           "Another connection has written since this transaction began to read.")
        return refused("55P03", "canceling statement due to lock timeout", "Another program has the file locked.", kind=Locked)
    if isinstance(error, apsw.LockedError):
        return refused("55P03", "canceling statement due to lock timeout", kind=Locked)
    if isinstance(error, apsw.ConstraintError):
        return _constraint(code, text)
    if isinstance(error, apsw.ReadOnlyError):
        return refused("25006", "cannot execute this statement in a read-only transaction", "The file is opened for reading alone.")
    if isinstance(error, apsw.InterruptError):
        return refused("57014", "canceling statement due to user request")
    if isinstance(error, apsw.NotADBError | apsw.CorruptError):
        return refused("XX001", f"the file is no sound SQLite database: {text}")
    if isinstance(error, apsw.CantOpenError | apsw.PermissionsError | apsw.IOError):
        return refused("58030", f"cannot open the file: {text}")
    if isinstance(error, apsw.FullError):
        return refused("53100", "the disk is full")
    if isinstance(error, apsw.TooBigError):
        return refused("54000", text)
    for pattern, sqlstate, words in _TEXTS:
        found = pattern.search(text)
        if found is not None:
            return refused(sqlstate, words.format(*(part.strip('"') for part in found.groups())))
    return refused("XX000", text)


def _constraint(code: int, text: str) -> UpstreamFault:
    sqlstate = _CONSTRAINTS.get(code, "23000")
    what = text.rpartition(": ")[2]
    table, _, column = what.partition(".")
    if sqlstate == "23505":
        columns = [part.strip().partition(".")[2] for part in what.split(",")]
        name = f"{table}_pkey" if code == apsw.SQLITE_CONSTRAINT_PRIMARYKEY else "_".join([table, *columns, "key"])
        if what.startswith("index "):
            name, table = what[6:].strip("'"), ""
        return refused(sqlstate, f'duplicate key value violates unique constraint "{name}"', s="public", t=table, n=name)
    if sqlstate == "23502":
        return refused(sqlstate, f'null value in column "{column}" of relation "{table}" violates not-null constraint',
                       s="public", t=table, c=column)
    if sqlstate == "23503":
        return refused(sqlstate, "insert, update or delete violates foreign key constraint")
    if sqlstate == "23514":
        return refused(sqlstate, f'new row violates check constraint "{what}"', s="public", n=what)
    return refused(sqlstate, text)


def missing_file(plugin: str) -> UnknownDatabase:
    return UnknownDatabase(f'database "{plugin}" does not exist', detail="Its file is not there.",
                           hint="The plugin makes it when it starts; or set ensureExists.")


def unsupported(what: str, hint: str = "") -> NotSupported:
    """Understood, and without an equal in SQLite."""
    return NotSupported(f"{what} is not supported on a SQLite file", hint=hint or "See the README, SQLite plugins.")
