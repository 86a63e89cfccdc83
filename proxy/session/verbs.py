"""What one statement does, by its first word.  A verb that is not here is unknown, and pins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from proxy.session.assignments import Tokens, configure, mark, name_of, reset_statement, set_statement, words
from proxy.session.bodies import of_do
from proxy.session.calls import calls
from proxy.session.consequences import (
    Change,
    Deallocate,
    Defaults,
    Discard,
    Doubt,
    Effect,
    Execute,
    Listen,
    Notify,
    Pin,
    Prepare,
    Reason,
    Transaction,
    Unlisten,
    Unpin,
    What,
)
from proxy.session.extensions import brought
from proxy.session.functions import HARMLESS
from proxy.session.tokens import Kind

_OBSCURE = (Pin(Reason.OBSCURE),)
_TEMP = ("temp", "temporary")
Verb = Callable[[Tokens, str], Iterable[Effect]]


def effects_of(tokens: Tokens, text: str) -> Iterable[Effect]:
    """`tokens`: one statement's, without the semicolon; at least one."""
    if tokens[-1].kind == Kind.BROKEN:
        return _OBSCURE
    first = tokens[0]
    if mark(first, "("):
        return _query(tokens, text)
    if first.kind != Kind.WORD:
        return _OBSCURE
    verb = _VERBS.get(first.value)
    return verb(tokens, text) if verb else (Pin(Reason.UNKNOWN, first.value),)


def _query(tokens: Tokens, text: str) -> Iterable[Effect]:
    if words(tokens, "select") and any(token.value == "set_config" for token in tokens):
        plain = configure(tokens)
        if plain is not None:
            return plain
    found = list(calls(tokens, text))
    for at, token in enumerate(tokens):
        if token.kind == Kind.WORD and token.value == "into" and not (at and tokens[at - 1].value in ("insert", "merge")):
            behind = tokens[at + 1:]
            if behind and behind[0].value in ("local", "global"):
                behind = behind[1:]
            if behind and behind[0].kind == Kind.WORD and behind[0].value in _TEMP:
                found.append(Pin(Reason.TEMPORARY, "select into temp"))
    return found


def _nothing(tokens: Tokens, text: str) -> Iterable[Effect]:
    return ()


def _explain(tokens: Tokens, text: str) -> Iterable[Effect]:
    at = 1
    if at < len(tokens) and mark(tokens[at], "("):
        while at < len(tokens) and not mark(tokens[at], ")"):
            at += 1
        at += 1
    while at < len(tokens) and tokens[at].value in ("analyze", "analyse", "verbose"):
        at += 1
    return effects_of(tokens[at:], text) if at < len(tokens) else _OBSCURE


def _create(tokens: Tokens, text: str) -> Iterable[Effect]:
    rest = tokens[3:] if words(tokens, "create", "or", "replace") else tokens[1:]
    found: list[Effect] = []
    if any(token.kind == Kind.WORD and token.value in _TEMP for token in rest[:3]):
        found.append(Pin(Reason.TEMPORARY, "create temporary"))
        if any(words(tokens[at:], "on", "commit", "drop") for at in range(len(tokens))):
            found.append(Unpin(Reason.TEMPORARY, "on commit drop"))
    what = next((token.value for token in rest if token.value not in ("local", "global", "unlogged", "materialized", *_TEMP)), "")
    if what == "extension":
        if not brought(tokens):
            found.append(Doubt(Reason.CODE, "create extension"))
    elif what in ("table", "index", "unique", "schema") or words(rest, "materialized"):
        found += calls(tokens, text)
    else:
        found += (Pin(Reason.TEMPORARY, token.value or 'U&"..."') for token in tokens
                  if token.kind in (Kind.WORD, Kind.NAME) and (token.value.startswith("pg_temp") or not token.plain))
    return found


def _alter(tokens: Tokens, text: str) -> Iterable[Effect]:
    if words(tokens, "alter", "system"):
        return (Defaults(),)
    if len(tokens) > 1 and tokens[1].value in ("role", "user", "database"):
        return (Defaults(),) if any(token.kind == Kind.WORD and token.value in ("set", "reset") for token in tokens) else ()
    if len(tokens) > 1 and tokens[1].value in ("table", "domain", "materialized", "foreign", "index", "view", "sequence"):
        return calls(tokens, text)
    if words(tokens, "alter", "extension"):
        return () if brought(tokens) else (Doubt(Reason.CODE, "alter extension"),)
    return ()


def _drop(tokens: Tokens, text: str) -> Iterable[Effect]:
    return (Unpin(Reason.TEMPORARY, "drop"),)


def _declare(tokens: Tokens, text: str) -> Iterable[Effect]:
    found = list(calls(tokens, text))
    for at in range(len(tokens)):
        if words(tokens[at:], "with", "hold"):
            return [Pin(Reason.HOLD, "with hold"), *found]
        if words(tokens[at:], "for"):
            break
    return found


def _close(tokens: Tokens, text: str) -> Iterable[Effect]:
    return (Unpin(Reason.HOLD, "close"),)


