"""The rules of one client riding one lease.  Hot: `from_client` and `from_upstream` see every byte.

Three facts decide whether a lease may go back: what is **owed** (each Query, Sync and FunctionCall is answered by
one ReadyForQuery), the **status** that the last ReadyForQuery told, and whether the client is **open** (extended
messages since its last Sync, or a message of which only a part has passed).

COPY bends the count: while it reads CopyData the server ignores Sync (PostgreSQL manual, "COPY Operations"), so
Syncs that were sent ahead are struck off when CopyInResponse arrives; `c` and `f` stay in the queue as marks of
where that copy ends.

Both functions take bytes `buf[:n]`, remember a split header, and return flags.  What needs thought is a flag for
the relay; nothing here knows pools or sockets.

In mode `auto` a link is **keen**: it has a set of `neutral` texts, and stops in front of any message that could leave
something in the session (THINK; `cut` is where): the relay then looks at one message after the other.

PureLink is the specification.  Where the compiled twin of its two walks is there (proxy/_hot.c), Link is that one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from proxy.errors import ClientFault, UpstreamFault
from proxy.hot import hot
from proxy.pool.tally import BOUNDS, Tally
from proxy.session.neutral import judge
from proxy.session.pins import WORDS, suspicion
from proxy.wire import messages
from proxy.wire.frames import header, skip

# Flags
IDLE = 1            # ReadyForQuery idle, nothing owed, client not open: the lease may go back
TERMINATE = 2       # the client said goodbye; `cut` is where
THINK = 4           # a statement that concerns databases: `statement` holds it.  Keen: buf[cut:] has not been walked
BEGAN = 8           # at least one whole message has passed

I, T, E = b"ITE"  # noqa: E741 - the manual's own letters
LOOKED = 4096       # bytes of an ErrorResponse or CommandComplete that are looked at: what matters comes first
LONGEST_STATUS = 65_536     # bytes; a ParameterStatus is read whole (search_path is one since PostgreSQL 18)
_SHORT = 600        # below this a chunk holds too few rows for `skip` to pay

# What a client's message means to us
REQUEST, PARSE, OPEN, BYE, COPY, COPY_END, FLUSH = 1, 2, 3, 4, 5, 6, 7
KIND = bytearray(256)
for _tag, _kind in {b"Q": REQUEST, b"S": REQUEST, b"F": REQUEST, b"P": PARSE, b"X": BYE, b"d": COPY,
                    b"c": COPY_END, b"f": COPY_END, b"H": FLUSH}.items():
    KIND[_tag[0]] = _kind
for _byte in b"BDEC":
    KIND[_byte] = OPEN

CONCERNS_DATABASES = b"database"
COPY_MARKS = frozenset(b"cf")
CONSIDERED = frozenset(b"QFPBDC")     # what a keen link looks into
ANSWERS = frozenset(b"123nTCIs")      # each answers one message of a batch
DIRTYING = (bytearray(b"SET\0"), bytearray(b"RESE"))   # how the tags of SET and RESET begin
Q, S, DATA_ROW, COPY_DATA, READY, ERROR, COPY_IN, STATUS, COMPLETE = b"QSDdZEGSC"
PARSE_TAG, BIND, EXECUTE, CLOSE, CALL = b"PBECF"


class Rules:
    """What is rare and needs Python, for either Link."""

    if not TYPE_CHECKING:
        __slots__ = ()
    else:
        tally: Tally
        watch: bool
        dirty: bool
        fatal: bool
        copying: bool
        open: bool
        owed: deque[int]
        pinned: str | None
        statement: bytes | None
        reported: list[tuple[str, str]] | None
        skipping: bool
        asked: int

    def _judge(self, text: bytes) -> bool:
        """Keen: may this text, which is not in the set, pass?"""
        return judge(text)

    def _text(self, buf: bytearray, start: int, end: int, n: int) -> int:
        """Look at a statement's text: does it concern databases, or outlive its transaction?"""
        if end > n:
            # Its rest has not come yet.  Assume the worst of what cannot be seen: a reset costs one round trip.
            self.dirty = True
            text = bytes(buf[start:n]).lower()
        else:
            text = bytes(buf[start:end]).lower()
        if self.watch and (reason := suspicion(text)) is not None:
            if reason:
                self.pin(reason)
            else:
                self.dirty = True
        if CONCERNS_DATABASES in text and len(text) < 65_536:
            self.statement = bytes(buf[start:min(end, n)])
            return THINK
        return 0

    def pin(self, reason: str) -> None:
        if not self.pinned:
            self.pinned = reason
            self.tally.pins[reason] += 1

    def _error(self, body: bytes) -> None:
        at = body.find(b"\0C")
        state = body[at + 2:at + 4].decode("ascii", "replace") if at >= 0 else "XX"
        self.tally.errors[state if state.isalnum() and len(state) == 2 else "XX"] += 1
        if body.startswith((b"SFATAL\0", b"SPANIC\0")) or b"\0VFATAL\0" in body or b"\0VPANIC\0" in body:
            self.fatal = True
        # PG manual, "Extended Query": after an ErrorResponse the server discards until Sync; a copy is over, and where it
        # ate the Sync that was sent ahead, the one that ends the discarding is still to come.
        if self.open and not self.owed:
            self.skipping = True
            self.asked = 0
        if self.copying:
            self.copying = False
            if not self.owed:
                self.open = True

    def _reported(self, body: bytes) -> None:
        if self.reported is None:
            self.reported = []
        self.reported.append(messages.parse_parameter_status(body))


