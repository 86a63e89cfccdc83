"""Back to the beginning: RESET, RESET ALL, SET ... TO DEFAULT of a client whose session began with settings of its own.

A server goes back to what *its* session began with, which is nobody's.  At rest that is put right before the client hears of
it; but what follows in the same message or batch, or all that SET LOCAL governs, must find the client's own beginning: so
statements of ours stand right behind such a one, and their answers are not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.session.assignments import literal, render
from proxy.session.consequences import Configure, Discard, Effect, Reset, ResetAll, Set, What
from proxy.session.parameters import Value
from proxy.session.statements import Statement
from proxy.session.tokens import encode, tokens

Effects = tuple[Effect, ...]


def behind(effects: Effects, beginning: Mapping[str, Value], *, lasting: bool = True) -> list[tuple[str, Effects]]:
    """What is to be said behind a statement of these, and what each does.  `lasting` false: only what is for the transaction."""
    wanted: dict[str, bool] = {}
    for effect in effects:
        match effect:
            case Set(name, None, local) if name in beginning and (local or lasting):
                wanted[name] = local
            case Reset(name) if name in beginning and lasting:
                wanted[name] = False
            case ResetAll() | Discard(What.ALL) if lasting:
                wanted |= dict.fromkeys(beginning, False)
    return [_assignment(name, beginning[name].text, local) for name, local in sorted(wanted.items())]


def _assignment(name: str, value: str, local: bool) -> tuple[str, Effects]:
    effects = () if local else (Configure(name, value, False),)
    if name == "search_path":
        written = render(tuple(tokens(value)))        # a list: as one string, SET would make it one name
        if written != value:                          # SET would spell it anew; but this one begins what has to come first
            return f"SELECT pg_catalog.set_config('{name}', {literal(value)}, {str(local).lower()})", effects
    else:
        written = literal(value)
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
    return f"SET {'LOCAL ' if local else ''}{quoted} TO {written}", effects


@dataclass(frozen=True, slots=True)
class Woven:
    """A text with ours behind its own statements."""

    text: bytes
    each: tuple[Effects, ...]                 # what each statement does
    ours: frozenset[int] = frozenset()        # their numbers, from 0
    spans: tuple[tuple[int, int], ...] = ()   # where ours stand: offsets in the text

    def placed(self, at: int) -> int:
        """A place in the text, in the one as it was; both count characters from 1."""
        before = len(self.text.decode("utf-8", "surrogateescape")[:at - 1].encode("utf-8", "surrogateescape"))
        ours = b"".join(self.text[start:min(end, before)] for start, end in self.spans if start < before)
        return at - len(ours.decode("utf-8", "surrogateescape"))


def woven(text: bytes, statements: tuple[Statement, ...], beginning: Mapping[str, Value], *, within: bool) -> Woven:
    """`within`: a transaction is open, which SET LOCAL is about."""
    sent, each, ours, spans = b"", list[Effects](), set[int](), list[tuple[int, int]]()
    at = 0
    for one in statements:
        sent += text[at:one.end]
        at = one.end
        each.append(one.effects)
        if len(statements) == 1 and not within:
            continue                          # at rest it is put right anyway
        for said, effects in behind(one.effects, beginning, lasting=len(statements) > 1):
            spans.append((len(sent), len(sent) + 2 + len(encode(said))))
            sent += b"; " + encode(said)
            ours.add(len(each))
            each.append(effects)
    return Woven(sent + text[at:], tuple(each), frozenset(ours), tuple(spans))