def _prepare(tokens: Tokens, text: str) -> Iterable[Effect]:
    if words(tokens, "prepare", "transaction"):
        return (Transaction(Change.PREPARE),)
    name = name_of(tokens[1]) if len(tokens) > 3 else None
    at, types = 2, ""
    if name is not None and mark(tokens[at], "("):
        while at < len(tokens) and not words(tokens[at:], "as"):
            at += 1
        types = text[tokens[3].start:tokens[at - 2].end]
    if name is None or not words(tokens[at:], "as") or at + 1 >= len(tokens):
        return _OBSCURE
    return (Prepare(name, types, text[tokens[at + 1].start:tokens[-1].end]),)


def _execute(tokens: Tokens, text: str) -> Iterable[Effect]:
    name = name_of(tokens[1]) if len(tokens) > 1 else None
    return _OBSCURE if name is None else (*calls(tokens[2:], text), Execute(name))


def _deallocate(tokens: Tokens, text: str) -> Iterable[Effect]:
    rest = tokens[2:] if len(tokens) > 2 and words(tokens[1:], "prepare") else tokens[1:]
    if len(rest) != 1 or name_of(rest[0]) is None:
        return _OBSCURE
    return (Deallocate(None if words(rest, "all") else rest[0].value),)


def _begin(tokens: Tokens, text: str) -> Iterable[Effect]:
    return (Transaction(Change.BEGIN),)


def _end(tokens: Tokens, text: str) -> Iterable[Effect]:
    rolls = tokens[0].value in ("rollback", "abort")
    rest = tokens[1:]
    if words(rest, "prepared"):
        return (Transaction(Change.FINISH_PREPARED),)
    if words(rest, "work") or words(rest, "transaction"):
        rest = rest[1:]
    if rolls and words(rest, "to"):
        rest = rest[2:] if len(rest) > 2 and words(rest[1:], "savepoint") else rest[1:]
        return _savepoint(Change.ROLLBACK_TO, rest)
    if words(rest, "and", "chain"):
        return (Transaction(Change.ROLLBACK_CHAIN if rolls else Change.COMMIT_CHAIN),)
    return (Transaction(Change.ROLLBACK if rolls else Change.COMMIT),)


def _savepoint(change: Change, rest: Tokens) -> Sequence[Effect]:
    name = name_of(rest[0]) if len(rest) == 1 else None
    return _OBSCURE if name is None else (Transaction(change, name),)


def _release(tokens: Tokens, text: str) -> Iterable[Effect]:
    return _savepoint(Change.RELEASE, tokens[2:] if len(tokens) > 2 and words(tokens[1:], "savepoint") else tokens[1:])


def _call(tokens: Tokens, text: str) -> Iterable[Effect]:
    found = tuple(calls(tokens[1:], text))
    at = next((at for at, token in enumerate(tokens) if mark(token, "(")), 0)
    if at < 2 or tokens[at - 1].value in HARMLESS:
        return (*found, Doubt(Reason.CODE, "call"))        # no procedure is PostgreSQL's own
    return found


def _listen(tokens: Tokens, text: str) -> Iterable[Effect]:
    name = name_of(tokens[1]) if len(tokens) == 2 else None
    return _OBSCURE if name is None else (Listen(name),)


def _unlisten(tokens: Tokens, text: str) -> Iterable[Effect]:
    if len(tokens) == 2 and mark(tokens[1], "*"):
        return (Unlisten(None),)
    name = name_of(tokens[1]) if len(tokens) == 2 else None
    return _OBSCURE if name is None else (Unlisten(name),)


def _notify(tokens: Tokens, text: str) -> Iterable[Effect]:
    name = name_of(tokens[1]) if len(tokens) > 1 else None
    return _OBSCURE if name is None else (Notify(name),)


def _discard(tokens: Tokens, text: str) -> Iterable[Effect]:
    what = {"all": What.ALL, "plans": What.PLANS, "sequences": What.SEQUENCES, "temp": What.TEMPORARY,
            "temporary": What.TEMPORARY}.get(tokens[1].value) if len(tokens) == 2 else None
    return (Discard(what),) if what else _OBSCURE


_VERBS: dict[str, Verb] = {
    **dict.fromkeys(("select", "insert", "update", "delete", "with", "values", "table", "merge", "copy"), _query),
    # Code of others may run behind these, but none that is in the text.
    **dict.fromkeys(("show", "fetch", "move", "lock", "comment", "grant", "revoke", "security", "reassign", "checkpoint", "truncate",
                     "vacuum", "analyze", "analyse", "cluster", "reindex", "refresh", "import"), _nothing),
    "set": lambda tokens, text: set_statement(tokens[1:]), "reset": lambda tokens, text: reset_statement(tokens[1:]),
    "begin": _begin, "start": _begin, "commit": _end, "end": _end, "rollback": _end, "abort": _end,
    "savepoint": lambda tokens, text: _savepoint(Change.SAVEPOINT, tokens[1:]), "release": _release,
    "listen": _listen, "unlisten": _unlisten, "notify": _notify,
    "prepare": _prepare, "execute": _execute, "deallocate": _deallocate,
    "declare": _declare, "close": _close, "discard": _discard,
    "create": _create, "alter": _alter, "drop": _drop, "explain": _explain,
    "load": lambda tokens, text: (Pin(Reason.LIBRARY, "load"),),
    "do": lambda tokens, text: of_do(tokens[1:]), "call": _call,
}
