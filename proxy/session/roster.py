"""pg_prepared_statements as a client knows it: what it has prepared, by its own names, and nothing of anybody else's.

    select name from pg_prepared_statements      select name from (SELECT own.name, ...) AS pg_prepared_statements

The server's view knows shared statements by the names that all share.  Rows of PREPARE in SQL stay as they are: who prepares so
keeps its connection.  A statement that reads the view itself has another text on the server each time: its row is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from proxy.session.assignments import literal
from proxy.session.consequences import Effect, OwnState, What
from proxy.session.prepared import Statement
from proxy.session.tokens import Kind, Token, decode, encode, tokens

VIEW, FUNCTION = "pg_prepared_statements", "pg_prepared_statement"
READS_IT = OwnState(What.PREPARED)
_BEHIND = ("from", "join", "table")
_ENDS_A_LIST = ("select", "where", "group", "order", "having", "on", "using", "set", "values", "returning")
_FOLLOWS = frozenset((
    "where", "order", "group", "having", "limit", "offset", "fetch", "for", "union", "intersect", "except", "window", "join", "inner",
    "left", "right", "full", "cross", "natural", "on", "using", "tablesample", "returning"))
_TYPES = {"prepare_time": "timestamptz", "parameter_types": "regtype[]", "result_types": "regtype[]", "from_sql": "bool",
          "generic_plans": "int8", "custom_plans": "int8"}
_COLUMNS = ((0, "statement"), (0, "prepare_time"), (0, "parameter_types"), (16, "result_types"), (0, "from_sql"), (14, "generic_plans"),
            (14, "custom_plans"))        # behind `name`, with the version that has brought them


def asked(effects: tuple[Effect, ...]) -> bool:
    return READS_IT in effects


def rewritten(text: bytes, named: Mapping[bytes, Statement], since: Mapping[bytes, float], version: int, *, conforming: bool) -> bytes:
    """`since`: when each was prepared, in seconds since 1970.  `version`: the server's, the first number of it."""
    decoded = decode(text)
    found = list(tokens(decoded, conforming=conforming))
    pieces = []
    for at, token in enumerate(found):
        if token.kind not in (Kind.WORD, Kind.NAME) or token.value not in (VIEW, FUNCTION):
            continue
        first = at - 2 if at >= 2 and found[at - 1].value == "." and found[at - 2].value == "pg_catalog" else at
        end = at + 1
        if token.value == FUNCTION:
            if [one.value for one in found[at + 1:at + 3]] != ["(", ")"]:
                continue
            end += 2
        if not _relation(found[:first]):
            continue
        alias = "" if _named(found[end:end + 2]) else f" AS {token.value}"
        table = found[first - 1].value == "table"
        pieces.append((found[first - table].start, found[end - 1].end, "SELECT * FROM " * table + _rows(named, since, version) + alias))
    for start, stop, piece in reversed(pieces):
        decoded = decoded[:start] + piece + decoded[stop:]
    return encode(decoded)


def _relation(before: list[Token]) -> bool:
    """Is what stands here a relation: behind FROM, JOIN, TABLE, or the comma of a list that began so?"""
    depth = 0
    for token in reversed(before):
        if token.kind == Kind.MARK and token.value in "()":
            depth += 1 if token.value == ")" else -1
            if depth < 0:
                return False
        elif not depth and token.kind == Kind.WORD and token.value in _BEHIND:
            return True
        elif token is before[-1]:
            if token.kind != Kind.MARK or token.value != ",":
                return False
        elif not depth and token.kind == Kind.WORD and token.value in _ENDS_A_LIST:
            return False
    return False


def _named(rest: list[Token]) -> bool:
    """Does an alias follow?"""
    if not rest or rest[0].kind not in (Kind.WORD, Kind.NAME):
        return False
    return rest[0].kind == Kind.NAME or rest[0].value == "as" or rest[0].value not in _FOLLOWS


def _rows(named: Mapping[bytes, Statement], since: Mapping[bytes, float], version: int) -> str:
    columns = [name for brought, name in _COLUMNS if version >= brought]
    there = ", ".join(f"there.{name}" for name in columns)
    rows = f"SELECT there.name, {there} FROM pg_catalog.pg_prepared_statements there WHERE there.from_sql"
    own = ", ".join(f"({_text(known.server)}, {_text(name)}, {_time(since.get(name, 0.0))})"
                    for name, known in named.items() if not asked(known.effects))
    for name, known in named.items():
        if asked(known.effects) and known.written is not None:
            values = {"statement": _text(known.written), "prepare_time": _time(since.get(name, 0.0)), "from_sql": "false",
                      "parameter_types": _types(known.types), "generic_plans": "0", "custom_plans": "0"}
            written = ", ".join(f"{values.get(column, 'NULL')}::pg_catalog.{_TYPES.get(column, 'text')}" for column in columns)
            rows += f" UNION ALL SELECT {_text(name)}, {written}"
    if own:
        mine = there.replace("there.prepare_time", "own.prepare_time").replace("there.from_sql", "false AS from_sql")
        rows = (f"SELECT own.name, {mine} FROM (VALUES {own}) own (there, name, prepare_time) LEFT JOIN"
                f" pg_catalog.pg_prepared_statements there ON own.there OPERATOR(pg_catalog.=) there.name UNION ALL {rows}")
    return f"({rows})"


def _text(value: bytes) -> str:
    return f"{literal(decode(value))}::pg_catalog.text"


def _time(seconds: float) -> str:
    return f"'{datetime.fromtimestamp(seconds, UTC).isoformat()}'::pg_catalog.timestamptz"


def _types(types: bytes) -> str:
    """As the Parse message gives them: what it leaves open is not known here."""
    count = int.from_bytes(types[:2])
    return "'{" + ",".join(str(int.from_bytes(types[2 + 4 * at:6 + 4 * at])) for at in range(count)) + "}'"
