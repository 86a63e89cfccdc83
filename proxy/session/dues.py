"""What a server owes for a client's messages, and what we ask it ourselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.session.consequences import Effect, Reason
from proxy.session.prepared import Statement
from proxy.session.returning import Woven
from proxy.wire import messages

Effects = tuple[Effect, ...]
Q, S, F, P, B, D, E, C, COPY_DONE, COPY_FAIL = b"QSFPBDECcf"
UNTIL_READY = frozenset((Q, S, F))
MARKS = frozenset((COPY_DONE, COPY_FAIL))

# Reasons that the server can be asked about, in the order of ASK's columns
ASKED = (Reason.ADVISORY, Reason.TEMPORARY, Reason.LISTEN, Reason.HOLD, Reason.PREPARED)
ASK = messages.query(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()),"
    " EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema())"
    " OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema())"
    " OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()),"
    " EXISTS (SELECT FROM pg_catalog.pg_listening_channels()),"
    " EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable),"
    " EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)")


@dataclass(slots=True)
class Due:
    """What the server owes for one message."""

    tag: int
    statements: tuple[Effects, ...] = ()
    at: int = 0                               # how many of the statements are done
    hidden: int = 0                           # how many of the first are ours
    woven: Woven | None = None                # a text of the client's with more of ours in it
    leads: bool = False                       # and a failure of it must stop what follows
    schema: bool = False                      # may change what statements mean
    known: Statement | None = None            # the prepared one that it is about
    ours: bool = False                        # nobody else is to see the answers
    spare: bool = False                       # nor is its failure of anybody's concern
    name: bytes | None = None                 # of a statement, as the client says it
    there: bytes = b""                        # and the server
    portal: bytes = b""                       # that is executed
    makes: bytes = b""                        # what the server calls a statement that this prepares
    answer: bytes | None = None               # instead of the server's acknowledgement
    undo: Callable[[], object] | None = None  # when the message was not carried out
    fails: Callable[[], object] | None = None # instead, when it was itself what failed
    texts: tuple[bytes, bytes] | None = None  # the client's and what was sent, where they differ
    pins: tuple[Reason, ...] = ()             # that there were not before it
    rows: list[bytes] = field(default_factory=list)
    error: bytes | None = None
    then: Callable[[Due], None] | None = None

    @property
    def silent(self) -> bool:
        """The client is not told what comes now."""
        return self.ours or self.at < self.hidden or (self.woven is not None and self.at in self.woven.ours)


def packed(tag: int, body: bytes) -> bytes:
    return b"%c%s%s" % (tag, (len(body) + 4).to_bytes(4), body)


def columns(row: bytes) -> list[bytes | None]:
    """Of a DataRow."""
    count, at = int.from_bytes(row[:2]), 2
    found: list[bytes | None] = []
    for _ in range(count):
        length = int.from_bytes(row[at:at + 4], signed=True)
        found.append(row[at + 4:at + 4 + length] if length >= 0 else None)
        at += 4 + max(0, length)
    return found


def booleans(row: bytes) -> tuple[bool, ...]:
    """The answers to ASK; yes to all where they are not what they should be."""
    found = tuple(value == b"t" for value in columns(row))
    return found if len(found) == len(ASKED) else (True,) * len(ASKED)
