"""Cancel requests: from a key to the upstream that its client rides, and on to that server.

The key is the only proof, so it is looked up whole.  In session mode it is the server's own (pid and secret) the first
time an upstream is leased; later riders get its pid with a secret of ours, so that an earlier rider's key is dead.
Clients of protocol 3.2 get 256 bits of ours each time.
The upstream is not handed on while a cancel against it is under way (pool.cancel_done), and never again if nobody can
tell whether the cancel has arrived.  At most twice a pool's size are under way; more are dropped quietly, as are those of an
address that has shown too many wrong keys: four bytes of secret are not many.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.net.stream import Stream
from proxy.pool.reach import open_route
from proxy.pool.upstream import AT_ONCE, Upstream
from proxy.server.limits import household
from proxy.wire import startup

if TYPE_CHECKING:
    from proxy.auth.rules import Address
    from proxy.pool.pool import Pool
    from proxy.relay.relay import Relay

log = logging.getLogger(__name__)
CancelKey = tuple[int, bytes]
WRONG_KEYS = 100            # of one address in a minute, before it is not listened to for the rest of it
MINUTE = 60.0


@dataclass(slots=True)
class Standing:
    """Somebody who rides no upstream, ever: what stops its statement."""

    cancel_wait: Callable[[], None]
    upstream: None = None


if TYPE_CHECKING:
    Cancelled = Relay | Standing


class CancelKeys:
    """Who may be cancelled by which key."""

    def __init__(self) -> None:
        self._riders: dict[CancelKey, Cancelled] = {}
        self._flying: Counter[Pool] = Counter()
        self._wrong: Counter[object] = Counter()
        self._since = 0.0

    def for_upstream(self, rider: Relay, upstream: Upstream, length: int = 4) -> CancelKey:
        """The server's own pid, and its own secret if nobody has been told it yet and it is as long as is wanted."""
        key = (upstream.pid, upstream.secret)
        if upstream.shown or key in self._riders or not upstream.pid or len(upstream.secret) != length:
            while (key := (upstream.pid or random.getrandbits(31) | 1, os.urandom(length))) in self._riders:
                pass
        else:
            upstream.shown = True
        self._riders[key] = rider
        return key

    def invent(self, rider: Cancelled | None = None, length: int = 4) -> CancelKey:
        """For clients that own no upstream: a positive pid (pgjdbc, pg_basebackup) and a random secret."""
        while (key := (random.getrandbits(31) | 1, os.urandom(length))) in self._riders:
            pass
        if rider is not None:
            self._riders[key] = rider
        return key

    def forget(self, key: CancelKey) -> None:
        self._riders.pop(key, None)

    def _rider(self, key: CancelKey, peer: Address | None) -> Cancelled | None:
        """Whose key it is.  Only a few guesses are answered."""
        now = monotonic()
        if now - self._since > MINUTE:
            self._wrong.clear()
            self._since = now
        asker = household(peer) if peer is not None else None
        if asker is not None and self._wrong[asker] >= WRONG_KEYS:
            return None
        rider = self._riders.get(key)
        if rider is None and asker is not None:
            self._wrong[asker] += 1
            if self._wrong[asker] == WRONG_KEYS:
                log.warning("too many wrong cancel keys", extra={"fields": {"address": str(asker)}})
        return rider

    async def cancel(self, pid: int, secret: bytes, timeout: float, peer: Address | None = None) -> None:
        """Pass a cancel on, or fail what waits for a server; quietly nothing for a wrong key or a client that asks for nothing.

        Returns when the server has closed its side, which is how clients learn that the signal has been sent.
        """
        rider = self._rider((pid, secret), peer)
        if rider is not None:
            await self.hit(rider, timeout)

    async def hit(self, rider: Cancelled, timeout: float) -> None:
        """The same for who may."""
        upstream = rider.upstream
        if upstream is None:
            rider.cancel_wait()
            return
        assert not isinstance(rider, Standing)
        if not (rider.owed or rider.open):
            return
        await self.strike(upstream, timeout)

    async def strike(self, upstream: Upstream, timeout: float) -> None:
        """Cancel what this server process does now."""
        pool = upstream.pool
        if self._flying[pool] >= 2 * pool.settings.size:
            return
        self._flying[pool] += 1
        upstream.cancels += 1
        stream: Stream | None = None
        sent = False
        try:
            async with asyncio.timeout(timeout or None):
                stream, _ = await open_route(upstream.route, pool.dialling)
                sent = True
                await stream.write(startup.pack_cancel(upstream.pid, upstream.secret))
                while await stream.recv(64):
                    pass                       # the server closes when the signal has been sent
                sent = False
        except (ProxyError, OSError, EOFError, TimeoutError) as fault:
            log.warning("cancel request did not reach the server", extra={"fields": {
                "plugin": pool.target.plugin, "error": str(fault) or type(fault).__name__}})
        finally:
            if stream is not None:
                stream.close()
            if sent:
                upstream.expires = AT_ONCE     # it may still strike: this client's query, and nobody's after it
            self._flying[pool] -= 1
            if not self._flying[pool]:
                del self._flying[pool]
            pool.cancel_done(upstream)
