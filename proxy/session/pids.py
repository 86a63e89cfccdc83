"""Process ids in SQL: a client's own is the one that it was told at login, and means whatever server process serves it now.

    select pg_backend_pid()                        (SELECT 4711 AS pg_backend_pid): the column keeps its name and type
    select pg_cancel_backend(4711)                 the process that serves that client at this moment
    select pg_cancel_backend($1)                   the same, in the Bind message
    select pg_terminate_backend(pg_backend_pid())  stays as it is: both are the server's own
    select * from pg_locks where pid = 4711        the process that serves that client; the rows have the servers' ids
    ... where pid <> pg_backend_pid()              beside such a view it stays as it is

Numbers that are no client of ours are the server's, and pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.session.consequences import Effect, OwnPid, OwnState, What
from proxy.session.statements import statements

Whose = Callable[[int], int | None]
"""The process that serves this client now; 0: a client that nobody serves now; None: no client of ours."""

_BACKENDS = OwnState(What.BACKEND)
STRIKE = re.compile(rb"pg_(?:cancel|terminate)_backend", re.IGNORECASE)
_NOTHING = re.compile(rb"\s*\(\s*\)")
_OWN = re.compile(rb"\s*\(\s*(?:pg_catalog\s*\.\s*)?pg_backend_pid\s*\(\s*\)", re.IGNORECASE)
_NUMBER = re.compile(rb"\s*\(\s*'?(\d{1,10})'?(?=\s*(?:::\s*int(?:eger|4)?\s*)?[,)])", re.IGNORECASE)
_WRITTEN = re.compile(rb"\(SELECT \d+ AS pg_backend_pid\)")
_CALL = re.compile(rb"(?:pg_catalog\s*\.\s*)?pg_backend_pid\s*\(\s*\)", re.IGNORECASE)
_COMPARED = re.compile(rb"(?<![\w$.\x80-\xff])(?:[\w$\x80-\xff]+\s*\.\s*)?pid\s*=\s*(?:'?(\d{1,10})\b|\$(\d{1,5}))", re.IGNORECASE)
_PARAMETER = re.compile(rb"\s*\(\s*\$(\d{1,5})(?=\s*(?:::\s*int(?:eger|4)?\s*)?[,)])", re.IGNORECASE)


def translated(text: bytes, effects: tuple[Effect, ...], own: int, whose: Whose) -> bytes:
    """The text as the server is to see it."""
    found = [effect for effect in effects if isinstance(effect, OwnPid)]
    kept: set[int] = set()                     # where a pg_backend_pid() means the process itself
    pieces: list[tuple[int, int, bytes]] = []
    for start, end in _about_backends(text, effects):
        kept.update(range(start, end))
        pieces += ((number.start(1), number.end(1), b"%d" % real) for number in _COMPARED.finditer(text, start, end)
                   if number[1] and (real := whose(int(number[1]))) is not None)
    for effect in found:
        if effect.function != "pg_backend_pid":
            inner = _OWN.match(text, effect.end)
            argument = _NUMBER.match(text, effect.end)
            if inner is not None:
                kept.update(range(effect.end, inner.end()))
            elif argument is not None and (real := whose(int(argument[1]))) is not None:
                pieces.append((argument.start(1), argument.end(1), b"%d" % real))
    for effect in found:
        if effect.function == "pg_backend_pid" and effect.start not in kept:
            call = _NOTHING.match(text, effect.end)
            if call is not None:
                pieces.append((effect.start, call.end(), b"(SELECT %d AS pg_backend_pid)" % own))
    for start, end, piece in sorted(pieces, reverse=True):
        text = text[:start] + piece + text[end:]
    return text


def _about_backends(text: bytes, effects: tuple[Effect, ...]) -> list[tuple[int, int]]:
    """Where the statements are that read views of server processes."""
    if _BACKENDS not in effects:
        return []
    return [(one.start, one.end) for one in statements(text) if _BACKENDS in one.effects]


def position(original: bytes, sent: bytes, at: int) -> int:
    """Where a place in the text that was sent is in the client's own; both count characters from 1.

    Calls of pg_backend_pid() are all that can move anything far: the texts are compared from place to place.
    """
    here, there = 0, 0
    end = len(sent.decode("utf-8", "surrogateescape")[:at - 1].encode("utf-8", "surrogateescape"))
    while there < end and here < len(original):
        written = _WRITTEN.match(sent, there)
        call = _CALL.match(original, here) if written is not None else None
        if written is not None and call is not None:
            if written.end() > end:
                break
            here, there = call.end(), written.end()
        else:
            here, there = here + 1, there + 1
    return len(original[:here].decode("utf-8", "surrogateescape")) + 1


def parameters(text: bytes, effects: tuple[Effect, ...]) -> frozenset[int]:
    """Which parameters, from 0, are process ids."""
    found = (_PARAMETER.match(text, effect.end) for effect in effects
             if isinstance(effect, OwnPid) and effect.function != "pg_backend_pid")
    compared = {int(one[2]) - 1 for one in _COMPARED.finditer(text) if one[2]} if _BACKENDS in effects else set()
    return frozenset(int(one[1]) - 1 for one in found if one is not None) | compared


def bound(rest: bytes, wanted: frozenset[int], whose: Whose) -> bytes:
    """What follows the names in a Bind message, with these parameters translated; what is odd is the server's to refuse."""
    formats = int.from_bytes(rest[:2])
    at = 2 + 2 * formats
    count = int.from_bytes(rest[at:at + 2])
    at += 2
    for number in range(count):
        size = int.from_bytes(rest[at:at + 4], signed=True)
        value = rest[at + 4:at + 4 + max(0, size)]
        code = rest[2 + 2 * (number if formats > 1 else 0):][:2] if formats else b"\0\0"
        if number in wanted and size > 0:
            if code == b"\0\0" and value.isdigit():
                real = whose(int(value))
                new = value if real is None else b"%d" % real
            elif code == b"\0\1" and size == 4:
                real = whose(int.from_bytes(value, signed=True))
                new = value if real is None else real.to_bytes(4, signed=True)
            else:
                new = value
            rest = rest[:at] + len(new).to_bytes(4) + new + rest[at + 4 + size:]
            size = len(new)
        at += 4 + max(0, size)
    return rest
