"""The second wire of a worker: its sockets, what is known of the servers behind it, and the ids of its clients.

A MySQL server greets first, with its version, what it can do and the id of the connection; so must we, before we know where
the client wants to go.  The version and the abilities are those of the servers that we have met; the id is one of ours, far
above those that servers give out, and KILL knows both (server/mysql_client).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxy.auth.mysql import Remembered
from proxy.auth.mysql_rsa import Key
from proxy.config.target import Credential, Engine, Secret, Target
from proxy.errors import NotSupported, OperatorFault, ProxyError
from proxy.mysql.pool import MysqlPool
from proxy.mysql.provision import MysqlProvision
from proxy.mysql.reach import MysqlReach, goodbye, parameters_of
from proxy.net.stream import Stream
from proxy.net.tasks import keep
from proxy.server.listener import Listener
from proxy.server.mysql_admission import any_verifier
from proxy.server.mysql_client import Session, refusal_early, serve
from proxy.session.mysql_handshake import Offer
from proxy.session.mysql_login import Wish
from proxy.wire.mysql import RELAYED, Command, packets
from proxy.wire.mysql_errors import error_packet

if TYPE_CHECKING:
    from proxy.config.settings import Pool as PoolSettings
    from proxy.pool.upstream import Upstream
    from proxy.server.worker import Worker

log = logging.getLogger(__name__)
UNKNOWN_VERSION = "8.0.0-switchboard"
FIRST_ID, LAST_ID = 1 << 30, (1 << 31) - 1          # positive whichever way a driver reads four bytes
PATIENCE = 1.0               # seconds that a client waits for the version of the first server
SILENCE = 5.0                # seconds: drivers of MySQL wait for ten
AGAIN = 5.0                  # seconds before a server that did not tell is asked again


class MysqlDoor:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.listener = Listener(worker, serve, refusal_early, key="mysql.listen")
        self.reach = MysqlReach(worker.mint)
        self.provision = MysqlProvision(worker.provision, self.reach)
        self.remembered = Remembered()
        self.rsa_key: Key | None = None
        self.any_verifier = False
        self.sessions: dict[int, Session] = {}
        self._ids = itertools.cycle(range(FIRST_ID, LAST_ID))
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -AGAIN

    # -- listening ----------------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Does the base or a listed plugin live in MySQL?"""
        configuration = self.worker.configuration
        try:
            base = [configuration.target("base")]
        except ProxyError:
            base = []
        return bool(self.worker.settings.mysql.listen) and any(
            target.engine is Engine.MYSQL for target in (*configuration.targets(), *base))

    def listen(self) -> list[str]:
        """Returns the real addresses; none where nobody needs us."""
        self.apply()
        settings = self.worker.settings.mysql
        if not self.wanted:
            return []
        if settings.rsa_key is not None:
            self.rsa_key = Key(settings.rsa_key)
        self._make_key()
        self.listener.bind(settings.listen, settings.port, "mysql.sock")
        self._ask()
        return self.listener.listen()

    def apply(self) -> None:
        """A configuration, the first or another."""
        self.provision.settings = self.worker.settings
        self.any_verifier = any_verifier(self.worker)
        self._asked_at = -AGAIN
        if self.listener.sockets:
            self._make_key()
        elif self.worker.ready and self.wanted:
            log.warning("needs a restart", extra={"fields": {"setting": "mysql.listen"}})

    def _make_key(self) -> None:
        """Under which a client without TLS may send its password, if anybody has to be asked for it."""
        if self.rsa_key is None and self.any_verifier:
            try:
                self.rsa_key = Key()
            except OperatorFault as fault:
                log.warning("passwords of users with a verifier are taken over TLS only", extra={"fields": {"reason": fault.message}})

    @property
    def address(self) -> str | None:
        """Where MySQL clients knock."""
        return next(iter(self.listener.addresses), None)

    @contextlib.contextmanager
    def awaited_elsewhere(self, stream: Stream) -> Iterator[None]:
        """Around the first packet of a PostgreSQL client.  One of MySQL's waits for a greeting there, and both would wait for ever:
        before its patience ends it is told in its own words where to knock."""
        def tell() -> None:
            if not stream.heard and not stream.buffered():
                fault = NotSupported("This port speaks PostgreSQL's protocol", hint=f"Connect a MySQL client to {self.address}")
                with contextlib.suppress(OSError):
                    stream.sock.send(packets(error_packet(fault, early=True)))
                    stream.sock.shutdown(socket.SHUT_WR)

        timer = self.worker.loop.call_later(SILENCE, tell)
        try:
            yield
        finally:
            timer.cancel()

    # -- greeting -----------------------------------------------------------------------------------------

    async def offer(self, *, tls: bool, tls_required: bool) -> Offer:
        version = self.worker.settings.mysql.server_version
        if self.reach.version is None and version is None:
            task = self._ask()
            if task is not None:
                await asyncio.wait([task], timeout=PATIENCE)
        while (thread := next(self._ids)) in self.sessions:
            pass
        return Offer(version=version or self.reach.version or UNKNOWN_VERSION, thread=thread,
                     capabilities=self.reach.capabilities & RELAYED, tls=tls, tls_required=tls_required)

    def _ask(self) -> asyncio.Task[None] | None:
        """Meet the first server, so that clients are greeted as it would greet them."""
        now = self.worker.loop.time()
        if self._asking is None and now - self._asked_at >= AGAIN:
            self._asked_at = now
            self._asking = keep(self._meet(), name="the version of MySQL")
            self._asking.add_done_callback(lambda _: setattr(self, "_asking", None))
        return self._asking

    async def _meet(self) -> None:
        configuration = self.worker.configuration
        for plugin in (*configuration.listed, "base"):
            try:
                target = configuration.target(plugin)
                if target.engine is not Engine.MYSQL or target.server is None or target.credential is None:
                    continue
                reached = await self.reach.connect(target.server, target.credential, parameters_of(Wish()),
                                                   self.worker.settings.upstream)
                goodbye(reached.sock)
                return
            except ProxyError as fault:
                log.debug("plugin %s: %s", plugin, fault.message)

    # -- pools and kills ----------------------------------------------------------------------------------

    def pool(self, target: Target, settings: PoolSettings) -> MysqlPool:
        return MysqlPool(target, settings, self.worker.settings.upstream, self.provision.ensure, self.provision.forget, self.reach,
                         self.worker.budget_of(target))

    async def strike(self, upstream: Upstream, words: str = "KILL QUERY") -> None:
        """Over a connection of its own: whoever is struck may have the pool's last one."""
        target = upstream.pool.target
        assert target.server is not None
        who = target.credential or Credential(user="", password=Secret(""))
        upstream.cancels += 1
        try:
            reached = await self.reach.connect(target.server, who, parameters_of(Wish()), upstream.pool.dialling)
            stream = Stream(reached.sock)
            try:
                async with asyncio.timeout(self.worker.settings.upstream.connect_timeout or None):
                    await stream.write(packets(bytes((Command.QUERY,)) + f"{words} {upstream.pid}".encode()))
                    await stream.read_packet()
            finally:
                stream.unwatch()
                goodbye(reached.sock)
        except (ProxyError, OSError, EOFError, TimeoutError) as fault:
            log.warning("a KILL did not reach the server", extra={"fields": {
                "plugin": target.plugin, "error": str(fault) or type(fault).__name__}})
        finally:
            upstream.pool.cancel_done(upstream)
