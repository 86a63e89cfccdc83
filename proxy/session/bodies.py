"""Bodies of PL/pgSQL, of functions and of DO: what is called in them, and whether anything else could change the session.

They are not parsed.  Every name in front of a parenthesis is a call, as in a statement; what only stands at the beginning of a
statement (SET, CREATE, LISTEN) is looked for where one may begin; and what is made up at run time (EXECUTE) is never harmless.
"""

from __future__ import annotations

from proxy.session.assignments import Tokens, mark, words
from proxy.session.calls import calls
from proxy.session.consequences import Configure, Doubt, Effect, Names, Notify, OwnPid, OwnState, Reason, Transaction
from proxy.session.tokens import Kind, Token, tokens

# Words of PL/pgSQL behind which an expression may begin.
_EXPRESSION = frozenset((
    "perform", "if", "elsif", "elseif", "while", "return", "next", "query", "assert", "exit", "continue", "when", "case", "raise",
    "in", "foreach", "loop", "then", "else", "begin", "using", "default", "reverse", "strict", "slice", "by", "open", "for"))
_BEGINS_STATEMENTS = frozenset(("begin", "then", "else", "loop"))
_NEVER_FIRST = frozenset((
    "set", "reset", "listen", "unlisten", "load", "prepare", "deallocate", "discard", "do", "create", "alter", "drop", "import",
    "reassign", "copy", "explain"))
_NEVER = frozenset(("execute", "temp", "temporary", "pg_settings", "hold"))


def of_plpgsql(source: str, *, doubt: str = "do") -> tuple[Effect, ...]:
    """The effects that a body could have; one Doubt of this name where it could be anything."""
    unknown = (Doubt(Reason.CODE, doubt),)
    found: list[Token] = []
    first = True
    for token in tokens(source):
        if token.kind == Kind.BROKEN or not token.plain:
            return unknown
        if token.kind == Kind.WORD:
            if token.value in _NEVER or (first and token.value in _NEVER_FIRST):
                return unknown
            first = token.value in _BEGINS_STATEMENTS
            found.append(token._replace(value="select") if token.value in _EXPRESSION else token)
        else:
            first = token.kind == Kind.END or mark(token, ">")         # behind a <<label>> too
            found.append(token)
    return tuple(calls(found, source))


def leaves_nothing(effect: Effect) -> bool:
    return isinstance(effect, Names | Notify | OwnState | OwnPid | Transaction) or effect == Configure(None, None, True)


def of_do(rest: Tokens) -> tuple[Effect, ...]:
    """DO: the tokens behind it."""
    unknown = (Doubt(Reason.CODE, "do"),)
    bodies = [token for token in rest if token.kind == Kind.STRING]
    others = [token for token in rest if token.kind != Kind.STRING]
    if len(bodies) != 1 or not bodies[0].plain or not (not others or (words(others, "language", "plpgsql") and len(others) == 2)):
        return unknown
    found = of_plpgsql(bodies[0].value)
    return found if all(leaves_nothing(effect) or isinstance(effect, Doubt) for effect in found) else unknown
