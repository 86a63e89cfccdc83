"""`select pg_cancel_backend(4711)`, alone, is answered from here: the cancel goes the way that cancels have, not through a session.

Whose queries fill all connections can stop them then, and the right does not hang on the role that a configuration gives: the
connections belong to one login.  That is how knex asks (`.timeout({cancel: true})`): on a connection of its own, by Parse,
Bind, Describe, Execute, Sync.

PostgreSQL manual, "Server Signaling Functions".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.wire import messages

LONGEST = 400                 # bytes of all the messages
_ASKED = re.compile(rb"\s*select\s+(?:pg_catalog\s*\.\s*)?pg_cancel_backend\s*\(\s*(?:(?P<number>\d{1,10})|\$1)"
                    rb"\s*(?:::\s*int(?:eger|4)?\s*)?\)\s*;?\s*", re.IGNORECASE)
_OIDS = (0, 23)               # of the parameter: unspecified, int4
_MOST = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Strike:
    """`pid`: whom; `answer`: what is told when it is done; `parsed`: the Parse message that the session remembers."""

    pid: int
    answer: bytes
    parsed: bytes | None


def strike(data: bytes) -> Strike | None:
    """Is that all that these bytes ask?"""
    if len(data) > LONGEST:
        return None
    found, at = [], 0
    while len(data) - at >= 5:
        end = at + 1 + int.from_bytes(data[at + 1:at + 5])
        found.append((data[at:at + 1], data[at + 5:end]))
        at = max(end, at + 5)
    if at != len(data):
        return None
    tags = b"".join(tag for tag, _ in found)
    if tags == b"Q":
        asked = _ASKED.fullmatch(found[0][1].removesuffix(b"\0"))
        if asked is None or asked["number"] is None or int(asked["number"]) > _MOST:
            return None
        return Strike(int(asked["number"]), _answer(b"", described=True, binary=False), None)
    if tags not in (b"PBDES", b"PBES"):
        return None
    return _extended([body for _, body in found], described=tags == b"PBDES", parsed=data[:5 + len(found[0][1])])


def _extended(bodies: list[bytes], *, described: bool, parsed: bytes) -> Strike | None:
    name, text, types = [*bodies[0].split(b"\0", 2), b"", b""][:3]
    asked = _ASKED.fullmatch(text)
    oids = [int.from_bytes(types[at:at + 4]) for at in range(2, len(types), 4)]
    parameters = 0 if asked is None or asked["number"] is not None else 1
    bind, rest = bodies[1], bodies[2:]
    if (asked is None or name or len(oids) > parameters or any(oid not in _OIDS for oid in oids) or bind[:2] != b"\0\0"
            or rest[-2:] != [b"\0\0\0\0\0", b""] or (described and rest[0] != b"P\0")):
        return None
    formats, at = _shorts(bind, 2)
    values, at = int.from_bytes(bind[at:at + 2]), at + 2
    if values != parameters or len(formats) > parameters:
        return None
    number = asked["number"]
    if parameters:
        size = int.from_bytes(bind[at:at + 4], signed=True)
        number, at = bind[at + 4:at + 4 + max(0, size)], at + 4 + max(0, size)
        if formats == [1] and size == 4:
            number = b"%d" % int.from_bytes(number, signed=True)
        elif formats not in ([], [0]):
            return None
    results, at = _shorts(bind, at)
    if at != len(bind) or len(results) > 1 or not number.isdigit() or len(number) > 10 or int(number) > _MOST:
        return None
    done = messages.message(b"1") + messages.message(b"2")
    return Strike(int(number), _answer(done, described=described, binary=results == [1]), parsed)


def _shorts(data: bytes, at: int) -> tuple[list[int], int]:
    """A counted list of int16, and what is behind it."""
    count = int.from_bytes(data[at:at + 2])
    end = at + 2 + 2 * count
    return [int.from_bytes(data[place:place + 2]) for place in range(at + 2, min(end, len(data)), 2)], end


def _answer(done: bytes, *, described: bool, binary: bool) -> bytes:
    """One row, true: the signal has been sent."""
    if described:
        done += messages.message(b"T", b"\0\1pg_cancel_backend\0" + bytes(6) + (16).to_bytes(4) + b"\0\1" + b"\xff" * 4
                                 + (b"\0\1" if binary else b"\0\0"))
    row = b"\0\1\0\0\0\1" + (b"\1" if binary else b"t")
    return done + messages.message(b"D", row) + messages.message(b"C", b"SELECT 1\0") + messages.ready_for_query()