class PureLink(Rules):
    __slots__ = (
        "asked", "c_left", "c_part", "copying", "cut", "dirty", "fatal", "former", "neutral", "open", "owed", "parse", "pinned",
        "quick", "reported", "since", "skipping", "statement", "status", "tally", "transaction_since", "u_left", "u_part", "used",
        "watch",
    )

    def __init__(self, tally: Tally, *, watch: bool) -> None:
        self.tally = tally
        self.watch = watch                    # transaction mode: look for what outlives a transaction
        self.owed: deque[int] = deque(maxlen=None)
        self.status = I
        self.open = False
        self.copying = False                  # the server reads CopyData now: a Sync is not answered
        self.dirty = False                    # settings were changed that we cannot name
        self.used = False
        self.pinned: str | None = None        # why the lease may not go back
        self.fatal = False                    # the server has said FATAL
        self.reported: list[tuple[str, str]] | None = None    # ParameterStatus seen since the relay last looked
        self.c_left = self.u_left = self.cut = 0
        self.c_part = self.u_part = b""
        self.since = self.transaction_since = 0.0
        self.statement: bytes | None = None
        self.neutral: set[bytes] | None = None                # keen: texts that pass
        self.parse: bytes | None = None       # keen: the message that made the unnamed statement, on this lease
        self.former: bytes | None = None      # keen: the same, of a lease before
        self.quick: dict[bytes, bytes] | None = None          # keen: prepared statements that the compiled twin lets pass
        self.asked = 0                        # keen: messages of a batch without its Sync, which await an answer
        self.skipping = False                 # an error: the server discards until Sync

    @property
    def partial(self) -> bool:
        """Only a part of a client's message has passed."""
        return bool(self.c_left or self.c_part)

    @property
    def settled(self) -> bool:
        """Nothing is owed and both directions stand between two messages."""
        return not (self.owed or self.open or self.copying or self.partial or self.u_left or self.u_part)

    def unwalk(self) -> None:
        """Forget what a client without an upstream has sent: it will be looked at once more."""
        self.owed.clear()
        self.open = self.skipping = False
        self.asked = self.c_left = 0
        self.c_part = b""

    def from_client(self, buf: bytearray, n: int) -> int:  # hot
        """Account for `buf[:n]` on its way to the upstream."""
        self.tally.from_client += n
        at = self.c_left
        if at >= n:
            self.c_left = at - n
            return BEGAN
        if self.c_part:
            return self._split_client(buf, n)
        flags = 0
        while at + 5 <= n:
            tag, size = header(buf, at)
            if size < 4 or size > 0x7FFFFFFF:
                raise ClientFault(f"invalid message length {size}")
            kind = KIND[tag]
            end = at + size + 1
            if self.neutral is not None and tag in CONSIDERED and self._stops(buf, at, n, tag, end):
                self.cut, self.c_left = at, 0
                return flags | THINK
            if kind == REQUEST:
                if tag == Q and self.neutral is None:
                    flags |= self._text(buf, at + 5, end, n)
                if not self.owed:
                    self.since = now = perf_counter()
                    if self.status == I:
                        self.transaction_since = now
                if tag != S:
                    self.owed.append(tag)
                else:
                    self.open = self.skipping = False
                    self.asked = 0
                    if not self.copying:
                        self.owed.append(tag)
                self.used = True
            elif kind == OPEN:
                self.open = True
                if tag == EXECUTE and not self.skipping:
                    self.asked += 1
            elif kind == PARSE:
                self.open = True
                if self.neutral is None:
                    flags |= self._text(buf, at + 5, end, n)
                if self.watch and self.neutral is None and not self.pinned and (at + 5 >= n or buf[at + 5]):
                    self.pin("prepared statement")
            elif kind == COPY:
                if n - at > _SHORT and size <= 255:
                    end = skip(buf, at, n, size)
                    if end == at:
                        end = at + size + 1
            elif kind == COPY_END:
                if self.copying:
                    self.copying = False
                else:
                    self.owed.append(tag)
            elif kind == BYE:
                self.cut = at
                return flags | TERMINATE
            elif kind != FLUSH:                # which opens nothing: libpq sends one behind each Sync of a pipeline
                raise ClientFault(f"invalid frontend message type {tag}")
            flags |= BEGAN
            at = end
        if at > n:
            self.c_left = at - n
        else:
            self.c_left = 0
            if at < n:
                if self.neutral is not None:
                    self.cut = at             # whose first bytes have gone cannot be held back any more
                    return flags | THINK
                self.c_part = bytes(buf[at:n])
        return flags

    def _stops(self, buf: bytearray, at: int, n: int, tag: int, end: int) -> bool:
        """Does this message need thought?  What has not come yet cannot be judged."""
        assert self.neutral is not None
        if tag == Q:
            self.parse = self.former = None   # the server forgets it too
            return end > n or not self._passes(bytes(buf[at + 5:end - 1]))
        if tag == PARSE_TAG:
            if end > n or end < at + 8 or buf[at + 5] or (self.asked and self.parse is not None):
                return True                   # the last: if something ahead of it fails, the one before it stays
            text_end = buf.find(0, at + 6, end)
            if text_end < 0 or not self._passes(bytes(buf[at + 6:text_end])):
                return True
            self.parse = bytes(buf[at:end])
        elif tag == BIND:
            name = buf.find(0, at + 5, min(end, n)) + 1
            if not name or name >= min(end, n) or buf[name] or self.parse is None:
                return True
        elif tag == CALL or at + 7 > n or end < at + 7 or (
                buf[at + 5] == S and (tag == CLOSE or buf[at + 6] or self.parse is None)):
            return True
        if not self.skipping:
            self.asked += 1
        return False

    def _passes(self, text: bytes) -> bool:
        return text in self.neutral or self._judge(text)  # type: ignore[operator]

    def _split_client(self, buf: bytearray, n: int) -> int:
        """The header that ended the last chunk goes on in this one: account for it as if it stood whole."""
        part, self.c_part = self.c_part, b""
        whole = bytearray(part)
        whole += buf[:n]
        self.tally.from_client -= n + len(part)
        flags = self.from_client(whole, len(whole))
        self.cut -= len(part)
        if flags & TERMINATE and self.cut < 0:
            self.c_part = part                # the first bytes of the goodbye have gone to the server already
            self.cut = 0
        return flags

    def from_upstream(self, buf: bytearray, n: int) -> int:  # hot
        """Account for `buf[:n]` on its way to the client."""
        self.tally.from_upstream += n
        at = self.u_left
        if at >= n:
            self.u_left = at - n
            return 0
        if self.u_part:
            part, self.u_part = self.u_part, b""
            whole = bytearray(part)
            whole += buf[:n]
            self.tally.from_upstream -= n + len(part)
            return self.from_upstream(whole, len(whole))
        flags = 0
        while at + 5 <= n:
            tag, size = header(buf, at)
            if (tag == DATA_ROW or tag == COPY_DATA) and n - at > _SHORT and size <= 255:
                jumped = skip(buf, at, n, size)
                if jumped > at:
                    at = jumped
                    continue
            if size < 4 or size > 0x7FFFFFFF:
                raise UpstreamFault(f"the server sent a message of length {size}")
            end = at + size + 1
            if tag == READY:
                if size != 5:                 # waiting for the rest of a longer one would hold it in memory
                    raise UpstreamFault(f"the server sent a ReadyForQuery of length {size}")
                if end > n:
                    break
                flags = self._ready(buf[at + 5])
            elif tag == STATUS or tag == COMPLETE or tag == ERROR:
                if tag == STATUS and size > LONGEST_STATUS:
                    raise UpstreamFault(f"the server sent a ParameterStatus of length {size}")
                seen = end if tag == STATUS or size < LOOKED else at + LOOKED
                if seen > n:
                    break                     # wait for as much as is looked at, so that a cut changes nothing
                if tag == ERROR:
                    self._error(bytes(buf[at + 5:seen]))
                elif tag == STATUS:
                    self._reported(bytes(buf[at + 5:seen]))
                elif self.watch and self.neutral is None and buf[at + 5:at + 9] in DIRTYING:
                    self.dirty = True
            elif tag == COPY_IN:
                self._copy_in()
            if self.asked and tag in ANSWERS and not self.owed:
                self.asked -= 1
            at = end
        if at > n:
            self.u_left = at - n
        else:
            self.u_left = 0
            if at < n:
                self.u_part = bytes(buf[at:n])
                flags = 0
        return flags

    def _ready(self, status: int) -> int:
        owed, tally = self.owed, self.tally
        while owed and owed.popleft() in COPY_MARKS:
            continue
        if owed and not self.open and COPY_MARKS.issuperset(owed):
            owed.clear()                      # they came late, for a COPY that had failed
        now = perf_counter()
        took = now - self.since
        tally.queries += 1
        # Histogram.observe, unrolled: it runs twice per query.
        times = tally.query_time
        bucket = bisect_left(BOUNDS, took)
        times.counts[bucket] += 1
        times.total += took
        self.since = now
        self.copying = False
        self.status = status
        if status == I:
            tally.transactions += 1
            times = tally.transaction_time
            whole = now - self.transaction_since
            times.counts[bucket if whole == took else bisect_left(BOUNDS, whole)] += 1
            times.total += whole
            self.transaction_since = now
            if not owed and not self.open and not self.c_left and not self.c_part:
                return IDLE
        return 0

    def _copy_in(self) -> None:
        """Strike off the Syncs that this COPY eats: those between its own request and the mark of its end."""
        kept: deque[int] = deque()
        owed = self.owed
        if owed and owed[0] in COPY_MARKS:
            owed.popleft()                    # sent whole, without a Sync before its data
            return
        if owed and owed[0] != S:
            kept.append(owed.popleft())       # a simple Query: its own ReadyForQuery is still to come
        while owed and owed[0] == S:
            owed.popleft()
        if owed and owed[0] in COPY_MARKS:
            owed.popleft()
        else:
            self.copying = True
        kept.extend(owed)
        self.owed = kept


if TYPE_CHECKING or hot is None:
    Link = PureLink
else:
    hot.set_faults(ClientFault, UpstreamFault)
    hot.set_words(WORDS, (CONCERNS_DATABASES,))

    class Link(Rules, hot.Link):
        __slots__ = ()
