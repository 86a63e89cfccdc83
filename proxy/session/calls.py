"""Who is called in a statement: every name in front of a parenthesis, and words that name a view of the session's own state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.session.assignments import Tokens, mark, named, truth, words
from proxy.session.consequences import Configure, Doubt, Effect, Notify, OwnPid, Pin, Reason
from proxy.session.functions import CONSEQUENCES, GRAMMAR, HARMLESS, KEYWORDS, NOT_CALLED_BEHIND, VIEWS, about_pids
from proxy.session.tokens import Kind, offset

# What stands behind these is the name of a relation, an alias or a type, whose parenthesis holds columns or a length.
_NAMES_BEHIND = {"into", "as", "with", "recursive", "table", "exists", "references", "copy", "analyze", "vacuum", "view"}
_INDEX_NAMES_BEHIND = {"on", "only", "using", "include"}


def calls(tokens: Tokens, text: str) -> Iterator[Effect]:
    index = words(tokens, "create", "index") or words(tokens, "create", "unique", "index")
    writes = any(token.kind == Kind.WORD and token.value in ("update", "merge") for token in tokens)
    last = len(tokens) - 1
    for at, token in enumerate(tokens):
        kind = token.kind
        if kind not in (Kind.WORD, Kind.NAME):
            if kind == Kind.BROKEN:
                yield Pin(Reason.OBSCURE)
            continue
        if not token.plain:
            yield Doubt(Reason.CODE, 'U&"..."')          # its name may be anything, and UESCAPE may stand before a parenthesis
            continue
        if token.value.startswith("pg_"):
            if token.value in VIEWS:
                yield VIEWS[token.value]
            elif token.value.startswith("pg_temp"):
                yield Pin(Reason.TEMPORARY, token.value)
            elif token.value == "pg_settings" and writes:
                yield Pin(Reason.SETTING, "update pg_settings")
        if at < last and mark(tokens[at + 1], "(") and (at or token.value != "copy"):
            yield from _call(tokens, at, text, _NAMES_BEHIND | _INDEX_NAMES_BEHIND if index else _NAMES_BEHIND)


def _call(tokens: Tokens, at: int, text: str, names_behind: set[str]) -> Iterator[Effect]:
    token = tokens[at]
    name, schema, first = token.value, None, at
    while first >= 2 and mark(tokens[first - 1], "."):
        first -= 2
        schema = tokens[first].value
    before = tokens[first - 1] if first else None
    if about_pids(name) and schema in (None, "pg_catalog"):
        yield OwnPid(name, offset(text, tokens[first].start), offset(text, token.end))
    elif name == "set_config":
        yield from _set_config(tokens[at + 2:])
    elif name == "pg_notify":
        arguments = tokens[at + 2:at + 3]
        yield Notify(arguments[0].value if arguments and arguments[0].kind == Kind.STRING and arguments[0].plain else None)
    elif name in CONSEQUENCES:
        yield from CONSEQUENCES[name]
    elif not _harmless(tokens, at, schema, before, names_behind):
        yield Doubt(Reason.CODE, f"{schema}.{name}" if schema else name)


def _harmless(tokens: Tokens, at: int, schema: str | None, before: object, names_behind: set[str]) -> bool:
    token = tokens[at]
    first = at - 2 if schema else at
    while first >= 2 and mark(tokens[first - 1], "."):
        first -= 2
    previous = tokens[first - 1] if first else None
    if previous is not None:
        if previous.kind == Kind.NAME or (previous.kind == Kind.WORD and previous.value not in KEYWORDS):
            return True                    # a relation's alias, a column's type: no call follows a name
        if previous.kind == Kind.WORD and previous.value in names_behind:
            return True
    if schema is not None:
        return schema == "information_schema" or (schema == "pg_catalog" and token.value in HARMLESS)
    if token.value in HARMLESS:
        return True
    if token.kind != Kind.WORD:
        return False
    if token.value in GRAMMAR:
        return True
    if previous is not None and previous.value in NOT_CALLED_BEHIND.get(token.value, ()):
        return True
    if token.value in ("range", "list", "hash") and words(tokens[at - 2:], "partition", "by"):
        # How a new table is divided; behind AS it may be a window's.
        return words(tokens, "create") and not any(each.kind == Kind.WORD and each.value == "as" for each in tokens[:at])
    return token.value == "operator" and words(tokens[at + 2:], "pg_catalog")


def _set_config(arguments: Tokens) -> Sequence[Effect]:
    """A set_config() whose result the text does not tell; for the transaction only, it does not matter."""
    depth, commas = 0, 0
    for at, token in enumerate(arguments):
        if token.kind != Kind.MARK:
            continue
        if token.value in "([":
            depth += 1
        elif token.value in ")]":
            depth -= 1
            if depth < 0:
                break
        elif token.value == "," and not depth:
            commas += 1
            if commas == 2 and len(arguments) > at + 2 and mark(arguments[at + 2], ")") and truth(arguments[at + 1]):
                return Configure(None, None, True), *(named(arguments[0]) if mark(arguments[1], ",") else ())
    return (Pin(Reason.SETTING, "set_config"),)
