"""The one connection of a database that listens for all clients of mode `auto` who are at rest (relay/hearing).

    join     before a client's channels leave its own connection: this one listens to them too
    marks    a NOTIFY on a channel of our own, with a token that nobody can guess: where, in the one order that all listeners
             of a database share, a client's channels have come here (between the first mark and the second its own connection
             told it too: `Hearer.heard` counts) and where they went back
    ping     an empty query: what was committed before it has been heard when it is answered

When the connection is lost another is made, listens to the same, and who depended on it is told.

Where the server's budget is spent, the first client at rest gives its own (`adopt`): it listens to that client's channels already.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from proxy.errors import ProxyError
from proxy.pool.dedicated import LISTENING, Dedicated
from proxy.pool.upstream import WOULD_BLOCK, Key, Settings, Upstream
from proxy.wire import messages

if TYPE_CHECKING:
    from proxy.pool.lane import Place
    from proxy.pool.pool import Pool

log = logging.getLogger(__name__)
MARKS = "_switchboard_" + secrets.token_hex(12)
"""The channel of our own: not to be guessed, since who sends there could shift others' channels."""

KEPT = 60.0                   # seconds that the connection outlives its last client
RETRY = 1.0, 15.0             # seconds between attempts: the first, the longest
_ENCODINGS = ("UTF8", "SQL_ASCII")
_QUIET = messages.query("SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings"
                        " WHERE name IN ('idle_session_timeout', 'statement_timeout')")
_PING = messages.query("")
_scratch = bytearray(65_536)
_MOST = 1 << 20               # bytes of a message; a payload has 8000 at most


class Hearer(Protocol):
    """A client at rest."""

    def hear(self, process: int, message: bytes) -> None:
        """A notification, for when nothing else is being told."""

    def arrived(self) -> None:
        """The second mark has come: what is heard from here on is told by nobody else."""

    def returned(self) -> None:
        """The mark has come behind which its own connection tells it."""

    def missed(self) -> None:
        """Some notifications may have been lost."""


class Ear:
    """What of a client is known here."""

    __slots__ = ("channels", "coming", "crossing", "first", "hearer", "last", "second", "there")

    def __init__(self, hearer: Hearer, channels: frozenset[str]) -> None:
        self.hearer, self.channels = hearer, channels
        self.first, self.second, self.last = (secrets.token_hex(12) for _ in "123")
        self.crossing = False                 # the first two marks have been sent
        self.there = False                    # the first has come
        self.coming = True                    # the second has not


