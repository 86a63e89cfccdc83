"""A client of mode `auto`: a lease for each transaction, and nothing of the client's is lost or met by others.

Most of the time it is a Relay like any other whose Link is keen: texts that leave nothing pass on the hot path.  Where the
Link stops, the client gets our **attention**: from there its messages go one by one through its Account (session/account),
both ways, until nothing is owed, no transaction could take anything back and no bytes of the client's are left.  Then the
lease goes back, or stays for a reason.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from proxy.errors import ProxyError
from proxy.hot import hot
from proxy.net.tasks import keep
from proxy.pool.dialling import MAX_REMEMBERED
from proxy.pool.pool import Pool
from proxy.pool.tally import Tally
from proxy.pool.upstream import AT_ONCE, Key, Upstream, intern
from proxy.relay.attention import FLUSH
from proxy.relay.leading import Leading
from proxy.relay.pump import AWAY, BROKEN, BUF, PUSHED, SHORT, VIEW
from proxy.relay.relay import Relay
from proxy.relay.standin import StandIn
from proxy.session import keepalive
from proxy.session.account import Account
from proxy.session.consequences import Reason
from proxy.session.link import BEGAN, THINK, I, T
from proxy.session.neutral import NEUTRAL
from proxy.session.parameters import Parameters, State
from proxy.session.prepared import statement
from proxy.session.striking import strike

log = logging.getLogger(__name__)
PINS_TOLD = 60.0              # seconds between two lines of the log about one reason, of one plugin
_STREAMED = frozenset(b"dcf")

_riders: dict[int, Attentive] = {}     # by the process ids that clients were told


class Attentive(Leading):
    __slots__ = ("_account", "beginning", "flushed", "hit", "stub", "told")

    def __init__(self, sock: socket.socket, pool: Pool, tally: Tally, key: Key, beginning: Mapping[str, str],
                 concerns_databases: Callable[[bytes], None]) -> None:
        super().__init__(sock, pool, tally, key, intern(_state(pool, beginning)), concerns_databases)
        self.watch = True
        self.neutral = NEUTRAL
        self.beginning = beginning
        self._account: Account | None = None
        self.flushed = False                  # the server has been asked for what it owes of an open batch
        self.told: dict[str, str] = {}        # at login
        self.stub = b""                       # less than a header
        self.hit: Callable[[Relay], Awaitable[None]] | None = None     # sends the server a cancel

    # -- the first lease ----------------------------------------------------------------------------------

    def remembered(self, wants: Mapping[str, str]) -> dict[str, str] | None:
        known = self.pool.welcomes.get((self.key, self.settings))
        if known is None:
            return None
        self._are_told(known[0])
        return known[0]

    async def settle(self, wants: Mapping[str, str]) -> dict[str, str]:
        upstream = await self.lease()
        told = dict(upstream.parameters)
        if len(self.pool.welcomes) >= MAX_REMEMBERED:
            self.pool.welcomes.clear()
        assert self.settings is not None
        self.pool.welcomes[self.key, self.settings] = told, self.settings
        self.unboard()
        self._are_told(told)
        return told

    def _are_told(self, told: dict[str, str]) -> None:
        self.told = told
        self.neutral = NEUTRAL if self._conforming else set()
        if self.beginning:
            canonical = {name.lower(): value for name, value in told.items()}
            self.beginning = {name: canonical.get(name, value) for name, value in self.beginning.items()}
            self.settings = intern(_state(self.pool, self.beginning))

    @property
    def _conforming(self) -> bool:
        """Are strings read as the neutral texts were?"""
        if self._account is not None:
            return self._account.conforming
        return self.told.get("standard_conforming_strings", "on") == "on"

    def _judge(self, text: bytes) -> bool:
        return self._conforming and super()._judge(text)

    @property
    def account(self) -> Account:
        if self._account is None:
            parameters = Parameters(self.beginning)
            parameters.role = self.pool.target.role
            conforming = self._conforming
            self._account = Account(parameters, self.pid, self._whose, self._client_of, self.pool.routines)
            self._account.told, self._account.conforming = dict(self.told), conforming
        return self._account

    # -- the hot path stops -------------------------------------------------------------------------------

    def _client_outcome(self, outcome: int) -> None:
        if not outcome & THINK:
            super()._client_outcome(outcome)
            return
        rest = bytes(VIEW[self.cut:self.got])
        if outcome & AWAY:
            self.held += VIEW[:self.cut]
        elif self.cut and not outcome & PUSHED:
            self.got = self.cut
            after = self.push_client(self.cut)
            if after & SHORT:
                self._push_rest()
            elif after & BROKEN:
                self._upstream_broken()
                return
        self._stop_at(rest)

    def _hold(self, data: bytes, flags: int) -> None:
        if flags & THINK and self.neutral is not None:
            self.held += data[:self.cut]
            self._stop_at(data[self.cut:])
        else:
            super()._hold(data, flags)

    def _without_upstream(self, n: int) -> None:
        if self._is_keepalive(n):
            self.since = perf_counter()
            self.tally.queries += 1
            self._say(keepalive.ANSWER)
            return
        if (self._account is None or not self._account.quick or self.held or self.place is not None or self.drop_left
                or BUF[0] in _STREAMED):
            super()._without_upstream(n)
        else:
            self._attend(bytes(VIEW[:n]))      # names may have to be changed

    def _is_keepalive(self, n: int) -> bool:
        if n > 15 or self.held or self.place is not None or self.drop_left or self.partial or self.draining:
            return False
        return (0 < self.pool.quiet < perf_counter() - self.since and bytes(VIEW[:n]) in keepalive.ASKED
                and self.pool.heard_lately())

    def _stop_at(self, rest: bytes) -> None:
        """The Link has walked up to here, and no further."""
        if len(rest) < 5:
            self.stub, self.swift = rest, False
            if self.held and self.place is None and self.upstream is None:
                self._ask_for_one()
            return
        self._attend(rest)

    def _with_stub(self) -> None:
        """A header came in pieces: walk it whole."""
        piece = self._piece()
        if not piece:
            return
        data, self.stub = self.stub + piece, b""
        self._be_swift()
        if self._account is not None and self._account.quick:
            self._attend(data)                 # names may have to be changed
            return
        size = len(data)
        VIEW[:size] = data
        self.got, self.sent = size, 0
        if self.upstream is None:
            super()._client_outcome(AWAY)
            return
        try:
            flags = self.from_client(BUF, size)
        except ProxyError as fault:
            self._client_fault(fault)
            return
        outcome = flags & ~BEGAN or self.push_client(size)
        if outcome:
            self._client_outcome(outcome)

    def _be_swift(self) -> None:
        """The compiled twin's events, where they may be."""
        upstream = self.upstream
        tls = self.tls or (upstream is not None and upstream.tls)
        self.swift = hot is not None and not (tls or self.leaving or self.attention or self.stub or self.away
                                             or self.leading is not None)
        self.quick = self._account.quick if self.swift and self._account is not None else None

    def on_client(self) -> None:
        if self.attention:
            self._receive()
        elif self.stub:
            self._with_stub()
        elif self.away:
            piece = self._piece()
            if piece:
                self._attend(piece)
        else:
            super().on_client()
            return
        if self.tls and self.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(self._again)

    # -- attention ----------------------------------------------------------------------------------------

    def _attend(self, rest: bytes) -> None:
        if self.upstream is None and self._strikes(rest):
            return
        account = self.account
        self.attention, self.entering, self.swift = True, True, False
        self.watch, self.neutral = False, None
        self.inbox += rest
        unnamed = self.parse or self.former
        if unnamed is not None:
            text, _, types = unnamed[6:].partition(b"\0")
            account.unnamed = statement(text, types, b"", conforming=account.conforming)
        else:
            account.unnamed = None
        self._advance()

    def _enter(self) -> bool:
        """Wait until the server owes nothing of what the hot path has let pass.  Is it so?"""
        upstream = self.upstream
        assert upstream is not None
        if self.owed or self.u_left or self.u_part:
            return False
        if self.asked:
            if not self.flushed:
                self.flushed = True
                self._send(FLUSH)
            return False
        if self.away and not self._is_abreast(upstream):
            return False
        account = self.account
        self.entering = self.flushed = False
        self._ride(upstream)
        account.unnamed_there = self.parse is not None
        account.skipping = self.skipping
        account.status = bytes((self.status,))
        if account.astray and account.status == b"I":
            self.ahead = account.lead()
        return True

    def _rest(self) -> bool:
        """Nothing to do: back to the hot path, and the lease back to the pool unless it must stay."""
        account, upstream = self.account, self.upstream
        assert upstream is not None
        if (self.open or self.u_passing or self.u_inbox or self.copying or self.partial or account.changing or account.status == b"E"
                or (account.status == b"T" and (account.schema_changing or (account.doubtful and account.pins)))):
            return False
        question = account.wonder() if account.status == b"I" else b""
        if question:
            self._send(question)
            return False
        if self.behind is not None:
            return False                       # the client has not heard all yet
        if Reason.LISTEN in account.pins:
            self._note_pins()
            if self.draining and account.status == b"I":
                self._end_of_work()
            else:
                self._consider()
            return False                       # the server's messages are looked at too
        self._look_away(upstream)
        if self.status == I and not self.owed:
            if self.draining:
                self._end_of_work()
            elif not self.pinned and self.used:
                self._release()
        return False

    def _look_away(self, upstream: Upstream) -> None:
        self._part_from_account(upstream)
        self.attention = False
        self.watch, self.neutral = True, NEUTRAL if self.account.conforming else set()
        self._be_swift()

    def _give_away(self, upstream: Upstream) -> None:
        """Another rides it from here on, and our next request asks for one."""
        self._look_away(upstream)
        self.former, self.parse = self.parse or self.former, None
        self._dismount()
        upstream.last_pid = self.pid
        self._note_settings(upstream)
        self.used = False
        self.abreast = self.catching_up = None

    def _part_from_account(self, upstream: Upstream) -> None:
        account = self.account
        self.settings = intern(account.parameters.wanted())
        upstream.settings = intern(account.mirror.wanted())
        if account.blemished:
            account.blemished, upstream.expires = False, AT_ONCE
        kept = account.unnamed.parse(b"") if account.unnamed is not None else None
        self.parse, self.former = (kept, None) if account.unnamed_there else (None, kept)
        self._note_pins()
        self.dirty = False

    def _note_pins(self) -> None:
        pins = self.account.pins
        if not pins:
            self.pinned = None
        elif not self.pinned:
            reason, why = next(iter(pins.items()))
            self.pin(reason)
            told, now = self.pool.pins_told, self.pool.now
            if now - told.get(reason, -PINS_TOLD) >= PINS_TOLD:       # the metric counts them all
                told[reason] = now
                log.info("a client keeps its connection", extra={"fields": {
                    "plugin": self.tally.plugin, "user": self.tally.user, "reason": str(reason), "why": why[:100]}})

    # -- process ids --------------------------------------------------------------------------------------

    def known_as(self, pid: int) -> None:
        self.pid = pid
        _riders[pid] = self

    def _whose(self, pid: int) -> int | None:
        """Whose process id is it (session/pids)?  While what we send may strike that server, nobody else may have it."""
        rider = _riders.get(pid)
        if rider is None or rider.pool.server != self.pool.server:
            return None                        # there, that number may be anybody
        upstream = rider.upstream
        if upstream is None:
            standing = self.standing.get(rider)
            return standing.upstream.pid if standing is not None and standing.upstream is not None else 0
        if rider is not self:
            upstream.cancels += 1
            self.struck.append(upstream)
        return upstream.pid

    def _strikes(self, rest: bytes) -> bool:
        """Is a cancel of another client of this pool all that is asked?  It needs no upstream (session/striking)."""
        if self.hit is None or self.held or self.inbox or self.stub or self.place is not None or self.away or self.leaving:
            return False
        asked = strike(rest)
        rider = _riders.get(asked.pid) if asked is not None else None
        here = self.settings
        if (asked is None or rider is None or rider is self or rider.pool is not self.pool or not isinstance(here, State)
                or here.role != self.pool.target.role or here.authorization is not None):
            return False
        self.pause()
        self.parse, self.former = None, asked.parsed
        keep(self._strike(rider, asked.answer), name="cancel by SQL")
        return True

    async def _strike(self, rider: Attentive, answer: bytes) -> None:
        assert self.hit is not None
        await self.hit(rider)
        if self._done.done():
            return
        self.since = perf_counter()
        self.tally.queries += 1
        self._say(answer)
        if self.draining:
            self._end_of_work()
        else:
            self.resume()

    def _stands(self, tag: int, body: bytes) -> bool:
        """Has everybody a process whom this message strikes?  Who has none is given one for the while."""
        for pid in self.account.strikes(tag, body):
            rider = _riders.get(pid)
            if rider is not None and rider.upstream is None and rider not in self.standing and rider.pool.server == self.pool.server:
                self.standing[rider] = StandIn(rider, self._advance)
        return all(standing.place is None for standing in self.standing.values())

    def _client_of(self, process: int) -> int | None:
        """Whom that process of our database serves, or served last."""
        pool, mine = self.pool, self.upstream
        if self.away and mine is not None and process == mine.pid and self.abreast is not mine:
            return mine.last_pid or None
        for upstream in (*pool.busy, *pool.resting, *(each for stack in pool.idle.values() for each in stack)):
            if upstream.pid == process:
                rider = upstream.rider
                return rider.pid if isinstance(rider, Relay) else upstream.last_pid or None
        return pool.departed.get(process) or None

    def _strikes_are_over(self) -> None:
        for upstream in self.struck:
            upstream.pool.cancel_done(upstream)
        self.struck.clear()
        standing = list(self.standing.values())
        self.standing.clear()
        self.judging += len(standing)
        for each in standing:
            each.over(self._judged)

    def _judged(self) -> None:
        self.judging -= 1
        if self.judging or self._done.done():
            return
        withheld, self.withheld = bytes(self.withheld), bytearray()
        if withheld:
            self._tell_client(withheld)
        if self.judged:
            self.judged = False
            self._settled()

    # -- leases -------------------------------------------------------------------------------------------

    def _ask_for_one(self) -> None:
        upstream = self.pool.take(self)
        if upstream is not None:
            self.tally.wait_time.observe(0.0)
            self._board(upstream)
        else:
            self._request()

    @property
    def adapts(self) -> bool:
        return self.waiter is None

    def _mount(self, upstream: Upstream) -> None:
        super()._mount(upstream)
        self._be_swift()

    def _dismount(self) -> Upstream | None:
        upstream = super()._dismount()
        self._be_swift()
        return upstream

    def _board(self, upstream: Upstream) -> None:
        strange = upstream.settings is not self.settings and self.waiter is None
        if strange and self.held and not (self.attention or self.stub or self.leaving) and self._board_led(upstream):
            return
        if self.held and not self.attention and (strange or (self._account is not None and self._account.quick)):
            self.unwalk()
            self._mount(upstream)
            held, self.held, self.stub = self.held + self.stub, b"", b""
            self._attend(held)
            return
        if self.held and self.attention and self.entering and (strange or (self._account is not None and self._account.quick)):
            self.unwalk()
            self.inbox[:0] = self.held
            self.held = b""
        super()._board(upstream)
        if self.attention:
            self._advance()

    def _release(self) -> None:
        self.former, self.parse = self.parse or self.former, None
        super()._release()
        self._be_swift()
        self.abreast = self.catching_up = None
        if self.heard and self.behind is None:
            self._tell_heard()

    def _before_parting(self, upstream: Upstream) -> bool:
        account = self._account
        if account is not None and (account.opaque or account.blemished):
            upstream.expires = AT_ONCE
        if account is not None and self.attention and not self.entering:
            upstream.settings = intern(account.mirror.wanted())
            if account.changing or self.status == T:
                return True
        return bool(self.pinned or (account is not None and account.pins))

    def part(self) -> None:
        _riders.pop(self.pid, None)
        self._hear_no_more()
        self._strikes_are_over()
        super().part()

    def drain(self) -> None:
        if self.attention and (self.inbox or self.passing or self.judging or not self.account.quiet):
            self.draining = True
        else:
            super().drain()


def _state(pool: Pool, beginning: Mapping[str, str]) -> State:
    parameters = Parameters(beginning)
    parameters.role = pool.target.role
    return parameters.wanted()
