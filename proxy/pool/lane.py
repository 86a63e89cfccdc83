"""What of a Pool the hot path reads and writes: who is idle, who is busy, who waits.

PureLane is the specification; where the compiled twin (proxy/_hot.c) is there, a plain lease is taken from these and
given back to them without entering Python.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from proxy.hot import hot

if TYPE_CHECKING:
    from proxy.pool.pool import Place
    from proxy.pool.upstream import Key, Upstream


class PureLane:
    idle: dict[Key, list[Upstream]]       # the most recently used last
    busy: set[Upstream]
    queue: deque[Place]
    idle_count: int
    waiting: int                          # how many in the queue have not gone
    now: float                            # seconds, of the loop's clock, as of the last sweep: exact enough for idleness
    check_delay: float                    # seconds of idleness, from which an upstream is asked whether it lives
    plain: bool                           # of what comes back nothing is asked but its age


if TYPE_CHECKING or hot is None:
    Lane = PureLane
else:
    Lane = hot.Lane
