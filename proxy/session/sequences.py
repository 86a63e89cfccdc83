"""currval() and lastval(): whose values do they tell?

They tell what the server's session was given last, and that may have been for somebody else.  Sequences that are asked for a
value stay locked (RowExclusiveLock) until the transaction ends: so in a transaction the server knows which of them were asked
in it, by a default of a column too, and their values are the client's own.  Everywhere else nothing is known any more.
"""

from __future__ import annotations

from proxy.session.assignments import Tokens, literal, mark, words
from proxy.session.consequences import Pin, Reason
from proxy.session.dues import Effects
from proxy.session.tokens import Kind, decode, tokens

_LOCKED = ("EXISTS (SELECT FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) l.relation"
           " WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND l.locktype OPERATOR(pg_catalog.=) 'relation'"
           " AND l.mode OPERATOR(pg_catalog.=) 'RowExclusiveLock' AND c.relkind OPERATOR(pg_catalog.=) 'S'")


def asked_for(effects: Effects) -> bool:
    return any(isinstance(effect, Pin) and effect.reason is Reason.SEQUENCE for effect in effects)


def question(text: bytes, *, conforming: bool) -> str | None:
    """Have all sequences that this text asks about given a value in this transaction?  None: the text does not tell which."""
    each = list(tokens(decode(text), conforming=conforming))
    conditions = []
    for at, token in enumerate(each[:-1]):
        if token.kind not in (Kind.WORD, Kind.NAME) or not mark(each[at + 1], "("):
            continue
        if token.value == "lastval":
            conditions.append(f"{_LOCKED})")
        elif token.value == "currval":
            named = _sequence(each[at + 2:])
            if named is None:
                return None
            conditions.append(f"{_LOCKED} AND c.oid OPERATOR(pg_catalog.=) {named})")
    return f"SELECT {' AND '.join(conditions)}" if conditions else None


def _sequence(arguments: Tokens) -> str | None:
    """'name', 'name'::regclass, pg_get_serial_sequence('table', 'column'): what is no sequence is nothing here, and no error."""
    if len(arguments) > 1 and _plain(arguments, 0):
        rest = arguments[1:]
        if len(rest) > 3 and mark(rest[0], ":") and mark(rest[1], ":") and words(rest[2:], "regclass"):
            rest = rest[3:]
        return f"pg_catalog.to_regclass({literal(arguments[0].value)})" if mark(rest[0], ")") else None
    if len(arguments) > 6 and words(arguments, "pg_get_serial_sequence") and mark(arguments[1], "(") and _plain(arguments, 2) \
            and mark(arguments[3], ",") and _plain(arguments, 4) and mark(arguments[5], ")") and mark(arguments[6], ")"):
        table, column = literal(arguments[2].value), literal(arguments[4].value)
        return (f"CASE WHEN pg_catalog.to_regclass({table}) IS NOT NULL"
                f" THEN pg_catalog.pg_get_serial_sequence({table}, {column})::pg_catalog.regclass END")
    return None


def _plain(arguments: Tokens, at: int) -> bool:
    return arguments[at].kind == Kind.STRING and arguments[at].plain
