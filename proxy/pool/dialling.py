"""A pool's dials: several at once, each for the first who waits and has none coming.

What fails is told to those who wait, unless there is hope: others on their way, a server that is restarting, a full one of
which some connections are ours.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from proxy.config.settings import Pool as PoolSettings
from proxy.config.settings import Upstream as UpstreamSettings
from proxy.config.target import Credential, Server, Target
from proxy.errors import ProxyError, UpstreamFault, UpstreamRefused
from proxy.net.expiry import end
from proxy.net.tasks import keep
from proxy.pool.lane import Lane, Place
from proxy.pool.outage import Do as Hold
from proxy.pool.outage import Outage, away
from proxy.pool.plan import keeps_waiting
from proxy.pool.reach import Reach, Reached
from proxy.pool.upstream import Key, Settings, Upstream, startup_parameters, take_role

if TYPE_CHECKING:
    from proxy.pool.budget import Budget
    from proxy.pool.pool import Counters, Pool

log = logging.getLogger(__name__)
MAX_REMEMBERED = 1000         # startup parameters, and wishes, of clients


class Dialling(Lane):
    """The half of a Pool that makes connections."""

    if TYPE_CHECKING:
        budget: Budget | None
        target: Target
        server: Server
        settings: PoolSettings
        dialling: UpstreamSettings
        ensure: Callable[[Target], Awaitable[None]]
        forget: Callable[[Target], None]
        reach: Reach
        loop: asyncio.AbstractEventLoop
        counters: Counters
        outage: Outage
        baselines: dict[Key, Settings]
        welcomes: dict[tuple[Key, Settings | None], tuple[dict[str, str], Settings]]

        @property
        def open(self) -> int: ...
        def _pool(self) -> Pool: ...
        def _shelve(self, upstream: Upstream) -> None: ...
        def wake(self) -> None: ...
        def _fail(self, place: Place, fault: ProxyError) -> None: ...

    def __init__(self) -> None:
        self.coming = self.waiting = 0
        self.dials: Counter[Key] = Counter()          # `coming`, by key
        self.certificates: dict[tuple[str, int], float] = {}          # when each host's ends
        self.retired = False
        self.full = False                             # the server would not have more of us
        self.up: bool | None = None
        self.failure: tuple[float, Key, ProxyError] | None = None
        self._later: asyncio.TimerHandle | None = None                # the next dial while the server is away or full

    def _dial(self, key: Key) -> None:
        self.coming += 1
        self.dials[key] += 1
        keep(self._connect(key), name=f"dial {self.target.plugin}")

    def _dialled(self, key: Key) -> None:
        self.coming -= 1
        self.dials[key] -= 1
        if not self.dials[key]:
            del self.dials[key]

    async def _connect(self, key: Key) -> None:
        target = self.target
        assert target.credential is not None
        reached = None
        try:
            began = self.clock()
            reached = await self._dial_existing(target.credential, self._parameters(key))
            await self._prepared(reached)
        except BaseException as error:
            self._dialled(key)
            if reached is not None:
                reached.sock.close()
            if self.budget is not None:
                self.loop.call_soon(self.budget.freed)
            if isinstance(error, asyncio.CancelledError):
                raise                             # we are stopping: nobody waits for another one
            fault = error if isinstance(error, ProxyError) else UpstreamFault(
                "connecting to the server took too long" if isinstance(error, TimeoutError)
                else f"cannot connect to the server: {type(error).__name__}")
            self._dial_failed(key, fault)
            if not isinstance(error, (ProxyError, OSError, EOFError)):
                raise
            return
        self._dialled(key)
        now = self.clock()
        self.counters.connect_time.observe(now - began)
        self.up, self.failure = True, None
        self.outage.over()
        self._look_at_certificate(reached)
        upstream = self._upstream(reached, key, now)
        if len(self.baselines) >= MAX_REMEMBERED:
            self.baselines.clear()                    # clients make keys; what is needed is learnt again
            self.welcomes.clear()
        self.baselines[key] = upstream.settings
        if self.full and self._later is None:
            self._later = self.loop.call_later(self.dialling.retry_delay, self._try_again)
        if self.retired and not self.waiting:
            upstream.close()
        else:
            self._shelve(upstream)

    # What differs from wire to wire (mysql/pool)

    def _parameters(self, key: Key) -> dict[str, str]:
        """What a connection of this key logs in with."""
        return startup_parameters(self.target, key)

    async def _prepared(self, reached: Reached) -> None:
        """What is done on a fresh connection before anybody has it."""
        if self.target.role:
            async with asyncio.timeout(self.dialling.connect_timeout or None):
                await take_role(reached.sock, self.target.role)

    def _upstream(self, reached: Reached, key: Key, now: float) -> Upstream:
        return Upstream(self._pool(), reached, key, now)

    def _look_at_certificate(self, reached: Reached) -> None:
        sock = reached.sock
        last = end(sock.getpeercert(binary_form=True)) if isinstance(sock, ssl.SSLSocket) else None
        if last is not None:
            self.certificates[reached.route.host, reached.route.port] = last

    async def _dial_existing(self, who: Credential, parameters: dict[str, str]) -> Reached:
        """Provision if need be and log in; a database dropped behind our back is looked for once more."""
        await self.ensure(self.target)
        try:
            return await self.reach.connect(self.server, who, parameters, self.dialling)
        except UpstreamRefused as fault:
            if fault.sqlstate != "3D000":
                raise
        self.forget(self.target)
        await self.ensure(self.target)
        return await self.reach.connect(self.server, who, parameters, self.dialling)

    def _dial_failed(self, key: Key, fault: ProxyError) -> None:
        self.counters.connect_failures += 1
        if fault.sqlstate == "3D000":
            self.forget(self.target)          # dropped behind our back: look again next time
        full = fault.sqlstate.startswith("53")
        self.full = full and self.open + self.coming > 0      # then as many as there are must do for a while
        if self.coming and (full or away(fault)):
            return                            # one of us is finding out, and will tell
        now, delay = self.clock(), self.dialling.retry_delay
        log.warning("cannot connect to upstream", extra={"fields": {
            "plugin": self.target.plugin, "server": str(self.server), "sqlstate": fault.sqlstate, "error": fault.message}})
        if not self.open:
            self.up = False
            self.outage.was_up |= self.reach.has_answered(self.server)       # to another plugin's pool
            hold = self.outage.failed(fault, now, hold=self.dialling.hold_timeout, delay=delay) is Hold.HOLD
            if not hold and not away(fault):
                self.failure = (now + delay, key, fault)
        else:
            hold = keeps_waiting(fault.sqlstate, alive=self.open)
        if hold:
            if self._later is None:
                self._later = self.loop.call_later(delay, self._try_again)
            return
        for place in [place for place in self.queue if not place.gone and (place.waiter.key == key or away(fault))]:
            self._fail(place, fault)
        self.wake()

    def _try_again(self) -> None:
        self._later = None
        self.full = False
        self.wake()
