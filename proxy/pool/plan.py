"""The pool's arithmetic.  Numbers in, one word out; no sockets, no clocks."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Do(enum.Enum):
    GIVE = "give"          # an idle upstream fits: hand it over
    DIAL = "dial"          # open one more
    EVICT = "evict"        # full, but an idle one of other settings can make room for a new one
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Census:
    """Of one pool, from the view of the client at the head of the queue.  `idle` fit that client, `others` do not;
    `coming` are being dialled or made ready for clients that wait."""

    waiting: int
    idle: int
    others: int
    busy: int
    coming: int


def plan(now: Census, size: int) -> Do:
    """What to do for the client at the head of the queue."""
    if now.idle:
        return Do.GIVE
    if now.coming >= now.waiting:
        return Do.WAIT                 # somebody is already at work on behalf of each waiter
    if now.idle + now.others + now.busy + now.coming < size:
        return Do.DIAL
    return Do.EVICT if now.others else Do.WAIT


def keeps_waiting(sqlstate: str, *, alive: int) -> bool:
    """After a failed dial: may the waiters hope?  Starting up, or full while others of ours will come back."""
    return sqlstate == "57P03" or (alive > 0 and sqlstate.startswith(("53", "08")))
