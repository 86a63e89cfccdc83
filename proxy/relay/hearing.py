"""LISTEN without a connection of one's own: channels of a client at rest move to the connection that listens for all.

Nothing of LISTEN is imitated.  A client listens on its upstream like anybody; when it rests, and nothing else keeps the
upstream, its channels move to the pool's Listener and the lease goes back (**away**).  Before anything that could be about
channels, or begin a transaction in which something is, they move back, and the server itself does what is asked.  Two marks
in the database's one order of notifications say where each side begins and ends, so none is told twice or left out.

    staying -> asked -> joining -> joined -> crossing -> away -> returning -> staying

While it is away, a request waits until all that was committed before it has been heard, and so does its ReadyForQuery: as a
server tells notifications of others ahead of an answer, and its own ahead of its end.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.errors import ClientFault, ProxyError, UpstreamRefused
from proxy.pool.listener import MARKS, Ear, Listener, mark, parts, quoted
from proxy.pool.pool import Pool
from proxy.pool.tally import Tally
from proxy.pool.upstream import Key, Settings, Upstream
from proxy.relay.attention import Attention
from proxy.session.consequences import Configure, Effect, Notify, OwnPid, OwnState, Reason, Reset, Set, What
from proxy.session.dues import UNTIL_READY, Due
from proxy.wire import messages

REST = 0.2                    # seconds after which a client that listens is at rest, if nobody waits for its upstream
NO_MARK = 10.0                # seconds after which a mark is lost
MOST_UNREAD = 16 << 20        # bytes of notifications that a client has not read, before it is cut off
MOST_AHEAD = 1 << 20          # bytes of a batch that are looked at before it begins
_EXTENDED = frozenset(b"PBDECH")
_S = b"S"[0]
_QUESTION = "SELECT pg_catalog.encode(pg_catalog.convert_to(c, 'UTF8'), 'hex') FROM pg_catalog.pg_listening_channels() AS c"
_MISSED = messages.fields(b"N", {
    "S": "WARNING", "V": "WARNING", "C": "01000", "M": "notifications may have been lost",
    "D": "The connection that listens for the clients of this database was lost, and has been made again."})


class Step(enum.Enum):
    STAYING = "staying"
    ASKED = "asked"               # the server, which channels there are
    JOINING = "joining"           # the Listener is about to listen to them
    JOINED = "joined"
    CROSSING = "crossing"         # the first two marks are on their way
    AWAY = "away"
    RETURNING = "returning"       # the last mark is on its way


class Hearing(Attention):
    """The half of an Attentive that has ears."""

    __slots__ = ("abreast", "away", "behind", "catching_up", "collected", "counted", "counting", "crossed", "ear", "heard",
                 "listener", "pings", "readies", "rest_timer", "steady", "step")

    def __init__(self, sock: socket.socket, pool: Pool, tally: Tally, key: Key, settings: Settings | None,
                 concerns_databases: Callable[[bytes], None]) -> None:
        super().__init__(sock, pool, tally, key, settings, concerns_databases)
        self.listener: Listener | None = None
        self.ear: Ear | None = None
        self.step = Step.STAYING
        self.away = False
        self.steady = False                   # it could not move: not again
        self.heard = bytearray()              # notifications, until they may be told
        self.behind: deque[bytearray] | None = None    # what is told behind them
        self.pings = self.readies = 0
        self.catching_up: Upstream | None = None       # it has boarded this, and waits for what was committed there before it
        self.abreast: Upstream | None = None           # and here it has heard that
        self.counting = self.crossed = False
        self.counted = 0                      # notifications between the first two marks, told by its own connection
        self.collected: list[bytes] | None = None      # the same and what follows, heard by the Listener
        self.rest_timer: asyncio.TimerHandle | None = None

    # -- there --------------------------------------------------------------------------------------------

    def _at_rest(self) -> bool:
        """Nothing is going on, and nothing but its channels keeps the upstream."""
        account, upstream = self.account, self.upstream
        return (self.attention and upstream is not None and upstream.backlog is None and account.quiet and account.status == b"I"
                and not (self.inbox or self.owed or self.open or self.copying or self.partial or self.passing or self.u_passing
                         or self.u_inbox or self.draining or self.leaving or self._done.done())
                and set(account.pins) == {Reason.LISTEN} and account.told.get("client_encoding") in ("UTF8", "SQL_ASCII")
                and not self.pool.retired)

    def _consider(self) -> None:
        """At rest, with channels: the next step on the way."""
        if self.steady or not self._at_rest():
            return
        if self.step is Step.STAYING:
            if self.pool.waiting:
                self._ask_for_channels()
            elif self.rest_timer is None:
                self.rest_timer = self.loop.call_later(REST, self._rested)
        elif self.step is Step.JOINED:
            self._cross()

    def _rested(self) -> None:
        self.rest_timer = None
        if self.step is Step.STAYING and not self.steady and self._at_rest():
            self._ask_for_channels()

    def _ask_for_channels(self) -> None:
        self.step = Step.ASKED
        self._send(self.account.inquire(_QUESTION, self._know_channels))

    def _know_channels(self, due: Due) -> None:
        try:
            channels = [bytes.fromhex(row[6:].decode("ascii")).decode() for row in due.rows]
        except ValueError:
            channels = [MARKS]
        if due.error is not None or MARKS in channels:
            self._stay(forever=True)
        elif not channels:
            self.step = Step.STAYING
            self.account.pins.pop(Reason.LISTEN, None)
        elif self.step is Step.ASKED:
            self.step = Step.JOINING
            if self.pool.listener is None:
                self.pool.listener = Listener(self.pool)
            self.listener = self.pool.listener
            if self.listener.crowded:
                self.loop.call_soon(self._hand_over, channels)
                return
            self.ear = self.listener.join(self, channels, self._joined)

    def _hand_over(self, channels: list[str]) -> None:
        """No connection can be had to listen with: ours becomes it, as it is."""
        upstream, listener = self.upstream, self.listener
        if self.step is not Step.JOINING or self._done.done():
            return
        if listener is None or upstream is None or not self._at_rest():
            self._stay()
            return
        if not listener.crowded:               # another was faster
            self.ear = listener.join(self, channels, self._joined)
            return
        self.account.pins.pop(Reason.LISTEN, None)
        self.step, self.away = Step.AWAY, True
        self._give_away(upstream)
        self.ear = listener.adopt(self, channels, upstream)

    def _joined(self, ok: bool) -> None:
        if self.step is not Step.JOINING:
            return
        if not ok:
            self._stay(forever=True)
            return
        self.step = Step.JOINED
        self._advance()

    def _cross(self) -> None:
        ear = self.ear
        assert ear is not None
        if self.listener is None or self.listener.upstream is None:
            self._stay()
            return
        self.step, ear.crossing = Step.CROSSING, True
        self.counting, self.crossed, self.counted, self.collected = False, False, 0, []
        self.account.overhears = self._overhear
        first = self.account.inquire(f"LISTEN {MARKS}; {mark(ear.first)}", lambda due: None)
        self._send(first + self.account.inquire(f"UNLISTEN *; {mark(ear.second)}", self._has_crossed))
        self.loop.call_later(NO_MARK, self._no_mark, ear)

    def _overhear(self, whole: bytes) -> bytes:
        """What its own connection tells meanwhile."""
        channel, token = parts(whole)
        if channel == MARKS:
            self.counting = self.counting or (self.ear is not None and token == self.ear.first)
            return b""
        self.counted += self.counting
        return self.account.notification(int.from_bytes(whole[5:9]), whole)

    def _has_crossed(self, due: Due) -> None:
        if due.error is not None:
            self._stay(forever=True)
            self._send(self.account.inquire(f"UNLISTEN {MARKS}", lambda due: None))
            return
        self.account.overhears = None
        self.account.pins.pop(Reason.LISTEN, None)
        self.step, self.away, self.crossed = Step.AWAY, True, True
        self._merge()

    def arrived(self) -> None:
        self._merge()

    def _merge(self) -> None:
        """Both marks are behind both sides: what has not been told yet is told here."""
        if self.collected is None or self.ear is None or self.ear.coming or not self.crossed:
            return
        rest, self.collected = self.collected[self.counted:], None
        for whole in rest:
            self._tell_or_keep(whole)

    def _stay(self, *, forever: bool = False) -> None:
        self.steady = self.steady or forever
        self.step, self.collected = Step.STAYING, None
        if self.listener is not None:
            self.listener.forget(self)
        self.ear = None

    def _no_mark(self, ear: Ear) -> None:
        """It never came: the two connections do not end at one server."""
        if self.ear is not ear or self._done.done():
            return
        if self.step is Step.RETURNING:
            self.missed()
            if self.listener is not None:
                self.listener.forget(self)
            self.returned()
        elif ear.coming and self.crossed:
            ear.coming, self.steady = False, True
            self._merge()
            self.missed()

    # -- away ---------------------------------------------------------------------------------------------

    def hear(self, process: int, message: bytes) -> None:
        whole = self.account.notification(process, message)
        if self.collected is not None:
            self.collected.append(whole)
        else:
            self._tell_or_keep(whole)

    def missed(self) -> None:
        self._tell_or_keep(_MISSED)

    def _tell_or_keep(self, whole: bytes) -> None:
        """Servers tell nothing in the middle of a request."""
        self.heard += whole
        if self.upstream is None and self.behind is None:
            self._tell_heard()

    def _tell_heard(self) -> None:
        told = bytes(self.heard)
        self.heard.clear()
        self._say(told)
        if self.backlog is not None and len(self.backlog) > MOST_UNREAD:
            self.finish("client does not read", ClientFault("terminating connection because notifications are not read"))

    def _put(self, out: bytearray, told: bytes | bytearray) -> None:
        """What the server has said, in its order behind what is heard."""
        ready = self.account.readies != self.readies
        self.readies = self.account.readies
        waits = ready and self.step is Step.AWAY
        if self.behind is None:
            if not waits:
                out += told
                return
            self.behind = deque((bytearray(),))
        self.behind[-1] += told
        if waits and self.listener is not None:
            self.behind.append(bytearray())
            self.pings += 1
            self.loop.call_soon(self.listener.ping, self._pong)

    def _pong(self) -> None:
        """What was committed before the answer has been heard."""
        self.pings -= 1
        if self.behind is None or self._done.done():
            return
        told = self.heard + self.behind.popleft()
        self.heard.clear()
        if not self.pings and self.step is not Step.RETURNING:
            while self.behind:
                told += self.behind.popleft()
            self.behind = None
        self._tell(bytes(told))
        self._go_on()

    def _tell(self, data: bytes) -> None:
        if self.upstream is not None:
            self._tell_client(data)
        elif data:
            self._say(data)

    def _is_abreast(self, upstream: Upstream) -> bool:
        """Has all been heard that this server process notified of for others?  From then on it is our client's own."""
        if self.abreast is not upstream and self.catching_up is not upstream and self.listener is not None:
            self.catching_up = upstream
            self.loop.call_soon(self.listener.ping, functools.partial(self._has_caught_up, upstream))
        return self.abreast is upstream

    def _has_caught_up(self, upstream: Upstream) -> None:
        if self._done.done() or self.upstream is not upstream or self.catching_up is not upstream:
            return
        self.abreast, self.catching_up = upstream, None
        if self.heard and self.behind is None:
            told = bytes(self.heard)
            self.heard.clear()
            self._tell_client(told)            # as servers do: ahead of the answer
        self._advance()

    def _go_on(self) -> None:
        if self.behind is None and self.upstream is not None and not self._done.done():
            self._settled()

    def _stays_plain(self, tag: int, effects: tuple[Effect, ...]) -> bool:
        """May it be done while the channels are away?  If not, they come back first, and this is asked again."""
        if not self.away:
            if self.step in (Step.ASKED, Step.JOINING, Step.JOINED):
                self._stay()
            return True
        account = self.account
        if self.open or (account.dues and account.dues[-1].tag not in UNTIL_READY):
            return True                       # in the middle of a batch that was looked at as a whole
        if all(map(_plain, effects)) and (tag not in _EXTENDED or self._plain_to_sync()):
            return True
        if self.step is Step.AWAY and self.behind is None and account.quiet and not self.owed and account.status == b"I":
            self._return()
        return False

    def _plain_to_sync(self) -> bool:
        """Is the batch that begins here, and is here to its end?"""
        inbox, at = self.inbox, 0
        while len(inbox) - at >= 5:
            tag, end = inbox[at], at + 1 + int.from_bytes(inbox[at + 1:at + 5])
            if tag == _S:
                return True
            if end > min(len(inbox), MOST_AHEAD) or not all(map(_plain, self.account.meant(tag, bytes(inbox[at + 5:end])))):
                return False
            at = end
        return False

    def _return(self) -> None:
        ear, listener = self.ear, self.listener
        assert ear is not None
        assert listener is not None
        self.step = Step.RETURNING
        self.behind = deque((bytearray(),))
        self.counting = False
        self.account.overhears = functools.partial(self._overhear_again, ear.last)
        listening = "; ".join(f"LISTEN {quoted(channel)}" for channel in (MARKS, *sorted(ear.channels)))
        first = self.account.inquire(f"{listening}; {mark(ear.last)}", _must_succeed)
        self._send(first + self.account.inquire(f"UNLISTEN {MARKS}", self._listens_itself))
        listener.goes(ear)
        self.loop.call_later(NO_MARK, self._no_mark, ear)

    def _overhear_again(self, last: str, whole: bytes) -> bytes:
        """A server begins with what others were about to commit: what comes ahead of the mark is told from the other side."""
        channel, token = parts(whole)
        self.counting = self.counting or (channel == MARKS and token == last)
        return self.account.notification(int.from_bytes(whole[5:9]), whole) if self.counting and channel != MARKS else b""

    def _listens_itself(self, due: Due) -> None:
        _must_succeed(due)
        self.away = False
        self.account.overhears = None
        self.account.pin(Reason.LISTEN, "channels")
        if self.ear is None:
            self.step = Step.STAYING

    def returned(self) -> None:
        self.ear = None
        if not self.away:
            self.step = Step.STAYING
        if self.behind is None or self._done.done():
            return
        told = self.heard + b"".join(self.behind)
        self.heard.clear()
        self.behind = None
        self._tell(bytes(told))
        self.loop.call_soon(self._go_on)

    def finish(self, reason: str, fault: ProxyError | None = None) -> None:
        if self.behind is not None and not self._done.done():
            told = self.heard + b"".join(self.behind)
            self.behind = None
            self._say(bytes(told))
        super().finish(reason, fault)

    def _hear_no_more(self) -> None:
        if self.rest_timer is not None:
            self.rest_timer.cancel()
        if self.listener is not None:
            self.listener.forget(self)

    if TYPE_CHECKING:
        def _settled(self) -> None: ...
        def _give_away(self, upstream: Upstream) -> None: ...


def _must_succeed(due: Due) -> None:
    if due.error is not None:
        raise UpstreamRefused(messages.parse_fields(due.error))


def _plain(effect: Effect) -> bool:
    """It has nothing to do with channels, and begins nothing."""
    match effect:
        case Notify() | OwnPid():
            return True
        case OwnState(what):
            return what is not What.CHANNELS
        case Set(name, _, local) | Configure(name, _, local):
            return not local and name != "client_encoding"
        case Reset(name):
            return name != "client_encoding"
    return False