class Listener:
    """Of one pool; made when somebody first listens."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.apart: Dedicated | None = None
        self.upstream: Upstream | None = None
        self.place: Place | None = None
        self.ears: dict[Hearer, Ear] = {}
        self.channels: dict[str, set[Ear]] = {}
        self.marks: dict[str, tuple[Ear, Callable[[Ear], None]]] = {}
        self.answers: deque[Callable[[bool], None]] = deque()          # what each ReadyForQuery is for
        self.waiting: list[tuple[Ear, Callable[[bool], None]]] = []    # until there is a connection
        self.failed_statement = False
        self.inbox = bytearray()
        self.delay = RETRY[0]
        self.later: asyncio.TimerHandle | None = None
        self.missing = False                  # the connection was lost, and some depended on it

    # -- for clients --------------------------------------------------------------------------------------

    def join(self, hearer: Hearer, channels: Iterable[str], then: Callable[[bool], None]) -> Ear:
        """Listen to these.  `then(True)` when that is so; the first mark opens the client's ear."""
        ear = self.ears[hearer] = Ear(hearer, frozenset(channels))
        self.marks[ear.first] = ear, self._opens
        self.marks[ear.second] = ear, self._closes
        for channel in ear.channels:
            self.channels.setdefault(channel, set()).add(ear)
        if self.later is not None and self.upstream is not None:
            self.later.cancel()
            self.later = None
        if self.upstream is None:
            self.waiting.append((ear, then))
            if self.place is None and self.later is None:
                self._connect()
        else:
            self._listen(ear.channels, then)
        return ear

    def goes(self, ear: Ear) -> None:
        """Its own connection is about to listen again, and sends the last mark."""
        self.marks[ear.last] = ear, self._returns
        if self.upstream is None:             # then no mark will come
            self._returns(ear)

    def forget(self, hearer: Hearer) -> None:
        """It has gone, or listens for itself again."""
        ear = self.ears.pop(hearer, None)
        if ear is None:
            return
        for token in (ear.first, ear.second, ear.last):
            self.marks.pop(token, None)
        self.waiting = [each for each in self.waiting if each[0] is not ear]
        idle = []
        for channel in ear.channels:
            others = self.channels[channel]
            others.discard(ear)
            if not others:
                del self.channels[channel]
                idle.append(channel)
        if idle and self.upstream is not None:
            self._ask("; ".join(f"UNLISTEN {quoted(channel)}" for channel in idle), lambda ok: None)
        if not self.ears and self.upstream is not None and self.later is None:
            self.later = self.pool.loop.call_later(KEPT, self._unused)

    def ping(self, then: Callable[[], None]) -> None:
        """`then()` when all that is committed now has been heard."""
        if self.upstream is None:
            then()                            # nothing will be heard: there is nothing to wait for
            return
        self.answers.append(lambda ok: then())
        self._send(_PING)

    def moves(self, pool: Pool) -> None:
        """A reload has put another pool in the place of ours, perhaps of another server."""
        before, self.pool = self.pool.target, pool
        if pool.target != before:
            self._part()

    # -- the connection -----------------------------------------------------------------------------------

    @property
    def key(self) -> Key:
        return frozenset()

    settings: Settings | None = None
    adapts = False

    def _connect(self) -> None:
        self.later = None
        if not self.ears:
            return
        place = self._dedicated().request(self)
        if not place.settled:
            self.place = place

    def _dedicated(self) -> Dedicated:
        if self.apart is None or self.apart.target != self.pool.target:
            self.apart = Dedicated(self.pool, LISTENING)
        return self.apart

    @property
    def crowded(self) -> bool:
        """There is no connection to listen with, and no room for one."""
        budget = self.pool.budget
        return self.upstream is None and budget is not None and not budget.spares_for(self.pool)

    def adopt(self, hearer: Hearer, channels: Iterable[str], upstream: Upstream) -> Ear:
        """`upstream`, which listens to these for that client, listens for all from here on."""
        ear = self.ears[hearer] = Ear(hearer, frozenset(channels))
        ear.crossing = ear.there = True
        ear.coming = False
        for channel in ear.channels:
            self.channels.setdefault(channel, set()).add(ear)
        if self.place is not None:
            self.place.pool.withdraw(self.place)
        if self.later is not None:
            self.later.cancel()
            self.later = None
        self._dedicated().adopt_one(upstream)
        self.granted(upstream)
        return ear

    def granted(self, upstream: Upstream) -> None:
        self.place = None
        if upstream.parameters.get("client_encoding") not in _ENCODINGS:
            self.apart.drop(upstream) if self.apart is not None else upstream.close()
            self._give_up(f"its client_encoding is {upstream.parameters.get('client_encoding')}")
            return
        self.upstream, self.delay = upstream, RETRY[0]
        upstream.rider = self
        self.inbox.clear()
        self.answers.append(lambda ok: None)
        self._send(_QUIET)
        waiting, self.waiting = self.waiting, []
        self._listen((MARKS, *self.channels), lambda ok: self._listens(ok, waiting))

    def _listens(self, ok: bool, waiting: list[tuple[Ear, Callable[[bool], None]]]) -> None:
        if ok and self.missing:
            self.missing = False
            log.warning("listens again", extra={"fields": {"plugin": self.pool.target.plugin, "clients": len(self.ears)}})
            for ear in [ear for ear in self.ears.values() if ear.there]:
                ear.hearer.missed()
        for ear, then in waiting:
            if self.ears.get(ear.hearer) is ear:
                then(ok)

    def failed(self, fault: ProxyError) -> None:
        self.place = None
        self._give_up(fault.message)

    def _give_up(self, why: str) -> None:
        """For now: who wanted to come stays where it is; for who is here there will be another attempt."""
        log.warning("cannot listen for clients at rest", extra={"fields": {"plugin": self.pool.target.plugin, "error": why}})
        waiting, self.waiting = self.waiting, []
        for ear, then in waiting:
            self.forget(ear.hearer)
            then(False)
        if self.ears and self.later is None:
            self.later = self.pool.loop.call_later(self.delay, self._connect)
            self.delay = min(2 * self.delay, RETRY[1])

    def _unused(self) -> None:
        self.later = None
        if not self.ears:
            self._part()

    def _part(self) -> None:
        if self.place is not None:
            self.place.pool.withdraw(self.place)
            self.place = None
        if self.upstream is not None:
            self.upstream.rider = None
            self.upstream.pool.busy.discard(self.upstream)
            self.upstream.close()
            self._lost()

    def _lost(self) -> None:
        self.upstream = None
        if self.later is not None:            # it was to end, since nobody listened: who comes now must find another
            self.later.cancel()
            self.later = None
        answers, self.answers = self.answers, deque()
        for ear in list(self.ears.values()):
            self.missing = self.missing or ear.crossing
            if ear.last in self.marks:
                ear.hearer.missed()
                self._returns(ear)
            elif ear.crossing:
                self._opens(ear)
                self._closes(ear)
        for answer in answers:
            answer(False)
        if self.ears and self.later is None and self.place is None:
            self.later = self.pool.loop.call_later(0, self._connect)

    def _listen(self, channels: Iterable[str], then: Callable[[bool], None]) -> None:
        self._ask("; ".join(f"LISTEN {quoted(channel)}" for channel in channels), then)

    def _ask(self, text: str, then: Callable[[bool], None]) -> None:
        self.answers.append(then)
        self._send(messages.query(text))

    def _send(self, data: bytes) -> None:
        upstream = self.upstream
        assert upstream is not None
        if upstream.backlog is not None:
            upstream.push(data)
            return
        try:
            sent = upstream.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            return                            # the reader will see the end
        if sent < len(data):
            upstream.push(data[sent:])

    def on_upstream_writable(self) -> None:
        """Nobody is kept from sending."""

    # -- what is heard ------------------------------------------------------------------------------------

    def upstream_event(self) -> None:
        upstream = self.upstream
        if upstream is None:
            return
        try:
            count = upstream.recv_into(_scratch)
        except WOULD_BLOCK:
            return
        except OSError:
            count = 0
        self.inbox += _scratch[:count]
        if not count or not self._read():
            log.warning("the listening connection was lost", extra={"fields": {"plugin": self.pool.target.plugin}})
            upstream.rider = None
            upstream.close()
            upstream.pool.lost(upstream)
            self._lost()
        elif upstream.tls and upstream.sock.pending():  # type: ignore[attr-defined]
            self.pool.loop.call_soon(upstream.again)

    def _read(self) -> bool:
        data, at = self.inbox, 0
        while len(data) - at >= 5:
            size = int.from_bytes(data[at + 1:at + 5])
            if not 4 <= size <= _MOST:
                return False
            if len(data) - at < size + 1:
                break
            tag, whole = data[at], bytes(data[at:at + 1 + size])
            at += size + 1
            if tag == 0x41:        # A
                self._heard(whole)
            elif tag == 0x45:      # E
                self.failed_statement = True
            elif tag == 0x5A:      # Z
                ok, self.failed_statement = not self.failed_statement, False
                if not self.answers:
                    return False
                self.answers.popleft()(ok)
                if self.upstream is None:
                    return True
        del data[:at]
        return True

    def _heard(self, whole: bytes) -> None:
        channel, payload = parts(whole)
        if channel == MARKS:
            mark = self.marks.pop(payload, None)
            if mark is not None:
                mark[1](mark[0])
            return
        process = int.from_bytes(whole[5:9])
        for ear in list(self.channels.get(channel, ())):
            if ear.there:
                ear.hearer.hear(process, whole)

    def _opens(self, ear: Ear) -> None:
        ear.there = True

    def _closes(self, ear: Ear) -> None:
        if ear.coming:
            ear.coming = False
            ear.hearer.arrived()

    def _returns(self, ear: Ear) -> None:
        self.forget(ear.hearer)
        ear.hearer.returned()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def parts(whole: bytes) -> tuple[str, str]:
    """Channel and payload of a NotificationResponse."""
    channel, _, rest = whole[9:].partition(b"\0")
    return channel.decode("utf-8", "surrogateescape"), rest[:-1].decode("utf-8", "surrogateescape")


def mark(token: str) -> str:
    return f"NOTIFY {MARKS}, '{token}'"
