"""What one MySQL client and its server owe each other, seen from the headers of the packets between them.  Hot.

A command is a packet with sequence 0 where one is due; its first byte says what kind of answer follows.  Answers are walked
packet by packet: OK, ERR, or a result set (definitions, rows, an end), one after the other while the server says that more
come.  Nothing is copied, and of a packet at most its first HEAD bytes are looked at.

`from_client` stops in front of a command that needs thought (USE, KILL, a goodbye, what is refused): everything up to `cut`
may go on to the server.  Where a packet is split behind its header, so that nobody can tell yet, `cut` is in front of it too.
MySQL Internals, "Command Phase".
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from time import perf_counter
from typing import TYPE_CHECKING, Any

from proxy.errors import ClientFault, UpstreamFault
from proxy.hot import hot
from proxy.pool.tally import Tally
from proxy.session.link import I
from proxy.session.mysql_commands import BRIEF
from proxy.wire.mysql import Can, Command

T = ord("T")                       # in a transaction, as PostgreSQL says it
THINK, ENDED = 1, 2                # outcomes: of from_client, of from_upstream
HEAD = 32                          # of an OK packet: two numbers of up to nine bytes, then the status
_WHOLE = 0xFFFFFF
_MORE, _CURSOR, _IN_TRANSACTION = 0x0008, 0x0040, 0x2001
_word = Struct("<I").unpack_from

# Kinds of answers
RESULTS, SINGLE, ROWS, PREPARED, NONE = range(5)
# Where in an answer the walk is
FIRST, DEFINITIONS, IN_ROWS, COUNTED = range(4)
KINDS = [RESULTS] * 256
for command, kind in ((Command.STATISTICS, SINGLE), (Command.FIELD_LIST, ROWS), (Command.STMT_FETCH, ROWS),
                      (Command.STMT_PREPARE, PREPARED), (Command.STMT_CLOSE, NONE), (Command.STMT_SEND_LONG_DATA, NONE)):
    KINDS[command] = kind
THOUGHTFUL = bytearray(256)
for command in (Command.QUIT, Command.INIT_DB, Command.PROCESS_KILL, Command.CHANGE_USER, Command.BINLOG_DUMP, Command.TABLE_DUMP,
                Command.REGISTER_SLAVE, Command.BINLOG_DUMP_GTID, Command.MULTI, Command.SET_OPTION):
    THOUGHTFUL[command] = 1
# How a text begins that may be USE or KILL: with their letters, with space, or with a comment.
_TELLING = bytearray(256)
for byte in b"uUkK \t\n\r\x0b\x0c/-#(;":
    _TELLING[byte] = 1


class PureRide:
    """What the compiled twin of the usual events (proxy/_hot.c) reads and writes, and who drives it reads too."""

    __slots__ = ("_continues", "_left", "_phase", "_up_continues", "_up_left", "_up_part", "backlog", "big", "big_up", "copying",
                 "draining", "eof", "fd", "held", "kinds", "owed", "plain", "since", "status", "striking", "tally",
                 "transaction_since", "up_fd", "up_sequence", "used")
    held: bytes
    backlog: bytearray | None
    striking: Any
    fd: int
    up_fd: int                                # the upstream's socket while one is ridden, else -1
    plain: bool                               # neither side has TLS
    draining: bool
    big: bool
    big_up: bool

    def set_up(self, tally: Tally, kinds: deque[int], eof: bool) -> None:
        self.tally, self.kinds, self.eof = tally, kinds, eof


if TYPE_CHECKING or hot is None:
    Ride = PureRide
else:
    Ride = hot.MysqlRide


class Link(Ride):
    __slots__ = ("_column_count", "cut", "told")

    def __init__(self, tally: Tally, capabilities: Can) -> None:
        # The answers that are owed, by their kind, the next first; whether definitions end in an EOF packet of their own.
        self.set_up(tally, deque(), not capabilities & Can.DEPRECATE_EOF)
        self.owed = 0
        self.status = I
        self.used = False                     # has asked for anything
        self.told = False                     # the server has said its last words
        self.copying = False                  # LOAD DATA LOCAL: the client's packets are a file
        self.cut = 0
        self.since = 0.0                      # when the oldest unanswered command began, or the last answer ended
        self.transaction_since = 0.0
        self.up_sequence = 0                  # of the server's last packet
        self._left = 0                        # of the client's packet, still to come
        self._continues = False               # its packet goes on in the next one
        self._up_left = 0
        self._up_part = b""
        self._up_continues = False
        self._phase = FIRST
        self._column_count = 0                # definitions still to come

    # -- client -> server ---------------------------------------------------------------------------------

    @property
    def partial(self) -> bool:
        """Is the client in the middle of a packet?"""
        return self._left > 0 or self._continues or self.copying

    def from_client(self, data: bytearray, n: int) -> int:  # hot
        """Walk `data[:n]`.  Returns THINK where it stopped at `cut` < n, or 0.  Raises ClientFault."""
        at = self._left
        if at >= n:
            self._left = at - n
            self.cut = n
            return 0
        self._left = 0
        while at < n:
            if n - at < 4:
                self.cut = at
                return THINK                  # not even a header: what comes next will tell
            word, = _word(data, at)
            length = word & _WHOLE
            if self._continues or self.copying:
                if not self._continues and not length:
                    self.copying = False      # the empty packet at a file's end
                self._continues = length == _WHOLE
            else:
                if word >> 24:
                    raise ClientFault("Got packets out of order")
                if not length:
                    raise ClientFault("malformed packet: no command")
                if n - at < 6 and length > 1:
                    self.cut = at
                    return THINK
                if n - at < 5:
                    self.cut = at
                    return THINK
                command = data[at + 4]
                if THOUGHTFUL[command] or (command == 3 and 1 < length <= BRIEF and _TELLING[data[at + 5]]
                                           and not (n - at > 6 and data[at + 5] in b"uU" and data[at + 6] not in b"sS")):
                    self.cut = at
                    return THINK
                self._continues = length == _WHOLE
                self.begin(KINDS[command])
            at += 4 + length
        self._left = at - n
        self.cut = n
        return 0

    def begin(self, kind: int) -> None:  # hot
        """A command goes to the server."""
        self.used = True
        if kind != NONE:
            if not self.owed:
                self.since = perf_counter()
                if self.status == I:
                    self.transaction_since = self.since
            self.kinds.append(kind)
            self.owed += 1

    def pass_on(self, length: int, command: int) -> None:
        """A command that was thought about, of `length` bytes, goes on as it is."""
        self._continues = length == _WHOLE
        self.begin(KINDS[command])

    # -- server -> client ---------------------------------------------------------------------------------

    def from_upstream(self, data: bytearray, n: int) -> int:  # hot
        """Walk `data[:n]`.  Returns ENDED when nothing is owed any more.  Raises UpstreamFault."""
        at = self._up_left
        if at >= n:
            self._up_left = at - n
            return 0 if at > n or self.owed or self._up_continues else ENDED
        self._up_left = 0
        if self._up_part:
            # The beginning of a packet came before: look at it with what has come now.
            had = len(self._up_part)
            joined = self._up_part + data[:min(n, HEAD + 4)]
            size = len(joined)
            need = _needed(joined, size)
            if size < need:
                self._up_part = bytes(joined)
                return 0
            self._up_part = b""
            word, = _word(joined, 0)
            self._packet(joined, 0, word)
            at = 4 + (word & _WHOLE) - had
        while n - at >= 4:
            if hot is not None and self._phase == IN_ROWS and not self._up_continues:
                at, sequence = divmod(hot.mysql_rows(data, at, n), 256)
                self.up_sequence = sequence or self.up_sequence
                if n - at < 4:
                    break
            word, = _word(data, at)
            length = word & _WHOLE
            if self._phase == IN_ROWS and not self._up_continues and n - at > 4 and length != _WHOLE and data[at + 4] < 0xFE:
                at += 4 + length              # a row, by far the most
                self.up_sequence = word >> 24
                continue
            if n - at < 4 + (length if length < HEAD else HEAD):
                break
            self._packet(data, at, word)
            at += 4 + length
        if at == n:
            return 0 if self.owed or self._up_continues else ENDED
        if at < n:
            self._up_part = bytes(data[at:n])
        else:
            self._up_left = at - n
        return 0

    def _packet(self, data: bytes | bytearray, at: int, word: int) -> None:  # hot
        """One packet whose beginning is at hand."""
        length, self.up_sequence = word & _WHOLE, word >> 24
        continued, self._up_continues = self._up_continues, length == _WHOLE
        if continued:
            return
        at += 4
        first = data[at] if length else -1
        if not self.owed:
            if first != 0xFF:
                raise UpstreamFault("the server sent a packet that nobody asked for")
            self.noted(data, at, length)      # its last words: a timeout of its own, a shutdown, a KILL
        elif first == 0xFF and length < _WHOLE:
            self.noted(data, at, length)
            self._end(None)
        elif self._phase == IN_ROWS:
            if first == 0xFE and length < (9 if self.eof else _WHOLE):
                self._finish(data, at, length)
        elif self._phase == FIRST:
            self._first(data, at, length, first)
        elif self._column_count:
            self._column_count -= 1
            if self._column_count:
                return
            if self._phase == COUNTED:
                self._end(None)
            elif not self.eof:
                self._phase = IN_ROWS
        elif first == 0xFE and length >= 5 and data[at + 3] & _CURSOR:
            self._finish(data, at, length)    # rows are for COM_STMT_FETCH to ask for
        else:
            self._phase = IN_ROWS             # the EOF behind definitions

    def _first(self, data: bytes | bytearray, at: int, length: int, first: int) -> None:  # hot
        """The first packet of an answer, or of one more result."""
        kind = self.kinds[0]
        if kind == RESULTS:
            if first == 0 or first == 0xFE:
                self._finish(data, at, length)
            elif first == 0xFB:
                self.copying = True
            elif first < 0 or length < (1 if first < 0xFC else first - 0xF9):
                raise UpstreamFault("the server sent a malformed result")
            else:
                self._column_count = first if first < 0xFB else int.from_bytes(data[at + 1:at + (3 if first == 0xFC else 4)], "little")
                self._phase = DEFINITIONS
        elif kind == ROWS:
            if first == 0xFE and length < (9 if self.eof else _WHOLE):
                self._finish(data, at, length)
            else:
                self._phase = IN_ROWS
        else:
            self._column_count = 0
            if kind == PREPARED and length >= 12:
                columns, parameters = data[at + 5] | data[at + 6] << 8, data[at + 7] | data[at + 8] << 8
                self._column_count = columns + parameters + self.eof * ((columns > 0) + (parameters > 0))
            if self._column_count:
                self._phase = COUNTED
            else:
                self._end(None)               # a text (COM_STATISTICS), or a statement without rows and parameters

    def _finish(self, data: bytes | bytearray, at: int, length: int) -> None:  # hot
        """An OK or EOF packet: what it says of the session, and whether more results follow."""
        if length < 7:
            if length < 5:
                self._end(None)               # an EOF of old
                return
            status = data[at + 3] | data[at + 4] << 8
        else:
            end = at + length
            at += 1
            for _ in range(2):
                mark = data[at] if at < end else 0
                at += 1 if mark < 0xFB else 3 if mark == 0xFC else 4 if mark == 0xFD else 9
            if at + 2 > end:
                raise UpstreamFault("the server sent a malformed OK packet")
            status = data[at] | data[at + 1] << 8
        if status & _MORE:
            self._phase = FIRST
            self.status = T if status & _IN_TRANSACTION else I
        else:
            self._end(status)

    def _end(self, status: int | None) -> None:  # hot
        """An answer is whole."""
        self._phase = FIRST
        self.copying = False
        tally = self.tally
        now = perf_counter()
        tally.queries += 1
        tally.query_time.observe(now - self.since)
        if status is not None:
            self.status = T if status & _IN_TRANSACTION else I
        if self.status == I:
            tally.transactions += 1
            tally.transaction_time.observe(now - self.transaction_since)
            self.transaction_since = now
        self.since = now
        self.kinds.popleft()
        self.owed -= 1

    def noted(self, data: bytes | bytearray, at: int, length: int) -> None:
        """An ERR packet."""
        state = bytes(data[at + 4:at + 6]) if length > 8 and data[at + 3] == 0x23 else b"HY"
        self.tally.errors[state.decode("ascii", "replace")] += 1
        self.told = not self.owed

    @property
    def answering(self) -> bool:
        """Has a part of an answer been sent?"""
        return self._phase != FIRST

    @property
    def between(self) -> bool:
        """Is the server between two packets?"""
        return not (self._up_left or self._up_part or self._up_continues)


def _needed(data: bytes, size: int) -> int:
    return 4 + min(HEAD, int.from_bytes(data[:3], "little")) if size >= 4 else 4
