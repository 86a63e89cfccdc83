"""The statement as PostgreSQL's own scanner cuts it, written plainly for the translator.

sqlglot has a scanner of its own, which takes `$2,$3` for a quoted text and has other thoughts of escapes.  What it misread would
run as something else.  So it is given nothing that can be misread: words in lower case, quoted names, '...' without escapes, no
comments, and "$1" for a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.gateway.sqlite.faults import refused, unsupported
from proxy.session.tokens import Kind, Token, tokens

MAX_SQL = 1 << 20             # characters of a query string


_SIMPLE = re.compile(r"[^;'\"$/\-\\\0]*+;?\s*+")                # one statement without strings, quotes, comments
_NUMBERS = re.compile(r"(?<=[=<>])(\s*+)(\d{1,9})(?=\s*+(?:$|[),]|and\b|or\b|order\b|limit\b|group\b))", re.IGNORECASE)
_DOUBTFUL = re.compile(r"['$]|--|/\*")
_QUOTED = re.compile(r'"([^"]*+)"')
_TEMPLATED = re.compile(r"\s*+(?:select|update|delete)\b", re.IGNORECASE)


def template(sql: str) -> tuple[str, tuple[int, ...]]:
    """The statement with the whole numbers that something is compared with as parameters, and those numbers.

    So that a statement is translated once, and not for each key that somebody writes into it.
    """
    if _TEMPLATED.match(sql) is None or _DOUBTFUL.search(sql) is not None or any(
            not name.isidentifier() for name in _QUOTED.findall(sql)):
        return sql, ()
    numbers: list[int] = []

    def one(found: re.Match[str]) -> str:
        numbers.append(int(found[2]))
        return f"{found[1]}${len(numbers)}"

    return _NUMBERS.sub(one, sql), tuple(numbers)


def split(sql: str) -> list[str]:
    """The statements of a query string, as they were written."""
    if len(sql) > MAX_SQL:
        raise refused("54000", "the query string is too long for a SQLite file")
    if _SIMPLE.fullmatch(sql) is not None:
        alone = sql.rstrip("; \t\n\r\f\v")
        return [alone] if alone else []
    parts: list[str] = []
    first: Token | None = None
    last: Token | None = None
    for token in tokens(sql):
        if token.kind is Kind.BROKEN:
            raise refused("42601", f'syntax error at or near "{sql[token.start:token.start + 20]}"')
        if token.kind is Kind.END:
            if first is not None and last is not None:
                parts.append(sql[first.start:last.end])
            first = None
            continue
        first, last = first or token, token
    if first is not None and last is not None:
        parts.append(sql[first.start:last.end])
    return parts


def words(sql: str) -> Sequence[Token]:
    return tuple(tokens(sql))


def plain(sql: str) -> str:
    """Raises Refused (42601, 0A000)."""
    parts: list[str] = []
    before: Token | None = None
    for token in tokens(sql):
        # What was written together stays so: a pair of marks may be one operator.
        if before is not None and (before.end < token.start or not (before.kind is Kind.MARK or token.kind is Kind.MARK)):
            parts.append(" ")
        parts.append(_plainly(token, before))
        before = token
    return "".join(parts)


def _plainly(token: Token, before: Token | None) -> str:
    match token.kind:
        case Kind.WORD | Kind.MARK:
            return token.value
        case Kind.NAME:
            if not token.plain or token.value.startswith("$"):
                raise unsupported("a name of this form")
            return '"' + token.value.replace('"', '""') + '"'
        case Kind.STRING:
            if not token.plain:
                raise unsupported("a string constant of this form")
            if before is not None and before.kind is Kind.STRING:
                raise refused("42601", f"syntax error at or near \"'{token.value[:20]}'\"")
            return "'" + token.value.replace("'", "''") + "'"
        case Kind.NUMBER:
            if not token.value.replace(".", "", 1).replace("e", "", 1).replace("E", "", 1).replace("-", "").replace("+", "").isdigit():
                raise unsupported(f"the number {token.value[:20]}")
            return token.value
        case Kind.PARAMETER:
            return f'"{token.value}"'
    raise refused("42601", f'syntax error at or near "{token.value[:20]}"')
