"""Texts that leave nothing in a session: what mode `auto` forwards without a second look.

A text is judged once (session/statements) and remembered, so that the hot path asks one set.  Statements that only begin
or end transactions are neutral too: they matter to who has changed something in the transaction, and such a client's
messages are looked at one by one until it ends.
"""

from __future__ import annotations

import re

from proxy.session.consequences import Change, Effect, Notify, Transaction
from proxy.session.statements import ordinary, read

MOST_TEXTS = 20_000
LONGEST = 4096             # bytes; longer texts are judged each time, mostly by a glance
_MOST_BYTES = 16 << 20

NEUTRAL: set[bytes] = set()
"""Hot: only texts that `judge` has put here."""

_SCHEMA = re.compile(rb"\s*+(?:create|alter|drop)\b", re.IGNORECASE)     # what is prepared may have other results then
_kept = 0


def harmless(effects: tuple[Effect, ...]) -> bool:
    return all(isinstance(effect, Notify) or (isinstance(effect, Transaction) and effect.change is not Change.PREPARE)
               for effect in effects)


def changes_schema(text: bytes) -> bool:
    """Does one of its statements, or might it?"""
    return _SCHEMA.match(text) is not None or (b";" in text and _SCHEMA.search(text) is not None)


def judge(text: bytes) -> bool:
    """Is this text, without its final zero, neutral?  Under standard_conforming_strings = on."""
    global _kept
    if not ordinary(text) and (changes_schema(text) or b"database" in text.lower() or not harmless(read(text))):
        return False
    if len(text) <= LONGEST:
        if len(NEUTRAL) >= MOST_TEXTS or _kept > _MOST_BYTES:
            NEUTRAL.clear()
            _kept = 0
        NEUTRAL.add(text)
        _kept += len(text)
    return True
