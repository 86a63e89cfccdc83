"""Time limits of clients, looked after once a second: no timer per query, nothing on the hot path.

What a link remembers anyway is enough: when its oldest unanswered request began or its last answer ended (`since`), when
its transaction began, and when it last stopped waiting for an upstream.  The phrases are PgBouncer's, the SQLSTATEs are
PostgreSQL's for the same limits of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING

from proxy.config.settings import Pool as PoolSettings
from proxy.errors import Overdue
from proxy.pool.dedicated import Dedicated
from proxy.session.link import I
from proxy.wire import messages

if TYPE_CHECKING:
    from proxy.mysql.relay import Relay as MysqlRelay
    from proxy.pool.upstream import Upstream
    from proxy.relay.relay import Relay

QUEUED = messages.notice("No server connection available in postgres backend, client being queued")


def overdue(relay: Relay | MysqlRelay, limits: PoolSettings, now: float) -> Overdue | None:
    """Which limit a client is beyond.  One that waits for an upstream is query_wait_timeout's, not ours."""
    begun = max(relay.since, relay.granted_at)
    if relay.place is not None or (relay.held and relay.upstream is None):
        return None
    asking = bool(relay.owed) or relay.copying
    if relay.open and not asking:
        # Behind a Flush a client waits for answers too; its time is counted from when we first see it so.
        if relay.opened[0] != relay.since:
            relay.opened = relay.since, now
        asking, begun = True, relay.opened[1]
    if asking and 0 < limits.query_timeout < now - begun:
        return _fault("query timeout", "57014", "query_timeout")
    if (asking or relay.status != I) and 0 < limits.transaction_timeout < now - (
            max(relay.transaction_since, begun) if relay.status == I else relay.transaction_since):
        return _fault("transaction timeout", "25P04", "transaction_timeout")
    if asking or relay.partial:
        return None
    if relay.status != I:
        if 0 < limits.idle_transaction_timeout < now - begun:
            return _fault("idle transaction timeout", "25P03", "idle_transaction_timeout")
    elif 0 < limits.client_idle_timeout < now - begun:
        return _fault("client_idle_timeout", "57P05", "client_idle_timeout")
    return None


def _fault(words: str, state: str, setting: str) -> Overdue:
    return Overdue(words, state, hint=f"See switchboard.pool.{setting}.")


def sweep(relays: Iterable[Relay | MysqlRelay], strike: Callable[[Upstream], None]) -> None:
    """Send away who is beyond a limit, and tell who waits long.  `strike` cancels what a server still does for one of them."""
    now = perf_counter()
    for relay in relays:
        pool = relay.pool
        limits = pool.settings
        place = relay.place
        if place is not None:
            if 0 < limits.query_wait_notify < pool.clock() - place.since and relay.noticed is not place and relay.waiter is None:
                relay.noticed = place
                relay.tell(QUEUED)
            continue
        if isinstance(pool, Dedicated) or not (limits.query_timeout or limits.transaction_timeout or limits.client_idle_timeout
                                               or limits.idle_transaction_timeout):
            continue
        fault = overdue(relay, limits, now)
        if fault is not None:
            if (relay.owed or relay.open) and relay.upstream is not None:
                strike(relay.upstream)
            relay.finish(fault.message, fault)
