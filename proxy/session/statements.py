"""What a SQL text does to a session.  `read` says it in order, over all statements of the text.

    read(b"set search_path to a; select 1")   (Set("search_path", "a"),)
    read(b"select * from t where lower(a) = 'b'")   ()
    read(b"select my_own(1)")                 (Doubt(Reason.CODE, "my_own"),)

Never wrong to the unsafe side, so far as a text can tell: a statement is harmless only if its first word is known, every
name in front of a parenthesis is, and no word speaks of what outlives a transaction.  What stands behind a harmless text -
triggers, views, operators, defaults that somebody wrote - is not in the text.

Three steps, the cheap ones first: a cache by text, a glance (two regular expressions over the bytes), the tokens.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.session.assignments import words
from proxy.session.consequences import Effect, Pin, Reason
from proxy.session.functions import GRAMMAR, HARMLESS
from proxy.session.tokens import Kind, Token, decode, offset, tokens
from proxy.session.verbs import effects_of

LONGEST = 1 << 18          # bytes; a longer text is not read
_CACHED_TEXT = 4096
_CACHED_TEXTS = 10_000
_CACHED_BYTES = 8 << 20

# hot: the glance.  Strings count as code here, so it errs to one side only.
_ORDINARY = re.compile(rb"\s*+(?:(?:select|update|delete|with|values|table|merge)(?![\w$\x80-\xff])"
                       rb'|insert\s++into\s++(?:[\w$\x80-\xff]++|"[^"]++")(?:\.(?:[\w$\x80-\xff]++|"[^"]++"))?(?=[\s(])\s*+\(?+)',
                       re.IGNORECASE)
_ODD = re.compile(rb'--|/\*|""|[uU]&|;\s*+[^\s]|[tT][eE][mM][pP]|[pP][gG]_|\.\s|\s\.')
_CALL = re.compile(rb'(?<![\w$\x80-\xff."])([oO][nN] [cC][oO][nN][fF][lL][iI][cC][tT]|[\w$\x80-\xff."]++)\s*+\(')
_QUIET = frozenset(name.encode() for name in HARMLESS | GRAMMAR | {"on conflict"})


@dataclass(frozen=True, slots=True)
class Statement:
    """One of a text: offsets in its bytes, without the semicolon."""

    start: int
    end: int
    effects: tuple[Effect, ...]


class _Cache:
    """Texts read lately, the least lately used go first."""

    def __init__(self) -> None:
        self.known: OrderedDict[tuple[bytes, bool], tuple[Effect, ...]] = OrderedDict()
        self.bytes = 0

    def keep(self, key: tuple[bytes, bool], found: tuple[Effect, ...]) -> None:
        self.known[key] = found
        self.bytes += len(key[0])
        while len(self.known) > _CACHED_TEXTS or self.bytes > _CACHED_BYTES:
            (text, _), _ = self.known.popitem(last=False)
            self.bytes -= len(text)


_cache = _Cache()


def read(text: bytes, *, conforming: bool = True) -> tuple[Effect, ...]:
    """Every effect of a text, in order.  `conforming`: standard_conforming_strings is on for who sent it."""
    key = (text, conforming)
    known = _cache.known
    found = known.get(key)
    if found is not None:
        known.move_to_end(key)
        return found
    if ordinary(text):
        found = ()
    else:
        found = tuple(effect for statement in statements(text, conforming=conforming) for effect in statement.effects)
    if len(text) <= _CACHED_TEXT:
        _cache.keep(key, found)
    return found


def ordinary(text: bytes) -> bool:
    """A glance: certainly one statement that leaves nothing."""
    start = _ORDINARY.match(text)
    if start is None or len(text) > LONGEST or _ODD.search(text) is not None:
        return False
    return all(name.lower() in _QUIET for name in _CALL.findall(text, start.end()))


def statements(text: bytes, *, conforming: bool = True) -> tuple[Statement, ...]:
    """The statements of a text, each with its effects.  Empty ones are left out."""
    if len(text) > LONGEST:
        return (Statement(0, len(text), (Pin(Reason.LENGTH),)),)
    decoded = decode(text)
    return tuple(Statement(offset(decoded, part[0].start), offset(decoded, part[-1].end), tuple(effects_of(part, decoded)))
                 for part in split(tokens(decoded, conforming=conforming)))


def split(stream: Iterator[Token]) -> Iterator[list[Token]]:
    """Statements end at semicolons outside of parentheses and of the body of a BEGIN ATOMIC function."""
    part: list[Token] = []
    depth = blocks = 0
    for token in stream:
        if token.kind == Kind.MARK:
            if token.value == "(":
                depth += 1
            elif token.value == ")":
                depth = max(0, depth - 1)
        elif token.kind == Kind.WORD and not depth and token.value in ("atomic", "case", "end") and part:
            before = part[-1].value
            if token.value == "atomic":
                blocks += before == "begin" and not blocks and routine(part)
            elif blocks and before not in ("as", "."):          # there they are labels
                blocks += 1 if token.value == "case" else -1
        elif token.kind == Kind.END and not depth and not blocks:
            if part:
                yield part
            part = []
            continue
        part.append(token)
    if part:
        yield part


def routine(part: list[Token]) -> bool:
    """CREATE [OR REPLACE] FUNCTION or PROCEDURE: whose body may be BEGIN ATOMIC ... END."""
    rest = part[3:] if words(part, "create", "or", "replace") else part[1:]
    return words(part, "create") and (words(rest, "function") or words(rest, "procedure"))
