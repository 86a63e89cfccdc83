"""A request that waits for a server and is cancelled: which bytes it is, and what its client is told.

What PostgreSQL does with a statement that is cancelled: a simple Query ends with the error; behind an error in the extended
protocol everything is thrown away up to the Sync, and what was meant for a COPY that never began is ignored.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.wire import messages

REQUESTS = b"QSF"
COPY = b"dcf"
SYNC, FLUSH, TERMINATE = b"SHX"
CANCELED = messages.fields(b"E", {"S": "ERROR", "V": "ERROR", "C": "57014", "M": "canceling statement due to user request"})


class Cut(NamedTuple):
    """The first request of what is held ends at `end`; `owed` ReadyForQuery were expected for it, and one is sent."""

    end: int
    owed: int


def first_request(held: bytes) -> Cut | None:
    """None while it has not come whole: then nothing runs that could be cancelled."""
    at = owed = 0
    simple = held[:1] in (b"Q", b"F")
    while True:
        end = _end(held, at)
        if end is None:
            return None
        tag, at = held[at], end
        owed += tag in REQUESTS
        if simple or tag == b"S"[0]:
            break
    while at < len(held) and held[at] in COPY:
        end = _end(held, at)
        if end is None:
            return None
        at = end
    return Cut(at, owed)


def flushed(held: bytes) -> int | None:
    """How many ReadyForQuery are owed for `held`, if it is whole messages of the extended protocol and a Flush wants their
    answers before the Sync has come; else None."""
    at = owed = 0
    wanted = False
    while at < len(held):
        end = _end(held, at)
        if end is None or held[at] == SYNC:
            return None
        owed += held[at] in REQUESTS
        wanted |= held[at] == FLUSH
        at = end
    return owed if wanted and held[:1] not in (b"Q", b"F") else None


class UpToSync:
    """Behind an error in the extended protocol everything is thrown away up to the Sync: message by message, whatever
    pieces it comes in, holding no more than a split header."""

    def __init__(self) -> None:
        self.owed = 0                        # ReadyForQuery that were expected for what has been thrown away
        self.goodbye = False                 # instead of the Sync
        self._left = 0
        self._part = b""

    def feed(self, data: bytes) -> bytes | None:
        """What stands behind the Sync; None while it has not come."""
        data = self._part + data
        at = self._left
        while at + 5 <= len(data):
            tag, at = data[at], at + 1 + int.from_bytes(data[at + 1:at + 5])
            self.owed += tag in REQUESTS
            if tag == SYNC:
                return data[at:]
            if tag == TERMINATE:
                self.goodbye = True
                return b""
        self._left, self._part = max(0, at - len(data)), data[at:]
        return None


def _end(held: bytes, at: int) -> int | None:
    end = at + 1 + int.from_bytes(held[at + 1:at + 5])
    return end if at + 5 <= len(held) and end <= len(held) else None
