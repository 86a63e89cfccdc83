"""One client riding its upstreams: who pumps into whom.

Both sockets are raw, non-blocking and registered with the loop once; relay/pump does an event, what it cannot do alone is
done here.  What the other side would not take at once is kept beside it, and until it has gone the flooding side is not
read: that is all the back-pressure there is.

In session mode a client keeps its upstream until it leaves.  In transaction mode it gives it back whenever the Link
says IDLE and nothing pins it; bytes that arrive without an upstream wait in `held` (bounded: then the client is not
read) until the pool grants one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from proxy.config.mode import Mode
from proxy.errors import ProxyError, Shutdown, UpstreamFault
from proxy.hot import hot
from proxy.net.readers import readers
from proxy.pool.dedicated import Dedicated
from proxy.pool.lane import Place
from proxy.pool.pool import Pool
from proxy.pool.tally import Tally
from proxy.pool.upstream import Key, Settings, Upstream
from proxy.relay.boarding import Boarding
from proxy.relay.pump import AWAY, BROKEN, CLOSED, LOST, PUSHED, SETTLE, SHORT, VIEW, WALKED, WOULD_BLOCK
from proxy.session.link import IDLE, TERMINATE, THINK, I
from proxy.session.queued import UpToSync
from proxy.wire import messages


class Relay(Boarding):
    __slots__ = (
        "_done", "concerns_databases", "loop", "mode", "noticed", "opened", "readers", "skip",
    )

    def __init__(self, sock: socket.socket, pool: Pool, tally: Tally, key: Key, settings: Settings | None,
                 concerns_databases: Callable[[bytes], None]) -> None:
        self.mode = pool.settings.mode
        super().__init__(sock, tally, watch=self.mode in (Mode.TRANSACTION, Mode.STATEMENT))
        self.loop = asyncio.get_running_loop()
        self.readers = readers(self.loop)
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.swift = hot is not None and not self.tls
        self.pool = pool
        self.key = key
        self.settings = settings             # the tracked settings this client must find; None: whatever there is
        self.upstream: Upstream | None = None
        self.place: Place | None = None      # in the pool's queue
        self.skip: UpToSync | None = None    # a request that waited was cancelled in the middle
        self.waiter: asyncio.Future[Upstream] | None = None
        self.held = b""
        self.backlog: bytearray | None = None
        self.reading = False
        self.draining = False
        self.leaving = False                 # said goodbye behind requests that are still to be answered
        self.concerns_databases = concerns_databases
        self.granted_at = 0.0                # when the last wait was over: a query's time does not begin before it
        self.opened = -1.0, 0.0              # `since`, and when it was first seen waiting without a Sync
        self.noticed: Place | None = None    # in which the client has been told that it waits
        self.drop_left = 0
        self.pid = 0
        self._done: asyncio.Future[tuple[str, ProxyError | None]] = self.loop.create_future()

    # -- life ---------------------------------------------------------------------------------------------

    async def run(self) -> tuple[str, ProxyError | None]:
        """Relay until one side ends.  Returns the reason and what the client is still to be told."""
        self.granted_at = perf_counter()
        self.resume()
        if self.draining and self.status == I and not self.owed:
            self._end_of_work()
        try:
            return await self._done
        finally:
            self.pause()

    def finish(self, reason: str, fault: ProxyError | None = None) -> None:
        self.pause()
        if self.backlog is not None:
            self.loop.remove_writer(self.fd)
        if not self._done.done():
            # In the middle of a message an error would be read as a part of it: there the end of the stream says it all.
            self._done.set_result((reason, None if self.u_left or self.u_part else fault))

    def part(self) -> None:
        """The client is gone: give the upstream back if that is safe, else close it."""
        self._withdraw()
        upstream = self._dismount()
        if upstream is None:
            return
        upstream.rider = None
        if not self.settled or upstream.backlog is not None or upstream.broken or self.fatal:
            upstream.close(working=not self.settled)
            self.pool.lost(upstream)
            return
        self._note_settings(upstream)
        statements = []
        unclean = self._before_parting(upstream)
        if self.status != I:
            # A client lost in a transaction costs a ROLLBACK, not the connection.
            statements.append("ROLLBACK")
            self.pool.counters.rollbacks += 1
        if unclean:
            statements += self.pool.reset()
            upstream.anew()
        self.pool.give_back(upstream, statements=statements)

    def known_as(self, pid: int) -> None:
        """What the client takes for the process id of its server."""
        self.pid = pid

    def _before_parting(self, upstream: Upstream) -> bool:
        """Does the client leave something behind that others could meet?"""
        return bool(self.used and (self.mode is Mode.SESSION or self.dirty or self.pinned))

    def drain(self) -> None:
        """End at the next moment without a transaction."""
        self.draining = True
        if self._done.done():
            return
        if (self.upstream is None and not self.held) or (
                self.status == I and not self.owed and not self.open and not self.partial):
            self._end_of_work()

    def _end_of_work(self) -> None:
        if self.leaving:
            self.finish("client said goodbye")
        else:
            self.finish("shutting down", Shutdown("terminating connection due to administrator command"))

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

    def on_client(self) -> None:  # hot
        try:
            outcome = self.pump_client()
        except ProxyError as fault:
            self._client_fault(fault)
            return
        if outcome:
            self._client_outcome(outcome)
        if self.tls and self.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(self._again)

    def _client_fault(self, fault: Exception) -> None:
        if not isinstance(fault, ProxyError):
            raise fault
        self.finish("protocol violation by the client", fault)

    def _client_outcome(self, outcome: int) -> None:
        if outcome & AWAY:
            try:
                if outcome & WALKED:
                    self._hold(bytes(VIEW[:self.got]), outcome)
                else:
                    self._without_upstream(self.got)
            except ProxyError as fault:
                self._client_fault(fault)
        elif outcome & SETTLE:
            self._maybe_release()
        elif outcome & (TERMINATE | THINK):
            self._thoughtful(outcome)
        elif outcome & SHORT:
            self._push_rest()
        elif outcome & BROKEN:
            self._upstream_broken()
        else:
            self.finish("client connection lost" if outcome & LOST else "client closed the connection")

    def _thoughtful(self, outcome: int) -> None:
        """A statement to look at, or a goodbye; the bytes have not been sent yet."""
        if outcome & THINK:
            self._think()
        n = 0 if outcome & PUSHED else self.cut if outcome & TERMINATE else self.got
        after = self.push_client(n) if n else 0
        if after & SHORT:
            self.got = n
            self._push_rest()
        elif after & BROKEN:
            self._upstream_broken()
            return
        if outcome & TERMINATE:
            self._leave()
        elif after & SETTLE:
            self._maybe_release()

    def _leave(self) -> None:
        """A goodbye.  Behind unanswered requests: PostgreSQL runs them and answers before it goes."""
        if not self.owed or self.copying:
            self.finish("client said goodbye")
            return
        self.pause()
        self.leaving = self.draining = True
        if hot is not None:
            self.swift = False                 # each event asks whether it was the last
        if isinstance(self.pool, Dedicated) and self.upstream is not None:
            self.upstream.push(messages.message(b"X"))   # a stream of WAL has no end to be awaited: the server knows

    def _push_rest(self) -> None:
        """The upstream is slow: keep the rest, read no more from the client until it has gone."""
        assert self.upstream is not None
        self.upstream.push(VIEW[self.sent:self.got])
        self.pause()

    def _upstream_broken(self) -> None:
        """It may have said why before it went: read that first."""
        assert self.upstream is not None
        self.pause()
        self.upstream.resume()

    def on_upstream_writable(self) -> None:
        """The upstream took what it would not take before."""
        if not self.leaving:
            self.resume()

    def _think(self) -> None:
        statement, self.statement = self.statement, None
        if statement is not None:
            self.concerns_databases(statement)

    # -- leases -------------------------------------------------------------------------------------------

    def _request(self) -> None:
        if self.since == 0.0:
            self.since = perf_counter()
        while self.pool.successor is not None:
            self.pool = self.pool.successor    # a reload has put another in its place
        place = self.pool.request(self)
        if not place.settled:
            self.place = place

    def _withdraw(self) -> None:
        if self.place is not None:
            self.place.pool.withdraw(self.place)
            self.place = None

    def granted(self, upstream: Upstream) -> None:
        """The pool's answer, good news; a reload may have put another pool in the place of the one that was asked."""
        self.pool = upstream.pool
        if self.place is not None:
            self.tally.wait_time.observe(self.pool.clock() - self.place.since)
            self.granted_at = perf_counter()
        else:
            self.tally.wait_time.observe(0.0)
        self.place = None
        if self._done.done() or (self.waiter is not None and self.waiter.done()):
            self.pool.give_back(upstream)
            return
        self._board(upstream)
        if self.waiter is not None:
            self.waiter.set_result(upstream)

    def failed(self, fault: ProxyError) -> None:
        """The pool's answer, bad news."""
        self.place = None
        if self.waiter is not None:
            if not self.waiter.done():
                self.waiter.set_exception(fault)
        else:
            self.finish("no upstream connection", fault)

    @property
    def adapts(self) -> bool:
        """Does it take an upstream with other settings, and see to them itself?"""
        return False

    def _mount(self, upstream: Upstream) -> None:  # hot
        self.upstream = upstream
        self.up = upstream.sock
        self.up_fd = upstream.fd
        if hot is not None:
            self.swift = not (self.tls or upstream.tls or self.leaving)
        if self.backlog is not None:
            upstream.pause()                   # earlier answers first
        upstream.rider = self
        self.tally.leases += 1

    def _dismount(self) -> Upstream | None:  # hot
        upstream = self.upstream
        self.upstream = self.up = None
        self.up_fd = -1
        if hot is not None:
            self.swift = not self.tls
        return upstream

    def _board(self, upstream: Upstream) -> None:
        self._mount(upstream)
        held = self.held
        if not held:
            return
        self.held = b""
        try:
            sent = upstream.send(held)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            return                             # the reader will see the end
        if sent < len(held):
            upstream.push(held[sent:])
            self.pause()
        elif not self.leaving:
            self.resume()

    def _maybe_release(self) -> None:
        """The rest of a message came behind the last answer: nothing is owed any more?"""
        if self.settled and not self.pinned and self.upstream is not None and self.watch and self.used:
            self._release()

    def _release(self) -> None:  # hot
        upstream = self.upstream
        assert upstream is not None
        upstream.last_pid = self.pid
        self.upstream = self.up = None           # _dismount, in line
        self.up_fd = -1
        if hot is not None:
            self.swift = not self.tls
        if self.reported is not None:
            self._note_settings(upstream)
        self.used = False
        if self.dirty:
            self.dirty = False
            self.pool.give_back(upstream, statements=self.pool.reset())
        else:
            self.pool.give_back(upstream)

    def _note_settings(self, upstream: Upstream) -> None:
        """What the server reported while we rode is what this client must find again."""
        if self.reported is not None:
            upstream.reported(self.reported)
            self.reported = None
            self.settings = upstream.settings

    # -- upstream -> client -------------------------------------------------------------------------------

    def on_upstream(self) -> None:  # hot
        upstream = self.upstream
        if upstream is None:
            return
        try:
            outcome = self.pump_upstream()
        except UpstreamFault as fault:
            self._upstream_fault(fault)
            return
        if outcome:
            self._upstream_outcome(outcome)
        if self.leaving and not self._done.done() and (self.copying or not (self.owed or self.u_left or self.u_part)):
            self.finish("client said goodbye")
        if upstream.tls and not upstream.broken and upstream.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(upstream.again)

    def _upstream_outcome(self, outcome: int) -> None:  # hot
        upstream = self.upstream
        assert upstream is not None
        if outcome & (CLOSED | LOST):
            self._upstream_lost(upstream)
        elif outcome & BROKEN:
            self.finish("client connection lost")
        else:
            if outcome & SHORT:
                self._keep(VIEW[self.sent:self.got], upstream)
            if outcome & IDLE:
                if self.draining:
                    self._end_of_work()
                elif self.watch and not self.pinned:
                    self._release()

    def _upstream_fault(self, fault: Exception) -> None:
        if not isinstance(fault, UpstreamFault) or self.upstream is None:
            raise fault
        self._upstream_lost(self.upstream, fault)

    if TYPE_CHECKING or hot is None:
        def client_event(self) -> None:
            self.on_client()                   # which a relay of mode `auto` has of its own kind

        def upstream_event(self) -> None:
            self.on_upstream()

    def _upstream_lost(self, upstream: Upstream, fault: UpstreamFault | None = None) -> None:
        told = self.fatal                     # its own farewell has been passed on already
        self._dismount()
        upstream.rider = None
        upstream.close()
        self.pool.lost(upstream)
        if self.leaving and isinstance(self.pool, Dedicated):
            self.finish("client said goodbye")
        elif told:
            self.finish("terminated by the server")
        else:
            self.finish("upstream connection lost", fault or UpstreamFault("server closed the connection unexpectedly"))

    def _keep(self, rest: memoryview, upstream: Upstream) -> None:
        """The client is slow: keep the rest, read no more from the upstream until it has gone."""
        if self.backlog is None:
            self.backlog = bytearray(rest)
            self.loop.add_writer(self.fd, self._client_writable)
        else:
            self.backlog += rest
        upstream.pause()

    def tell(self, message: bytes) -> None:
        """A message of ours between two of the server's; left out where the client does not read."""
        if self.backlog is not None or self.u_left or self.u_part or self._done.done():
            return
        try:
            sent = self.sock.send(message)
        except OSError:
            return                             # the reader will see why
        if 0 < sent < len(message):
            self.backlog = bytearray(message[sent:])
            self.loop.add_writer(self.fd, self._client_writable)

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
            upstream: Any = self.upstream
            if upstream is not None:
                upstream.resume()
