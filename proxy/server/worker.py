"""The daemon's one loop: listening sockets, clients, pools, and what is asked of them from outside.

Signals: SIGTERM and SIGINT drain (a second one ends now), SIGHUP reloads.  A reload keeps every pool whose Target and
settings are unchanged; the others get a successor, and what is leased goes on to its end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy.auth.password import disguise, verifier_of
from proxy.auth.rules import networks
from proxy.config.clients import User
from proxy.config.generate import changes_needing_restart
from proxy.config.routing import APPLICATION_PREFIX
from proxy.config.target import Engine, Target
from proxy.errors import ConfigProblems, ProxyError, Shutdown, UnknownDatabase
from proxy.mysql.relay import Relay as MysqlRelay
from proxy.net.deadline import Deadline
from proxy.net.ends import LAST_WORDS, ended
from proxy.net.tasks import keep
from proxy.net.tls import server_context
from proxy.pool.budget import Budget
from proxy.pool.pool import Pool
from proxy.pool.provision import Provision
from proxy.pool.reach import Reach
from proxy.pool.tally import Tally
from proxy.server import systemd
from proxy.server.cancel import CancelKeys
from proxy.server.certificates import configured
from proxy.server.client import Client, serve
from proxy.server.files import Files
from proxy.server.gate import Gate
from proxy.server.limits import Heads, Throttle
from proxy.server.listener import Listener
from proxy.server.lookup import Lookup
from proxy.server.mysql_door import MysqlDoor
from proxy.server.overdue import sweep
from proxy.server.pools import Pools
from proxy.server.quota import Quota
from proxy.server.snapshot import snapshot
from proxy.tokens.mint import Mint
from proxy.wire import messages
from proxy.wire.startup import CancelRequest, Startup

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration
    from proxy.net.stream import Stream
    from proxy.pool.upstream import Upstream
    from proxy.relay.relay import Relay

log = logging.getLogger(__name__)
SWEEP = 1.0                 # seconds between two looks at idle upstreams
MAX_ROUTES = 1000
ASIDE = ("(maintenance)", "(console)")


class Worker(Pools):
    def __init__(self, configuration: Configuration, *, reread: Callable[[], Configuration] | None = None) -> None:
        self.configuration = configuration
        self.settings = configuration.settings
        self.reread = reread
        self.loop = asyncio.get_running_loop()
        self.tls = server_context(self.settings.tls)
        self.certificates = configured(self.configuration)
        self.mint = Mint()
        self.provision = Provision(self.settings, self.mint, self.budget_of)
        self.reach = Reach(self.mint)
        self.keys = CancelKeys()
        self.disguise = disguise(self._words(), self.settings.auth.scram_iterations)
        self.heads = Heads()
        self.throttle = Throttle(self.settings.auth.throttle_failures, self.settings.auth.throttle_window)
        self.gate = Gate(self.settings.auth)
        self.lookup = self._lookup()
        self.balancers = networks(self.settings.proxy_protocol.trusted)
        self.routes: dict[tuple[str, str], Target] = {}       # of this configuration, by database and application_name
        self.pools: dict[str, Pool] = {}
        self.old_pools: list[Pool] = []
        self.tallies: dict[tuple[str, str, str], Tally] = {}
        self.budgets: dict[str, Budget] = {}  # by server
        self.clients: set[Client] = set()
        self.tasks: dict[Client, asyncio.Task[None]] = {}
        self.logins = Deadline(self.settings.auth.login_timeout)
        self.auth_failures: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.door = Listener(self, serve, messages.error_response)
        self.mysql = MysqlDoor(self)
        self.started_at = self.loaded_at = time.time()
        self.reload_ok = True
        self.ready = self.draining = False
        self.served = 0
        self.quota = Quota()
        self.files = Files()
        self.disabled: set[str] = set()       # plugins that the console has closed to newcomers
        self.embedded_alive: Callable[[], bool] | None = None
        self._stop = asyncio.Event()

    def _lookup(self) -> Lookup | None:
        query = self.settings.auth.query
        return Lookup(query, self.loop.time) if query.connection is not None else None

    def _words(self) -> list[str]:
        return [user.password.get_secret_value() for user in self.settings.users.values() if user.password is not None]

    def _warm(self) -> None:
        """Verifiers of plain passwords, ahead: a first login that waits for PBKDF2 would tell that the user exists."""
        words, rounds = self._words(), self.settings.auth.scram_iterations

        def work() -> None:
            for word in words[:1000]:
                if self._stop.is_set():
                    return
                verifier_of(word, rounds)

        keep(asyncio.to_thread(work), name="verifiers")

    # -- listening ----------------------------------------------------------------------------------------

    def listen(self) -> list[str]:
        """Bind, or take what systemd hands over.  Returns the real addresses."""
        self.door.sockets = systemd.listen_fds()
        if not self.door.sockets:
            self.door.bind(self.settings.listen, self.settings.port, f".s.PGSQL.{self.settings.port}")
        return self.door.listen()

    # -- what clients need --------------------------------------------------------------------------------

    def route(self, database: str, application_name: str) -> Target:
        """`configuration.route`, remembered until a reload: resolving reads the configuration as Backstage would."""
        if not application_name.startswith(APPLICATION_PREFIX):
            application_name = ""             # says nothing about the plugin, and may be anything
        asked = database, application_name
        target = self.routes.get(asked)
        if target is None:
            target = self.configuration.route(database, application_name)
            if len(self.routes) >= MAX_ROUTES:
                self.routes.clear()           # names come from clients
            self.routes[asked] = target
        return target

    def tally(self, target: Target, user: str) -> Tally:
        key = (target.plugin, str(target.server), user)
        found = self.tallies.get(key)
        if found is None:
            found = self.tallies[key] = Tally(*key)
        return found

    async def cancel(self, request: CancelRequest, client: Client) -> None:
        await self.keys.cancel(request.pid, request.secret, self.settings.upstream.connect_timeout, client.peer)

    async def hit(self, rider: Relay) -> None:
        """Cancel what that client asks for."""
        await self.keys.hit(rider, self.settings.upstream.connect_timeout)

    def _strike(self, upstream: Upstream) -> None:
        keep(self.mysql.strike(upstream) if upstream.pool.target.engine is Engine.MYSQL else
             self.keys.strike(upstream, self.settings.upstream.connect_timeout), name="cancel of what is overdue")

    def snapshot(self) -> dict[str, Any]:
        return snapshot(self)

    async def maintain(self, stream: Stream, hello: Startup, account: User) -> None:
        from proxy.server.maintenance import maintain

        await maintain(self, stream, hello, account)

    async def attend_console(self, stream: Stream, client: Client, hello: Startup, account: User) -> None:
        from proxy.server.console import serve_console

        await serve_console(self, stream, client, hello, account)

    def parted(self, client: Client) -> None:
        """The one way out: counters down, one line."""
        self.clients.discard(client)
        self.tasks.pop(client, None)
        self.heads.leave(client.counted)
        relay, tally = client.relay, client.tally
        if tally is not None:
            tally.clients -= 1
        level = logging.INFO if relay is not None or tally is not None or client.plugin in ASIDE else logging.WARNING
        wanted = client.reason and self.settings.log.connections and log.isEnabledFor(level)
        if wanted and (level == logging.INFO or self.quota.allows(client.address.rpartition(":")[0], client.sqlstate or client.reason)):
            log.log(level, "client left" if client.plugin else "client refused",
                    extra={"fields": {**self.line(client), "reason": client.reason,
                                      "seconds": round(time.monotonic() - client.since, 3)}})
        if self.draining and not self.clients:
            self._stop.set()

    def line(self, client: Client) -> dict[str, Any]:
        """What names a client in the log."""
        return {"client": client.serial, "address": client.address, "user": client.user, "database": client.database,
                "plugin": client.plugin, "tls": client.tls}

    # -- life ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until told to stop.  The sockets are bound by `listen` before."""
        for number, act in ((signal.SIGTERM, self.drain), (signal.SIGINT, self.drain), (signal.SIGHUP, self.reload)):
            self.loop.add_signal_handler(number, act)
        keep(self._housekeeping(), name="housekeeping")
        self.ready = True
        self._warm()
        systemd.notify(READY="1", STATUS=f"Serving {', '.join(self.door.addresses)}")
        try:
            await self._stop.wait()
        finally:
            await self._close()

    async def _housekeeping(self) -> None:
        watchdog = systemd.watchdog_interval()
        while not self._stop.is_set():
            now = self.loop.time()
            for pool in self.all_pools():
                pool.sweep(now)
            self.quota.sweep(now)
            self._look_for_ends()
            sweep([client.relay for client in self.clients if client.relay is not None], self._strike)
            if watchdog is not None:
                systemd.notify(WATCHDOG="1")
            try:
                async with asyncio.timeout(min(SWEEP, watchdog / 2) if watchdog else SWEEP):
                    await self._stop.wait()
            except TimeoutError:
                continue

    def _look_for_ends(self) -> None:
        """A client that was reset behind what it sent last holds no lease for ever (net/ends)."""
        riding = {client.relay.fd: client.relay for client in self.clients if client.relay is not None and client.relay.reading}
        for fd in ended(riding) if riding else ():
            relay = riding[fd]
            for _ in range(LAST_WORDS):
                if not relay.reading:
                    break
                relay.client_event()
        # Who is not read, because its server is slow: nobody else would notice.
        waiting = {client.relay.fd: client.relay for client in self.clients
                   if isinstance(client.relay, MysqlRelay) and not client.relay.reading}
        for fd in ended(waiting) if waiting else ():
            waiting[fd].finish("client connection lost")

    def reload(self) -> None:
        """SIGHUP: read the configuration again; a broken one changes nothing."""
        if self.reread is None:
            return
        systemd.notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            configuration = self.reread()
            tls = server_context(configuration.settings.tls)
        except ProxyError as fault:
            self.reload_ok = False
            for problem in fault.problems if isinstance(fault, ConfigProblems) else (fault.message,):
                log.error("reload failed, the old configuration stays", extra={"fields": {"problem": problem}})
        else:
            for key in changes_needing_restart(self.settings, configuration.settings):
                log.warning("needs a restart", extra={"fields": {"setting": key}})
            self.apply(configuration)
            self.tls = tls
            self.certificates = configured(self.configuration)
            log.info("reloaded", extra={"fields": {"fingerprint": configuration.fingerprint}})
        systemd.notify(READY="1")

    def apply(self, configuration: Configuration) -> None:
        self.configuration, self.settings = configuration, configuration.settings
        self.gate.apply(self.settings.auth)
        self.balancers = networks(configuration.settings.proxy_protocol.trusted)
        if self.lookup is not None and self.lookup.settings != self.settings.auth.query:
            keep(self.lookup.close(), name="old auth.query")
            self.lookup = None
        self.lookup = self.lookup or self._lookup()
        self.disguise = disguise(self._words(), self.settings.auth.scram_iterations)
        self.throttle.failures, self.throttle.window = self.settings.auth.throttle_failures, self.settings.auth.throttle_window
        self.routes.clear()
        self._warm()
        self.logins.seconds = self.settings.auth.login_timeout
        self.provision.settings = configuration.settings
        self.mysql.apply()
        self.loaded_at, self.reload_ok = time.time(), True
        logging.getLogger().setLevel(configuration.settings.log.level.upper())
        for plugin, pool in list(self.pools.items()):
            try:
                if self.settings.plugins == "listed" and plugin not in configuration.listed:
                    raise UnknownDatabase(plugin)
                target = configuration.target(plugin)
            except ProxyError:                # who is in stays in; nothing is kept warm for nobody
                for each in (pool, *pool.others.values()):
                    each.retire()
                    self.old_pools.append(each)
                pool.others.clear()
                del self.pools[plugin]
                continue
            pool = self.pool(target)
            for each in (pool, *pool.others.values()):
                each.dialling = configuration.settings.upstream

    def drain(self) -> None:
        """First call: no new clients, everybody leaves at the end of a transaction.  Second call: now."""
        if self.draining:
            self._stop.set()
            return
        self.draining = True
        systemd.notify(STOPPING="1", STATUS="Draining")
        log.info("draining", extra={"fields": {"clients": len(self.clients)}})
        self.door.deaf()
        self.mysql.listener.deaf()
        for client in list(self.clients):
            if client.relay is not None:
                client.relay.drain()
            elif client.session is None or client.session.leave():
                self.tasks[client].cancel()
        if not self.clients:
            self._stop.set()
        self.loop.call_later(self.settings.drain_timeout, self._stop.set)

    async def _close(self) -> None:
        for client in list(self.clients):
            if client.relay is not None:
                client.relay.finish("shutting down", Shutdown("terminating connection due to administrator command"))
        tasks = list(self.tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=2)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self.lookup is not None:
            await self.lookup.close()
        self.quota.tell()
        await self.files.stop()
        for pool in self.all_pools():
            pool.retire()
        self.door.close()
        self.mysql.listener.close()
        log.info("stopped", extra={"fields": {"served": self.served}})
