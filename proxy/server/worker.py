"""The daemon's one loop: listening sockets, clients, pools, and what is asked of them from outside.

Signals: SIGTERM and SIGINT drain (a second one ends now), SIGHUP reloads.  A reload keeps every pool whose Target and
settings are unchanged; the others get a successor, and what is leased goes on to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.auth.password import disguise, verifier_of
from proxy.auth.rules import networks
from proxy.config.address import split_address
from proxy.config.clients import User
from proxy.config.generate import changes_needing_restart
from proxy.config.routing import APPLICATION_PREFIX
from proxy.config.target import Target
from proxy.errors import ConfigProblems, OperatorFault, ProxyError, Shutdown, TooManyConnections, UnknownDatabase
from proxy.net.deadline import Deadline
from proxy.net.dial import tune
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
from proxy.server.gate import Gate
from proxy.server.limits import Heads, Throttle
from proxy.server.lookup import Lookup
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

log = logging.getLogger(__name__)
SWEEP = 1.0                 # seconds between two looks at idle upstreams
ACCEPTS = 64                # per event, so that a flood of connects does not starve the relays
BACKLOG = 1024
SPARE = 100                 # sockets beyond max_clients that are listened to: one may bring a cancel request
MAX_ROUTES = 1000
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}




class Worker(Pools):
    def __init__(self, configuration: Configuration, *, reread: Callable[[], Configuration] | None = None) -> None:
        self.configuration = configuration
        self.settings = configuration.settings
        self.reread = reread
        self.loop = asyncio.get_running_loop()
        self.tls = server_context(self.settings.tls)
        self.certificates = configured(self.configuration)
        self.mint = Mint()
        self.provision = Provision(self.settings, self.mint)
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
        self.sockets: list[socket.socket] = []
        self.started_at = self.loaded_at = time.time()
        self.reload_ok = True
        self.ready = self.draining = False
        self.served = 0
        self.quota = Quota()
        self.embedded_alive: Callable[[], bool] | None = None
        self._stop = asyncio.Event()
        self._unlink: list[Path] = []

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
        inherited = systemd.listen_fds()
        if inherited:
            self.sockets = list(inherited)
        else:
            for address in self.settings.listen:
                self.sockets += self._bind(address)
        for sock in self.sockets:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                tune(sock, self.settings.client_tcp)       # once, instead of for each client
            self.loop.add_reader(sock.fileno(), self._accept, sock)
        return [_shown(sock) for sock in self.sockets]

    def _bind(self, address: str) -> list[socket.socket]:
        if address.startswith("/"):
            return [self._bind_unix(Path(address))]
        host, port = split_address(address, self.settings.port)
        bound = []
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, _, _, place in dict.fromkeys(found):
                sock = socket.socket(family, kind)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(place)
                sock.listen(BACKLOG)
                bound.append(sock)
        except OSError as fault:
            raise OperatorFault(f"cannot listen on {address}: {fault.strerror or fault}",
                                hint="Is another Switchboard or PgBouncer running? See switchboard.listen.") from None
        return bound

    def _bind_unix(self, folder: Path) -> socket.socket:
        path = folder / f".s.PGSQL.{self.settings.port}" if folder.is_dir() else folder
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
                if sock.connect_ex(str(path)) == 0:
                    raise OSError(errno.EADDRINUSE, "another process listens there")
                path.unlink()                 # left by a crash: nobody answers
                sock.close()
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(str(path))
            path.chmod(int(self.settings.unix_socket_mode, 8))
            sock.listen(BACKLOG)
        except OSError as fault:
            sock.close()
            raise OperatorFault(f"cannot listen on {path}: {fault.strerror or fault}") from None
        self._unlink.append(path)
        return sock

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as fault:
                if fault.errno not in OUT_OF_FILES:
                    raise
                # Nothing can be accepted now: look away for a moment instead of spinning.
                log.error("cannot accept a connection", extra={"fields": {"error": fault.strerror}})
                self.loop.remove_reader(listening.fileno())
                self.loop.call_later(0.5, self._accept_again, listening)
                return
            sock.setblocking(False)
            self.served += 1
            if len(self.clients) >= self.settings.max_clients + SPARE:
                self._turn_away(sock)
                continue
            client = Client(self.served, f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix", peer)
            self.clients.add(client)
            self.tasks[client] = keep(serve(self, sock, client), name=f"client {self.served}")

    def _turn_away(self, sock: socket.socket) -> None:
        """Too many to listen even for a cancel request."""
        fault = TooManyConnections("sorry, too many clients already")
        self.refused[fault.sqlstate[:2]] += 1
        self.limited[fault.limit] += 1
        with contextlib.suppress(OSError):
            sock.send(messages.error_response(fault))
        sock.close()

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0 and not self.draining:
            self.loop.add_reader(listening.fileno(), self._accept, listening)

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

    def _strike(self, upstream: Upstream) -> None:
        keep(self.keys.strike(upstream, self.settings.upstream.connect_timeout), name="cancel of what is overdue")

    def snapshot(self) -> dict[str, Any]:
        return snapshot(self)

    async def maintain(self, stream: Stream, hello: Startup, account: User) -> None:
        from proxy.server.maintenance import maintain

        await maintain(self, stream, hello, account)

    def parted(self, client: Client) -> None:
        """The one way out: counters down, one line."""
        self.clients.discard(client)
        self.tasks.pop(client, None)
        self.heads.leave(client.counted)
        relay, tally = client.relay, client.tally
        if tally is not None:
            tally.clients -= 1
        level = logging.INFO if relay is not None or client.plugin == "(maintenance)" else logging.WARNING
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
        systemd.notify(READY="1", STATUS=f"Serving {', '.join(_shown(sock) for sock in self.sockets)}")
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
        self.loaded_at, self.reload_ok = time.time(), True
        logging.getLogger().setLevel(configuration.settings.log.level.upper())
        for plugin, pool in list(self.pools.items()):
            try:
                if self.settings.plugins == "listed" and plugin not in configuration.listed:
                    raise UnknownDatabase(plugin)
                target = configuration.target(plugin)
            except ProxyError:                # who is in stays in; nothing is kept warm for nobody
                pool.retire()
                self.old_pools.append(self.pools.pop(plugin))
                continue
            self.pool(target).dialling = configuration.settings.upstream

    def drain(self) -> None:
        """First call: no new clients, everybody leaves at the end of a transaction.  Second call: now."""
        if self.draining:
            self._stop.set()
            return
        self.draining = True
        systemd.notify(STOPPING="1", STATUS="Draining")
        log.info("draining", extra={"fields": {"clients": len(self.clients)}})
        for sock in self.sockets:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        for client in list(self.clients):
            if client.relay is not None:
                client.relay.drain()
            else:
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
        for pool in self.all_pools():
            pool.retire()
        for sock in self.sockets:
            if sock.fileno() >= 0:
                self.loop.remove_reader(sock.fileno())
                sock.close()
        for path in self._unlink:
            path.unlink(missing_ok=True)
        log.info("stopped", extra={"fields": {"served": self.served}})


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return os.fsdecode(name)


