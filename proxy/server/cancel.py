"""Cancel requests: from a key to the upstream that its client rides, and on to that server.

The key is the only proof, so it is looked up whole.  In session mode it is the server's own (pid and secret) the first
time an upstream is leased; later riders get its pid with a secret of ours, so that an earlier rider's key is dead.
Clients of protocol 3.2 get 256 bits of ours each time.
The upstream is not handed on while a cancel against it is under way (pool.cancel_done).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.net.stream import Stream
from proxy.pool.reach import open_route
from proxy.pool.upstream import Upstream
from proxy.wire import startup

if TYPE_CHECKING:
    from proxy.relay.relay import Relay

log = logging.getLogger(__name__)
CancelKey = tuple[int, bytes]


class CancelKeys:
    """Who may be cancelled by which key."""

    def __init__(self) -> None:
        self._riders: dict[CancelKey, Relay] = {}

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

    def invent(self, rider: Relay | None = None, length: int = 4) -> CancelKey:
        """For clients that own no upstream: a positive pid (pgjdbc, pg_basebackup) and a random secret."""
        while (key := (random.getrandbits(31) | 1, os.urandom(length))) in self._riders:
            pass
        if rider is not None:
            self._riders[key] = rider
        return key

    def forget(self, key: CancelKey) -> None:
        self._riders.pop(key, None)

    async def cancel(self, pid: int, secret: bytes, timeout: float) -> None:
        """Pass a cancel on; quietly nothing for a wrong key or a client that asks for nothing just now."""
        rider = self._riders.get((pid, secret))
        if rider is None:
            return
        upstream = rider.upstream
        if upstream is None or not rider.owed:
            return
        pool = rider.pool
        upstream.cancels += 1
        stream: Stream | None = None
        try:
            async with asyncio.timeout(timeout or None):
                stream, _ = await open_route(upstream.route, pool.dialling)
                await stream.write(startup.pack_cancel(upstream.pid, upstream.secret))
                while await stream.recv(64):
                    pass                       # the server closes when the signal has been sent
        except (ProxyError, OSError, EOFError, TimeoutError) as fault:
            log.warning("cancel request did not reach the server", extra={"fields": {
                "plugin": pool.target.plugin, "error": str(fault) or type(fault).__name__}})
        finally:
            if stream is not None:
                stream.close()
            pool.cancel_done(upstream)
