"""What of a Pool the hot path reads and writes: who is idle, who is busy, who waits.

PureLane and PurePlace are the specification; where the compiled twin (proxy/_hot.c) is there, a plain lease is taken from
these, waited for, handed on and given back without entering Python.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.hot import hot

if TYPE_CHECKING:
    from proxy.errors import ProxyError
    from proxy.pool.pool import Pool
    from proxy.pool.upstream import Key, Settings, Upstream


class Waiter(Protocol):
    """A client that asks for an upstream."""

    @property
    def key(self) -> Key: ...
    @property
    def settings(self) -> Settings | None: ...
    @property
    def adapts(self) -> bool: ...
    def granted(self, upstream: Upstream) -> None: ...
    def failed(self, fault: ProxyError) -> None: ...


@dataclass(slots=True)
class PurePlace:
    """A waiter's place in the queue."""

    waiter: Waiter
    since: float
    pool: Pool
    gone: bool = False            # from the queue
    settled: bool = False         # granted or failed: the waiter has its answer
    left: bool = False            # the client went away


class PureLane:
    idle: dict[Key, list[Upstream]]       # the most recently used last
    busy: set[Upstream]
    resting: set[Upstream]                # chores, or a cancel in flight
    queue: deque[Place]
    idle_count: int
    waiting: int                          # how many in the queue have not gone
    coming: int                           # dials under way
    size: int                             # upstreams at most
    clock: Callable[[], float]            # the loop's
    now: float                            # seconds, of that clock, as of the last sweep: exact enough for idleness
    quiet: float                          # seconds, from which a client's `select 1` is a keepalive; 0: never
    used_at: float                        # when somebody last had to ask
    alarm: asyncio.TimerHandle | None     # wakes who has waited too long
    patient: bool                         # nobody waits too long
    check_delay: float                    # seconds of idleness, from which an upstream is asked whether it lives
    plain: bool                           # of what comes back nothing is asked but its age


if TYPE_CHECKING or hot is None:
    Lane = PureLane
    Place = PurePlace
else:
    Lane = hot.Lane
    Place = hot.Place
