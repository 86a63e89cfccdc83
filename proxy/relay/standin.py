"""A client that holds no upstream has no server process; its process id may be the target of a signal all the same.

An upstream of its pool **stands in**: the statement that strikes the client's process id is told that one's.  If it dies of
it, so does the client, with the server's own last words; what only cancels finds nobody at work, as it would have.  Then the
upstream goes back.  An idle one is taken at once, or one is waited for that is dialled or at a chore of ours; where there is none, the
number stays one that nobody has: who strikes may hold what all others wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.pool.lane import Place
from proxy.pool.upstream import Key, Upstream
from proxy.wire import messages

if TYPE_CHECKING:
    from proxy.relay.relay import Relay


class StandIn:
    """One client's, until what strikes has been answered.  A Waiter; `then` is called when the waiting is over."""

    settings = None
    adapts = True

    def __init__(self, rider: Relay, then: Callable[[], None]) -> None:
        self.rider = rider
        self.key: Key = rider.key
        self.upstream: Upstream | None = None
        self.place: Place | None = None        # in the queue of a pool that dials
        pool = rider.pool
        while pool.successor is not None:
            pool = pool.successor
        self._then: Callable[[], None] | None = None
        if pool.waiting:
            return
        place = pool.request(self)
        if not place.settled and (pool.coming or pool.resting):       # these need nobody's help to become idle
            self.place, self._then = place, then
        elif not place.settled:
            pool.withdraw(place)

    def granted(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._settled()

    def failed(self, fault: ProxyError) -> None:
        self._settled()

    def _settled(self) -> None:
        self.place = None
        then, self._then = self._then, None
        if then is not None:
            then()

    def over(self, then: Callable[[], None]) -> None:
        """The statement has been answered.  Its signal was sent before that: a statement of ours finds the process alive or not.

        `then` is called when that is known, and the client has been told, if it died.  Who struck hears nothing before: what it does
        next may count on it.
        """
        upstream = self.upstream
        if self.place is not None:
            self.place.pool.withdraw(self.place)
        if upstream is None or upstream.broken:
            if upstream is not None:
                self._died(upstream)
            then()
            return
        pool = upstream.pool

        def asked(ok: bool) -> None:
            if ok:
                pool.resting.discard(upstream)
                pool.busy.add(upstream)
                pool.give_back(upstream)
            else:
                pool.lost(upstream)
                self._died(upstream)
            then()

        pool.busy.discard(upstream)
        pool.resting.add(upstream)
        upstream.run([""], asked, pool.dialling.connect_timeout)

    def _died(self, upstream: Upstream) -> None:
        rider, refusal = self.rider, upstream.refusal
        if refusal is None or refusal.fields.get("V") != "FATAL":
            return
        if rider.backlog is None:
            rider.tell(messages.error_response(refusal))       # at once: finish() leaves it to a task, which comes later
            rider.finish("terminated by the server")
        else:
            rider.finish("terminated by the server", refusal)
