"""One MySQL client riding its upstream, from its login to its end: always in session mode.

Both sockets are raw and registered with the loop once; an event is one receive, one walk over headers (session/mysql_link) and
one send.  What a peer does not take at once is kept beside it, and until that has gone the other one is not read.
What is not passed on as it is, is mysql/thinking's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from proxy.errors import ProxyError, Shutdown, UpstreamFault
from proxy.hot import hot
from proxy.mysql.pool import key_of
from proxy.mysql.thinking import Decide, Thinking
from proxy.net.readers import readers
from proxy.pool.upstream import Key, Upstream
from proxy.relay.pump import BUF, BULK, VIEW, WOULD_BLOCK
from proxy.session.link import I
from proxy.session.mysql_link import T
from proxy.wire.mysql import Can, packets
from proxy.wire.mysql_errors import LostServer, error_packet

if TYPE_CHECKING:
    from proxy.pool.lane import Place
    from proxy.pool.pool import Pool
    from proxy.pool.tally import Tally

_SMALL = VIEW[:BULK]


class Relay(Thinking):
    def __init__(self, sock: socket.socket, pool: Pool, tally: Tally, capabilities: Can, charset: int, decide: Decide) -> None:
        super().__init__(tally, capabilities)
        self.sock, self.fd = sock, sock.fileno()
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.loop = asyncio.get_running_loop()
        self.readers = readers(self.loop)
        self.pool = pool
        self.key: Key = key_of(capabilities, charset)
        self.settings = None                 # whatever the upstream has: a reset makes all of them alike
        self.adapts = False
        self.decide = decide
        self.upstream: Upstream | None = None
        self.place: Place | None = None
        self.waiter: asyncio.Future[Upstream] | None = None
        self.up_fd, self.plain = -1, False
        self.held = b""                      # from the command on that needs thought
        self.backlog: bytearray | None = None
        self.reading = self.big = self.big_up = False
        self.draining = False
        self.tainted = False                 # has set what no reset takes back
        self.open = False                    # PostgreSQL's: a request without a Sync
        self.opened = -1.0, 0.0
        self.noticed: Place | None = None
        self.granted_at = 0.0
        self.striking: Upstream | None = None        # what a KILL of ours is on its way to
        self._done: asyncio.Future[tuple[str, ProxyError | None]] = self.loop.create_future()

    # -- life ---------------------------------------------------------------------------------------------

    async def lease(self) -> Upstream:
        """Wait for an upstream, before the relay runs."""
        upstream = self.pool.take(self)
        if upstream is not None:
            self.tally.wait_time.observe(0.0)
            self._mount(upstream)
            return upstream
        future: asyncio.Future[Upstream] = self.loop.create_future()
        self.waiter = future
        while self.pool.successor is not None:
            self.pool = self.pool.successor
        place = self.pool.request(self)
        if not place.settled:
            self.place = place
        try:
            return await future
        finally:
            self.waiter = None
            if not future.done() or future.cancelled():
                self._withdraw()

    async def tell_server(self, statements: Sequence[str]) -> None:
        """What the client has set before it had a server.  Raises the server's refusal."""
        upstream = self.upstream
        assert upstream is not None
        future: asyncio.Future[bool] = self.loop.create_future()
        upstream.rider = None
        self.used = True

        def told(well: bool) -> None:
            if not future.done():
                future.set_result(well)

        upstream.run(statements, told, self.pool.dialling.connect_timeout)
        if not await future:
            self.upstream, self.up_fd = None, -1
            self.pool.lost(upstream)
            raise upstream.refusal or LostServer("Lost connection to MySQL server during query")
        upstream.rider = self
        if any(statement[:5].lower() in ("begin", "start") for statement in statements):
            self.status = T

    def granted(self, upstream: Upstream) -> None:
        """The pool's answer, good news."""
        self.pool = upstream.pool
        self.tally.wait_time.observe(self.pool.clock() - self.place.since if self.place is not None else 0.0)
        self.place = None
        if self.waiter is None or self.waiter.done():
            self.pool.give_back(upstream)
            return
        self._mount(upstream)
        self.waiter.set_result(upstream)

    def failed(self, fault: ProxyError) -> None:
        self.place = None
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(fault)

    def _withdraw(self) -> None:
        if self.place is not None:
            self.place.pool.withdraw(self.place)
            self.place = None

    def _mount(self, upstream: Upstream) -> None:
        self.upstream = upstream
        upstream.rider = self
        self.up_fd, self.plain = upstream.fd, not (self.tls or upstream.tls)
        self.tally.leases += 1

    async def run(self) -> tuple[str, ProxyError | None]:
        """Relay until one side ends.  Returns the reason and what the client is still to be told."""
        self.granted_at = self.since = perf_counter()
        self.resume()
        if self.draining:
            self.drain()
        try:
            return await self._done
        finally:
            self.pause()

    def finish(self, reason: str, fault: ProxyError | None = None) -> None:
        self.pause()
        if self.backlog is not None:
            self.loop.remove_writer(self.fd)
        if not self._done.done():
            # In the middle of a packet an error would be read as a part of it: there the end of the stream says it all.
            self._done.set_result((reason, fault if self.between else None))

    def last_packet(self, fault: ProxyError) -> bytes:
        """What `finish` was told, as the next packet that the client awaits."""
        return packets(error_packet(fault), self.up_sequence + 1 if self.answering else 1 if self.owed else 0)

    def part(self) -> None:
        """The client is gone: give the upstream back if that is safe, else close it."""
        self._withdraw()
        self._struck()
        upstream, self.upstream, self.up_fd = self.upstream, None, -1
        if upstream is None:
            return
        upstream.rider = None
        if self.owed or self.partial or not self.between or upstream.backlog is not None or upstream.broken or self.tainted:
            upstream.close()
            self.pool.lost(upstream)
            return
        if self.status != I:
            self.pool.counters.rollbacks += 1
        self.pool.give_back(upstream, statements=self.pool.reset() if self.used else ())

    def drain(self) -> None:
        """End at the next moment without a transaction."""
        self.draining = True
        if not self._done.done() and self.status == I and not self.owed and not self.partial:
            self._end_of_work()

    def _end_of_work(self) -> None:
        self.finish("shutting down", Shutdown("Server shutdown in progress"))

    def tell(self, message: bytes) -> None:
        """MySQL has no notices."""

    # -- client -> upstream -------------------------------------------------------------------------------

    def resume(self) -> None:
        if not self.reading and not self._done.done():
            self.reading = True
            self.readers.add(self.fd, self.client_event)
            if self.tls and self.sock.pending():  # type: ignore[attr-defined]
                self.loop.call_soon(self._again)

    def pause(self) -> None:
        if self.reading:
            self.reading = False
            self.readers.remove(self.fd)

    def _again(self) -> None:
        """What TLS has decrypted already raises no event."""
        if self.reading:
            self.client_event()

    if TYPE_CHECKING or hot is None:
        def client_event(self) -> None:
            self.on_client()

        def upstream_event(self) -> None:
            self.on_upstream()

    def on_client(self) -> None:  # hot
        try:
            n = self.sock.recv_into(VIEW if self.big else _SMALL)
        except WOULD_BLOCK:
            return
        except OSError:
            n = -1
        if n <= 0:
            self._client_ended(n)
            return
        self.big = n >= BULK
        self.tally.from_client += n
        self._client_bytes(n)
        if self.tls and self.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(self._again)

    def _client_ended(self, n: int) -> None:
        self.finish("client connection lost" if n else "client closed the connection")

    def _client_bytes(self, n: int) -> None:  # hot
        """VIEW[:n] is what the client has said."""
        try:
            if self.held:
                self.held += VIEW[:n]
                self._think()
            elif self.from_client(BUF, n):
                self.held = bytes(VIEW[self.cut:n])
                if self.cut:
                    self._forward(VIEW[:self.cut])
                self._think()
            else:
                self._forward(VIEW[:n])
        except ProxyError as fault:
            self.finish("protocol violation by the client", fault)

    def _forward_rest(self, told: int) -> None:
        """The compiled twin could not send all: `told` is sent << 32 | n, or -1 for a broken upstream."""
        if told < 0:
            self.pause()                      # it may have said why before it went: the reader will see
        elif self.upstream is not None:
            self.upstream.push(VIEW[told >> 32:told & 0xFFFFFFFF])
            self.pause()

    def _forward(self, data: memoryview | bytes) -> None:  # hot
        upstream = self.upstream
        if upstream is None:
            return
        if upstream.backlog is not None:
            upstream.push(data)
            self.pause()
            return
        try:
            sent = upstream.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self.pause()                      # it may have said why before it went: the reader will see
            return
        if sent < len(data):
            upstream.push(data[sent:])
            self.pause()

    def on_upstream_writable(self) -> None:
        """The upstream took what it would not take before."""
        if not self.owed or not self.held:
            self.resume()

    # -- upstream -> client -------------------------------------------------------------------------------

    def on_upstream(self) -> None:  # hot
        upstream = self.upstream
        if upstream is None:
            return
        try:
            n = upstream.recv_into(VIEW if self.big_up else _SMALL)
        except WOULD_BLOCK:
            return
        except OSError:
            n = 0
        if not n:
            self._upstream_lost(upstream)
            return
        self.big_up = n >= BULK
        self.tally.from_upstream += n
        self._upstream_bytes(n)
        if upstream.tls and not upstream.broken and upstream.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(upstream.again)

    def _upstream_ended(self) -> None:
        if self.upstream is not None:
            self._upstream_lost(self.upstream)

    def _upstream_bytes(self, n: int) -> None:  # hot
        """VIEW[:n] is what the server has said."""
        assert self.upstream is not None
        try:
            ended = self.from_upstream(BUF, n)
        except UpstreamFault as fault:
            self._upstream_lost(self.upstream, fault)
            return
        self._to_client(VIEW[:n])
        if ended:
            self._after_answers()

    def _after_answers(self) -> None:
        """Nothing is owed: what waited for that is looked at."""
        if self._done.done():
            return
        if self.striking is not None:
            self._struck()
        if self.held:
            try:
                self._think()
            except ProxyError as fault:
                self.finish("protocol violation by the client", fault)
                return
        if self.draining and not self.owed and self.status == I:
            self._end_of_work()

    def _to_client_rest(self, told: int) -> None:
        """The compiled twin could not send all: `told` is sent << 32 | n, or -1 for a broken client."""
        if told < 0:
            self.finish("client connection lost")
            return
        self._keep(VIEW[told >> 32:told & 0xFFFFFFFF])
        self._after_answers()

    def _to_client(self, data: memoryview | bytes) -> None:  # hot
        if self.backlog is not None:
            self.backlog += data
            return
        try:
            sent = self.sock.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self.finish("client connection lost")
            return
        if sent < len(data):
            self._keep(data[sent:])

    def _keep(self, rest: memoryview | bytes) -> None:
        """The client is slow: nothing more is read for it until this has gone."""
        self.backlog = bytearray(rest)
        self.loop.add_writer(self.fd, self._client_writable)
        if self.upstream is not None:
            self.upstream.pause()

    def _client_writable(self) -> None:
        assert self.backlog is not None
        try:
            sent = self.sock.send(self.backlog)
        except WOULD_BLOCK:
            return
        except OSError:
            self.finish("client connection lost")
            return
        del self.backlog[:sent]
        if not self.backlog:
            self.backlog = None
            self.loop.remove_writer(self.fd)
            if self.upstream is not None:
                self.upstream.resume()

    def _upstream_lost(self, upstream: Upstream, fault: UpstreamFault | None = None) -> None:
        told = self.told
        self.upstream, self.up_fd = None, -1
        upstream.rider = None
        upstream.close()
        self.pool.lost(upstream)
        if told:
            self.finish("terminated by the server")
        else:
            self.finish("upstream connection lost", fault or LostServer("Lost connection to MySQL server during query"))

