"""One connection to a database server: how it is made, and what it does while nobody rides it.

After login it is a raw non-blocking socket that is registered with the loop once, for life.  With a rider its events
are the rider's; without one it runs **chores** (reset, ROLLBACK, settings, a health check): statements of our own
whose answers are swallowed here.  Anything unasked on an idle upstream (an error, the end) means that it is broken.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from proxy.config.mode import Mode
from proxy.config.target import Session, Target
from proxy.errors import UpstreamFault, UpstreamRefused
from proxy.hot import hot
from proxy.net.readers import readers
from proxy.net.stream import Stream
from proxy.pool.hosts import role_of
from proxy.pool.reach import Reached
from proxy.session.parameters import State, difference
from proxy.wire import messages

if TYPE_CHECKING:
    from proxy.pool.pool import Pool

# Reported by the server, so their value is always known: these can differ between clients of one upstream.
TRACKED = ("client_encoding", "DateStyle", "TimeZone", "IntervalStyle", "standard_conforming_strings",
           "application_name", "search_path")
Settings = tuple[str | None, ...] | State       # what servers report of TRACKED; in mode `auto` all that a session was told
Key = frozenset[tuple[str, str]]
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
TERMINATE = messages.message(b"X")
_scratch = bytearray(65_536)
MAX_CHORE = 1 << 20
REMEMBERED = 64             # closed connections whose notifications may still be under way
AT_ONCE = 1e-9              # an `expires` that has always passed

_interned: dict[Settings, Settings] = {}


def intern(settings: Settings) -> Settings:
    """Equal settings are one object, so that the hot comparison is `is`."""
    if len(_interned) > 10_000:
        _interned.clear()
    return _interned.setdefault(settings, settings)


class Rider(Protocol):
    def upstream_event(self) -> None: ...
    def on_upstream_writable(self) -> None: ...


class PureEar:
    """What an upstream hears goes to its rider, or is for itself.  What the hot path reads of it stands here."""

    __slots__ = ("broken", "cancels", "expires", "fd", "idle_since", "key", "last_pid", "prepared", "reading", "rider", "settings",
                 "sock", "tls")
    rider: Rider | None
    sock: socket.socket
    key: Key
    settings: Settings
    idle_since: float
    expires: float
    cancels: int
    last_pid: int                              # what the last rider's client takes for its process id
    fd: int
    prepared: OrderedDict[bytes, None]         # mode `auto`: names of statements, the least lately used first
    tls: bool
    reading: bool
    broken: bool

    def on_readable(self) -> None:
        if self.rider is not None:
            self.rider.upstream_event()
        else:
            self._unridden()

    if TYPE_CHECKING:
        def _unridden(self) -> None: ...


if TYPE_CHECKING or hot is None:
    Ear = PureEar
else:
    Ear = hot.Ear


class Upstream(Ear):
    __slots__ = ("__weakref__", "_answers", "_chore_left", "_late", "_then", "backlog", "born", "dirty", "fresh", "loop",
                 "parameters", "pid", "pool", "readers", "recv_into", "refusal", "route", "secret", "send", "shown")

    goodbye = TERMINATE

    def __init__(self, pool: Pool, reached: Reached, key: Key, now: float) -> None:
        self.pool = pool
        sock, welcome = reached.sock, reached.welcome
        self.route = reached.route
        self.sock = sock
        self.fd = sock.fileno()
        self.recv_into = sock.recv_into
        self.send = sock.send
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.loop = asyncio.get_running_loop()
        self.readers = readers(self.loop)
        self.key = key
        self.parameters = welcome.parameters
        self.prepared = OrderedDict()
        self.settings = intern(State(role=pool.target.role) if pool.settings.mode is Mode.AUTO
                               else tuple(map(welcome.parameters.get, TRACKED)))
        self.fresh = self.settings               # what the login reported
        self.refusal: UpstreamRefused | None = None    # why a chore failed
        self.pid, self.secret = welcome.pid, welcome.secret
        self.shown = False                       # its own cancel key has been given to a client
        self.rider = None
        self.backlog: bytearray | None = None    # what the socket would not take yet
        self.reading = False
        self.broken = False
        self.dirty = False
        self.last_pid = 0
        self.cancels = 0                         # cancel requests in flight against it
        self.born = self.idle_since = now
        lifetime = pool.settings.lifetime
        self.expires = now + lifetime * (1 - random.random() * pool.settings.lifetime_jitter) if lifetime else 0.0
        self._then: Callable[[bool], None] | None = None
        self._chore_left = 0
        self._answers = bytearray()
        self._late: asyncio.TimerHandle | None = None
        self.resume()

    def resume(self) -> None:
        if not self.reading and not self.broken:
            self.reading = True
            self.readers.add(self.fd, self.on_readable)
            if self.tls and self.sock.pending():  # type: ignore[attr-defined]
                self.loop.call_soon(self.again)

    def again(self) -> None:
        """What TLS has decrypted already raises no event."""
        if self.reading:
            self.on_readable()

    def pause(self) -> None:
        if self.reading:
            self.reading = False
            self.readers.remove(self.fd)

    # -- writing ------------------------------------------------------------------------------------------

    def push(self, data: bytes | memoryview) -> None:
        """Keep what a short send left; the rider stops reading its client until this has gone."""
        if self.backlog is None:
            self.backlog = bytearray(data)
            self.loop.add_writer(self.fd, self._writable)
        else:
            self.backlog += data

    def _writable(self) -> None:
        assert self.backlog is not None
        try:
            sent = self.send(self.backlog)
        except WOULD_BLOCK:
            return
        except OSError:
            self.loop.remove_writer(self.fd)     # the reader will see the end and tell
            return
        del self.backlog[:sent]
        if not self.backlog:
            self.backlog = None
            self.loop.remove_writer(self.fd)
            if self.rider is not None:
                self.rider.on_upstream_writable()

    # -- chores -------------------------------------------------------------------------------------------

    def run(self, statements: Sequence[str], then: Callable[[bool], None], deadline: float = 0.0) -> None:
        """Run statements of ours, one ReadyForQuery each; `then(ok)` when all have been answered, or after `deadline`
        seconds (0: none) with not ok: a dead peer on a half-dead network says nothing."""
        self._then, self._chore_left = then, self.replies(statements)
        if deadline:
            self._late = self.loop.call_later(deadline, self._lost)
        data = b"".join(map(self.worded, statements))
        try:
            sent = self.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self._chore_done(False)
            return
        if sent < len(data):
            self.push(data[sent:])

    def replies(self, statements: Sequence[str]) -> int:
        """How many answers they get."""
        return len(statements)

    def worded(self, statement: str) -> bytes:
        """A statement of ours as this wire says it."""
        return messages.query(statement)

    def _unridden(self) -> None:
        try:
            count = self.recv_into(_scratch)
        except WOULD_BLOCK:
            return
        except OSError:
            count = 0
        if not count:
            self._lost()
            return
        self._answers += _scratch[:count]
        if self.tls and self.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(self.again)
        self._read_answers()

    def _read_answers(self) -> None:
        data, at, bad = self._answers, 0, False
        while len(data) - at >= 5:
            size = int.from_bytes(data[at + 1:at + 5])
            if not 4 <= size <= MAX_CHORE:
                bad = True
                break
            if len(data) - at < size + 1:
                break
            tag, body = data[at], bytes(data[at + 5:at + 1 + size])
            at += size + 1
            if tag == 0x53:        # S: a setting changed
                self.reported([messages.parse_parameter_status(body)])
            elif tag == 0x45:      # E: our own statement failed, or the server says goodbye
                bad = True
                self.refusal = UpstreamRefused(messages.parse_fields(body))
            elif tag == 0x5A:      # Z
                if not self._chore_left or body != b"I":
                    bad = True
                else:
                    self._chore_left -= 1
        del data[:at]
        if bad:
            self._lost()
        elif self._then is not None and not self._chore_left:
            self._chore_done(True)

    def _chore_done(self, ok: bool) -> None:
        then, self._then = self._then, None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if not ok:
            self.close()
        if then is not None:
            then(ok)

    def _lost(self) -> None:
        self.close()
        if self._then is not None:
            self._chore_done(False)
        else:
            self.pool.lost(self)

    def reported(self, changes: list[tuple[str, str]]) -> None:
        """ParameterStatus seen on this connection."""
        for name, value in changes:
            self.parameters[name] = value
        if not isinstance(self.settings, State):
            self.settings = intern(tuple(map(self.parameters.get, TRACKED)))
        session = self.route.server.session
        if session is not Session.ANY and session is not Session.PREFER_STANDBY:
            role = role_of(self.parameters)
            if role is not None and not role.fits(session):
                self.expires = AT_ONCE            # a failover has changed what it is: nobody gets it any more

    def anew(self) -> None:
        """A reset is on its way, behind which it is as it was after login."""
        self.prepared.clear()
        if isinstance(self.settings, State) and isinstance(self.fresh, State):
            self.settings = intern(replace(self.fresh, customs=self.settings.customs))

    def close(self, *, working: bool = False) -> None:
        """`working`: the server has something to do still, and nobody waits for the answer."""
        if self.broken:
            return
        self.pause()
        self.broken = True
        self.pool.departed[self.pid] = getattr(self.rider, "pid", 0) or self.last_pid
        if len(self.pool.departed) > REMEMBERED:
            self.pool.departed.popitem(last=False)
        if self.backlog is not None:
            self.backlog = None
            self.loop.remove_writer(self.fd)
        else:
            try:
                self.send(self.goodbye)
            except OSError:
                pass                              # already gone: there is nobody to take leave of
        self.pool.goes(self, working=working)


async def take_role(sock: socket.socket, role: str) -> None:
    """`SET ROLE` on a fresh connection."""
    stream = Stream(sock, fault=UpstreamFault)
    await stream.write(messages.query(set_role(role)))
    refused: UpstreamRefused | None = None
    try:
        while True:
            tag, body = await stream.read_message()
            if tag == 0x45:
                refused = UpstreamRefused(messages.parse_fields(body))
            elif tag == 0x5A:
                break
    finally:
        stream.unwatch()
    if refused is not None:
        raise refused


def set_role(role: str) -> str:
    return 'SET ROLE "' + role.replace('"', '""') + '"'


def startup_parameters(target: Target, key: Key) -> dict[str, str]:
    """The upstream's startup packet: the target's settings, then the client's own."""
    parameters = {"database": target.database, **target.startup}
    if target.schema:
        parameters["search_path"] = '"' + target.schema.replace('"', '""') + '"'
    parameters.setdefault("client_encoding", "UTF8")
    parameters |= dict(key)
    return parameters


def adapt(has: Settings, wanted: Settings) -> list[str]:
    """One query, of as many statements as it takes, from one session's settings to another's."""
    if isinstance(has, State) or isinstance(wanted, State):
        assert isinstance(has, State)
        assert isinstance(wanted, State)
        return [difference(has, wanted).decode("utf-8", "surrogateescape")]
    sets = []
    for name, old, new in zip(TRACKED, has, wanted, strict=True):
        if new is not None and new != old:
            literal = "E'" + new.replace("\\", "\\\\").replace("'", "''") + "'"
            # search_path is a list, quoted already where it must be: as one text, SET would make it one name, and as
            # words it would refuse the empty one.
            sets.append(f"SELECT pg_catalog.set_config('search_path', {literal}, false)" if name == "search_path"
                        else f"SET {name} TO {literal}")
    return ["; ".join(sets)] if sets else []
