"""Who may hold which upstream of one Target, and until when.

A client asks with `request`; it is answered by `granted` or `failed`, at once when an idle upstream fits.  Upstreams
are kept by **key**, the startup parameters that they were dialled with and that nothing but a new connection can
change; the settings that servers report can differ and are adapted by a chore before the hand-over.  Waiters are
first come, first served, and an upstream that comes back goes straight to the first of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.config.mode import Mode
from proxy.config.settings import Pool as PoolSettings
from proxy.config.settings import Upstream as UpstreamSettings
from proxy.config.target import Server, Target
from proxy.errors import ProxyError, QueryWaitTimeout
from proxy.pool.budget import Budget
from proxy.pool.housekeeping import Housekeeping
from proxy.pool.lane import Place, Waiter
from proxy.pool.leaving import Leaving
from proxy.pool.outage import Outage
from proxy.pool.plan import Census, Do, plan
from proxy.pool.reach import Reach
from proxy.pool.tally import Histogram
from proxy.pool.upstream import AT_ONCE, Key, Settings, Upstream, adapt, set_role
from proxy.session.parameters import State, fits
from proxy.session.routines import Routines

if TYPE_CHECKING:
    from proxy.pool.listener import Listener

log = logging.getLogger(__name__)
TEMPLATES = frozenset({"template0", "template1"})


@dataclass(slots=True)
class Counters:
    connect_time: Histogram = field(default_factory=Histogram)
    connect_failures: int = 0
    closed: int = 0
    evicted: int = 0                  # in favour of another pool of the server's budget
    resets: int = 0
    rollbacks: int = 0


class Pool(Housekeeping):
    apart = False                                     # for one client alone, or for none

    def __init__(self, target: Target, settings: PoolSettings, upstream: UpstreamSettings,
                 ensure: Callable[[Target], Awaitable[None]], forget: Callable[[Target], None], reach: Reach,
                 budget: Budget | None = None) -> None:
        super().__init__()
        self.budget = budget
        assert target.server is not None
        assert target.credential is not None
        self.target = target
        self.server: Server = target.server
        self.settings = settings
        self.dialling = upstream
        self.ensure = ensure
        self.forget = forget
        self.reach = reach
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.now = self.clock()
        self.check_delay = settings.check_delay
        self.quiet = settings.keepalive_after
        self.size = settings.size
        self.patient = not settings.query_wait_timeout
        self.idle = {}
        self.idle_count = 0
        self.busy = set()
        self.resting = set()
        self.leaving: set[Leaving] = set()            # told to go, and still the server's
        self.queue = deque()
        self.successor: Pool | None = None            # of a retired pool: where its clients go for their next lease
        self.others: dict[Mode, Pool] = {}            # of users with a mode of their own
        self.listener: Listener | None = None         # for clients of mode `auto` at rest
        self.pins_told: dict[str, float] = {}         # reasons to keep a connection, when the log last spoke of them
        self.routines = Routines(self.clock)
        self.counters = Counters()
        self.outage = Outage()
        self.alarm = None
        self.welcomes: dict[tuple[Key, Settings | None], tuple[dict[str, str], Settings]] = {}
        self.baselines: dict[Key, Settings] = {}      # what a fresh login reports
        self.departed: OrderedDict[int, int] = OrderedDict()       # processes that have gone, and whom they served last
        self.used_at = self.clock()
        # An idle connection to a template would be in the way of every CREATE DATABASE.
        self.clear_until = 0.0
        self.unpooled = target.database in TEMPLATES
        self.plain = not self.unpooled
        self.paused = False                   # by an operator: clients wait, what comes back is closed
        self.pausing: asyncio.Future[None] | None = None

    def _pool(self) -> Pool:
        return self

    def __str__(self) -> str:
        return f"{self.target.plugin}@{self.target}"

    @property
    def open(self) -> int:
        return self.idle_count + len(self.busy) + len(self.resting)

    @property
    def max_wait(self) -> float:
        return next((self.clock() - place.since for place in self.queue if not place.gone), 0.0)

    # -- clients ------------------------------------------------------------------------------------------

    def take(self, waiter: Waiter) -> Upstream | None:  # hot
        """An idle upstream that fits as it is, unless others wait already."""
        if self.waiting:
            return None
        stack = self.idle.get(waiter.key)
        if not stack:
            return None
        wanted = waiter.settings
        at = len(stack) - 1
        if wanted is not None:
            while at >= 0 and wanted is not stack[at].settings:
                at -= 1
        if at < 0 or self.now - stack[at].idle_since >= self.check_delay:
            return None
        upstream = stack.pop(at)
        self.idle_count -= 1
        self.busy.add(upstream)
        return upstream

    def request(self, waiter: Waiter) -> Place:
        """Queue up; `waiter.granted` or `waiter.failed` is called, possibly before this returns."""
        now = self.used_at = self.clock()
        place = Place(waiter, now, self)
        known = self._known_fault(waiter.key, now) if self.failure is not None or self.outage.until else None
        if known is not None:
            place.gone = place.settled = True
            waiter.failed(known)
            return place
        self.queue.append(place)
        self.waiting += 1
        if self.alarm is None and self.settings.query_wait_timeout:
            self.alarm = self.loop.call_later(self.settings.query_wait_timeout, self._too_late)
        if self.idle_count or len(self.busy) + len(self.resting) + self.coming < self.size:
            self.wake()                       # else there is nothing to give, to dial or to evict
        return place

    def _known_fault(self, key: Key, now: float) -> ProxyError | None:
        """What a newcomer is told without a dial: why the last one failed, a moment ago."""
        if self.open:
            return None
        if self.failure is not None and now < self.failure[0] and key == self.failure[1]:
            return self.failure[2]
        return self.outage.cached(now)

    def withdraw(self, place: Place) -> None:
        """The client went away while it waited, or is told why it waits no longer."""
        place.left = True
        if not place.gone:
            place.gone = True
            self.waiting -= 1

    def _fail(self, place: Place, fault: ProxyError) -> None:
        self.withdraw(place)
        if not place.settled:
            place.settled = True
            place.waiter.failed(fault)

    def _too_late(self) -> None:
        self.alarm = None
        limit = self.settings.query_wait_timeout
        now = self.clock()
        while self.queue:
            place = self.queue[0]
            if not place.gone and now - place.since < limit:
                self.alarm = self.loop.call_later(limit - (now - place.since), self._too_late)
                return
            self.queue.popleft()
            if not place.gone:
                self._fail(place, QueryWaitTimeout(
                    "query_wait_timeout",
                    detail=f"No connection to {self.target.database} became free within {limit:g} s.",
                    hint="Raise switchboard.pool.size for this plugin, or look for clients that keep transactions open."))

    # -- the queue ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Do all that can be done for those who wait."""
        while self.queue and not self.paused and self._serve_one():
            continue

    def _serve_one(self) -> bool:
        """First come, first served; but who waits for a dial of their own keeps nobody back.  Was there anything to do?"""
        queue = self.queue
        while queue and queue[0].gone:
            queue.popleft()
        provided: Counter[Key] = Counter()
        for at, place in enumerate(queue):
            if place.gone:
                continue
            key = place.waiter.key
            fitting = self._fitting(key, place.waiter.settings)
            if not fitting and provided[key] < self.dials[key]:
                provided[key] += 1
                continue
            what = plan(Census(self.coming + 1, fitting, self.idle_count - fitting, len(self.busy) + len(self.resting),
                               self.coming), self.size if not self.full else self.open + self.coming)
            if what is Do.GIVE:
                del queue[at]
                self.waiting -= 1
                place.gone = True
                self._prepare(self._pop(key, place.waiter.settings), place)
            elif what is Do.DIAL and self._later is None:
                if self.budget is not None and not self.budget.allows(self):
                    break
                self._dial(key)
            elif what is Do.EVICT and self._later is None:
                self._evict_other(key, place.waiter.settings)
            else:
                break
            return True
        return False

    def _pop(self, key: Key, wanted: Settings | None) -> Upstream:
        """The one that fits as it is; else the one with the least difference, and of these the one that was missed least lately."""
        stack = self.idle[key]
        at = next((at for at in range(len(stack) - 1, -1, -1) if wanted is None or stack[at].settings is wanted), -1)
        if isinstance(wanted, State) and at < 0:
            at = min((at for at, one in enumerate(stack) if _fits(one.settings, wanted)),
                     key=lambda at: _distance(stack[at].settings, wanted))
        upstream = stack.pop(at)
        if not self.idle[key]:
            del self.idle[key]
        self.idle_count -= 1
        return upstream

    def _fitting(self, key: Key, wanted: Settings | None) -> int:
        """How many of the idle ones somebody could have."""
        stack = self.idle.get(key, [])
        return len(stack) if wanted is None else sum(_fits(upstream.settings, wanted) for upstream in stack)

    def _evict_other(self, key: Key, wanted: Settings | None) -> None:
        oldest = min((upstream for other, stack in self.idle.items() for upstream in stack
                      if other != key or (wanted is not None and not _fits(upstream.settings, wanted))),
                     key=lambda upstream: upstream.idle_since)
        self.drop(oldest)

    def _prepare(self, upstream: Upstream, place: Place) -> None:
        """Ask whether a long-idle upstream lives and give it the waiter's settings; then hand it over."""
        waiter = place.waiter
        statements = []
        wanted = waiter.settings
        if wanted is not None and wanted != upstream.settings and not waiter.adapts:
            statements += adapt(upstream.settings, wanted)
        elif self.clock() - upstream.idle_since >= self.check_delay:
            statements.append("")
        if not statements:
            self._grant(upstream, place)
            return
        self.resting.add(upstream)

        def ready(ok: bool) -> None:
            self.resting.discard(upstream)
            if ok:
                if isinstance(wanted, State) and not waiter.adapts:
                    upstream.settings = wanted
                self._grant(upstream, place)
                return
            self.counters.closed += 1
            if self.budget is not None:
                self.budget.freed()
            if upstream.refusal is not None and statements != [""]:
                self._fail(place, upstream.refusal)
            elif not place.left:
                # Broken while it was idle: the waiter keeps its turn and does not notice.
                place.gone = False
                self.queue.appendleft(place)
                self.waiting += 1
            self.wake()

        upstream.run(statements, ready, self.dialling.connect_timeout)

    def _grant(self, upstream: Upstream, place: Place) -> None:
        if place.left:
            self._shelve(upstream)
            return
        self.busy.add(upstream)
        place.settled = True
        place.waiter.granted(upstream)

    # -- coming back --------------------------------------------------------------------------------------

    def give_back(self, upstream: Upstream, *, statements: Sequence[str] = ()) -> None:  # hot
        """A lease ends cleanly; `statements` must run before a stranger may have the upstream."""
        upstream.rider = None
        if not upstream.reading:
            upstream.resume()
        if self.budget is not None and self.budget.pressed and not upstream.cancels and self.budget.claims(self, upstream):
            self.busy.discard(upstream)
            if not upstream.broken:
                upstream.close()
                self.counters.evicted += 1
            self._gone()
            return
        if self.plain and not (statements or self.queue or upstream.cancels or upstream.broken) and (
                not upstream.expires or self.now <= upstream.expires) and (stack := self.idle.get(upstream.key)) is not None:
            # By far the most: _shelve without its questions.
            upstream.idle_since = self.now
            self.busy.discard(upstream)
            stack.append(upstream)
            self.idle_count += 1
        elif statements or upstream.cancels or upstream.broken:
            self.busy.discard(upstream)
            if upstream.broken:
                self.wake()
            else:
                self._clean(upstream, statements)
        elif not self.queue or not self._hand_over(upstream):
            self.busy.discard(upstream)
            self._shelve(upstream)

    def _hand_over(self, upstream: Upstream) -> bool:  # hot
        """Straight to the first of those who wait, if it fits as it is; it stays busy."""
        place = self.queue[0]
        waiter = place.waiter
        wanted = waiter.settings
        if (place.gone or waiter.key != upstream.key or (wanted is not None and wanted is not upstream.settings and not (
                    waiter.adapts and _fits(upstream.settings, wanted)))
                or self.retired or self.paused or (upstream.expires and self.now > upstream.expires)):
            return False
        self.queue.popleft()
        self.waiting -= 1
        place.gone = place.settled = True
        waiter.granted(upstream)
        return True

    def _clean(self, upstream: Upstream, statements: Sequence[str]) -> None:
        self.resting.add(upstream)
        if upstream.cancels:
            # A cancel is on its way to this server process: whoever gets it now could be hit instead.
            upstream.dirty = bool(statements)
            return

        def cleaned(ok: bool) -> None:
            self.resting.discard(upstream)
            if ok:
                self.counters.resets += 1
                upstream.dirty = False
                self._shelve(upstream)
            else:
                self._gone()

        if statements:
            upstream.run(statements, cleaned, self.dialling.connect_timeout)
        else:
            self.resting.discard(upstream)
            self._shelve(upstream)

    def pause(self) -> None:
        """From now on nobody gets a connection; those that are lent end when they come back."""
        self.paused, self.plain = True, False
        for upstream in [upstream for stack in self.idle.values() for upstream in stack]:
            self.drop(upstream)

    def resume(self) -> None:
        self.paused = False
        self.wake()

    async def ended(self) -> None:
        """Returns when no connection is open, or the pause is over."""
        while self.paused and self.open:
            self.pausing = self.pausing if self.pausing is not None and not self.pausing.done() else self.loop.create_future()
            await asyncio.shield(self.pausing)

    def heard_lately(self) -> bool:
        """Has the server answered somebody here within `check_delay`, and is that connection still there?"""
        since = self.now - self.check_delay
        return not self.retired and any(upstream.idle_since > since for stack in self.idle.values() for upstream in stack)

    def refresh(self) -> None:
        """What sessions begin with has changed: those that are open began with something else."""
        for upstream in (*self.busy, *self.resting, *(each for stack in self.idle.values() for each in stack)):
            upstream.expires = AT_ONCE
        self.baselines.clear()
        self.welcomes.clear()

    def cancel_done(self, upstream: Upstream) -> None:
        """A cancel request against `upstream` has been answered (the server closed its socket)."""
        upstream.cancels -= 1
        if not upstream.cancels and upstream in self.resting and not upstream.broken:
            # The signal may still strike the next statement: let it strike one of ours.
            self.resting.discard(upstream)
            self._clean(upstream, ["", *self.reset()] if upstream.dirty else [""])

    def reset(self) -> list[str]:
        """What makes an upstream as new.  DISCARD ALL also ends SET ROLE."""
        return ["DISCARD ALL", set_role(self.target.role)] if self.target.role else ["DISCARD ALL"]

    def _shelve(self, upstream: Upstream) -> None:
        now = upstream.idle_since = self.now
        if (upstream.expires and now > upstream.expires) or self.paused or (
                not self.waiting and (self.retired or self.unpooled or now < self.clear_until)):
            upstream.close()
            self._gone()
            return
        stack = self.idle.get(upstream.key)
        if stack is None:
            stack = self.idle[upstream.key] = []
        stack.append(upstream)
        self.idle_count += 1
        if self.queue:
            self.wake()
        if self.budget is not None and self.budget.pressed and not self.waiting:
            self.budget.offered(self)

    def lost(self, upstream: Upstream) -> None:
        """An idle upstream ended, or a rider's broke."""
        self._unshelve(upstream)
        self.busy.discard(upstream)
        self.resting.discard(upstream)
        self._gone()

    def _gone(self) -> None:
        """A connection less."""
        self.counters.closed += 1
        if self.budget is not None:
            self.budget.freed()
        if self.paused and not self.open and self.pausing is not None and not self.pausing.done():
            self.pausing.set_result(None)
        self.wake()

    def drop(self, upstream: Upstream) -> None:
        """Close an idle upstream."""
        self._unshelve(upstream)
        self.counters.closed += 1
        upstream.close()

    def goes(self, upstream: Upstream, *, working: bool) -> None:
        """It has been told to go.  Where a budget counts, it does so until it has gone."""
        if self.budget is None:
            upstream.sock.close()
        else:
            self.leaving.add(Leaving(upstream, self._has_gone, soon=not working))

    def _has_gone(self, leaving: Leaving) -> None:
        self.leaving.discard(leaving)
        if self.budget is not None:
            self.budget.freed()

    def _unshelve(self, upstream: Upstream) -> None:
        stack = self.idle.get(upstream.key)
        if stack and upstream in stack:
            stack.remove(upstream)
            self.idle_count -= 1
            if not stack:
                del self.idle[upstream.key]


def _fits(has: Settings, wanted: Settings) -> bool:
    return not (isinstance(has, State) and has.customs) or (isinstance(wanted, State) and fits(has, wanted))


def _distance(has: Settings, wanted: State) -> int:
    """How many statements it takes, about."""
    assert isinstance(has, State)
    return (len(set(has.settings) ^ set(wanted.settings)) + len(has.customs ^ wanted.customs) + (has.role != wanted.role)
            + 2 * (has.authorization != wanted.authorization))
