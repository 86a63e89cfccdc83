"""Joins the console to the daemon: what it shows of pools, clients and counters, and what its commands do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy.errors import ClientFault, Shutdown, UnknownDatabase
from proxy.gateway.console import Console, Table
from proxy.gateway.engine import Value
from proxy.gateway.inflow import Inflow
from proxy.gateway.session import Session
from proxy.pool.pool import Pool
from proxy.server.client import welcome

if TYPE_CHECKING:
    from proxy.config.clients import User
    from proxy.net.stream import Stream
    from proxy.server.client import Client
    from proxy.server.worker import Worker
    from proxy.wire.startup import Startup

_TABLES = {
    "version": "of this daemon", "config": "settings that are in force", "databases": "plugins and where they live",
    "pools": "connections by plugin", "clients": "who is here", "servers": "connections to servers", "stats": "counters by plugin",
    "totals": "counters of all", "lists": "how many of what", "users": "who may log in", "state": "active, paused or draining"}
_COUNTED = ("connections", "queries", "transactions", "leases", "from_client", "from_upstream")


class Desk:
    """The console's Daemon."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def tables(self) -> dict[str, str]:
        return _TABLES

    def show(self, what: str) -> Table:
        found: Table = getattr(self, f"_{what}")()
        return found

    # -- SHOW ---------------------------------------------------------------------------------------------

    def _version(self) -> Table:
        return ["version"], [[f"Switchboard {__version__}"]]

    def _config(self) -> Table:
        return ["key", "value"], [[key, str(value)] for key, value in _flat(self.worker.settings.model_dump(mode="json"), "")]

    def _databases(self) -> Table:
        worker = self.worker
        rows: list[Sequence[Value]] = []
        for target in worker.configuration.targets():
            pool = worker.pools.get(target.plugin)
            server = target.server
            rows.append([target.plugin, server.host if server else None, server.port if server else 0, target.database,
                         target.credential.user if target.credential else None, str(target.engine),
                         worker.settings.pool_for(target.plugin).size, pool.open if pool is not None else 0,
                         int(pool is not None and pool.paused), int(target.plugin in worker.disabled)])
        return ["name", "host", "port", "database", "force_user", "engine", "pool_size", "current_connections", "paused",
                "disabled"], rows

    def _pools(self) -> Table:
        return ["database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used", "sv_login", "maxwait", "pool_mode",
                "paused"], [
            [pool.target.plugin, pool.target.credential.user if pool.target.credential else "", self._riders(pool), pool.waiting,
             len(pool.busy), pool.idle_count, len(pool.resting), pool.coming, int(pool.max_wait), str(pool.settings.mode),
             int(pool.paused)] for pool in self._each()]

    def _riders(self, pool: Pool) -> int:
        return sum(1 for client in self.worker.clients if client.relay is not None and client.relay.pool is pool)

    def _each(self) -> list[Pool]:
        return [each for pool in self.worker.pools.values() for each in (pool, *pool.others.values())]

    def _clients(self) -> Table:
        now = time.monotonic()
        return ["type", "user", "database", "plugin", "state", "addr", "connected_s", "tls", "id"], [
            ["C", client.user, client.database, client.plugin,
             "idle" if client.relay is None or client.relay.upstream is None else "active", client.address,
             round(now - client.since, 1), "yes" if client.tls else "no", client.serial]
            for client in sorted(self.worker.clients, key=lambda client: client.serial)]

    def _servers(self) -> Table:
        rows: list[Sequence[Value]] = []
        for pool in self.worker.all_pools():
            idle = [upstream for stack in pool.idle.values() for upstream in stack]
            for state, some in (("active", pool.busy), ("idle", idle), ("used", pool.resting)):
                rows += [["S", pool.target.plugin, state, f"{upstream.route.host}:{upstream.route.port}", upstream.pid]
                         for upstream in some]
        return ["type", "database", "state", "addr", "remote_pid"], rows

    def _stats(self) -> Table:
        found: dict[str, list[int]] = {}
        for tally in self.worker.tallies.values():
            sums = found.setdefault(tally.plugin, [0] * len(_COUNTED))
            for at, name in enumerate(_COUNTED):
                sums[at] += getattr(tally, name)
        return ["database", *_NAMES], [[plugin, *sums] for plugin, sums in sorted(found.items())]

    def _totals(self) -> Table:
        names, rows = self._stats()
        return names[1:], [[sum(int(str(row[at])) for row in rows) for at in range(1, len(names))]]

    def _lists(self) -> Table:
        pools = self._each()
        return ["list", "items"], [
            ["databases", len(self.worker.configuration.targets())], ["users", len(self.worker.settings.users)], ["pools", len(pools)],
            ["used_clients", len(self.worker.clients)], ["used_servers", sum(pool.open for pool in pools)],
            ["waiting_clients", sum(pool.waiting for pool in pools)]]

    def _users(self) -> Table:
        return ["name", "pool_mode", "plugins", "console"], [
            [name, str(user.mode) if user.mode is not None else None, ", ".join(user.plugins), user.console]
            for name, user in self.worker.settings.users.items()]

    def _state(self) -> Table:
        worker = self.worker
        paused = [pool for pool in self._each() if pool.paused]
        found = {"active": worker.ready and not worker.draining, "paused": bool(paused), "draining": worker.draining}
        return ["key", "value"], [[key, "yes" if value else "no"] for key, value in found.items()]

    # -- commands -----------------------------------------------------------------------------------------

    async def act(self, verb: str, what: str | None) -> None:
        name = what.strip('"') if what else None
        if verb == "KILL_CLIENT":
            self._kill_client(name)
        elif verb == "SHUTDOWN":
            self.worker.loop.call_soon(self.worker.drain)
        elif verb == "RELOAD":
            self.worker.reload()
        elif verb in ("DISABLE", "ENABLE"):
            plugin = self._plugin(name)
            (self.worker.disabled.add if verb == "DISABLE" else self.worker.disabled.discard)(plugin)
        else:
            pools = self._named(name, needed=verb == "KILL")
            await {"PAUSE": self._pause, "RESUME": self._resume, "KILL": self._kill, "RECONNECT": self._reconnect}[verb](pools)

    def _plugin(self, name: str | None) -> str:
        if not name:
            raise ClientFault("a database is needed", hint="SHOW DATABASES lists them.")
        return self.worker.route(name, "").plugin

    def _named(self, name: str | None, *, needed: bool) -> list[Pool]:
        if name is None and not needed:
            return self._each()
        target = self.worker.configuration.target(self._plugin(name))
        if not target.engine.speaks_postgres:
            raise UnknownDatabase(f'database "{name}" has no pool of PostgreSQL connections')
        pool = self.worker.pool(target)
        return [pool, *pool.others.values()]

    async def _pause(self, pools: list[Pool]) -> None:
        """Returns when the last connection to the server has ended."""
        for pool in pools:
            pool.pause()
        await asyncio.gather(*(pool.ended() for pool in pools))

    async def _resume(self, pools: list[Pool]) -> None:
        for pool in pools:
            pool.resume()

    async def _kill(self, pools: list[Pool]) -> None:
        for pool in pools:
            pool.pause()
            for client in list(self.worker.clients):
                if client.relay is not None and client.relay.pool is pool:
                    client.relay.finish("killed", Shutdown("terminating connection due to administrator command"))

    async def _reconnect(self, pools: list[Pool]) -> None:
        for pool in pools:
            pool.clear()

    def _kill_client(self, number: str | None) -> None:
        client = next((each for each in self.worker.clients if str(each.serial) == number), None)
        if client is None:
            raise ClientFault(f"there is no client {number}", hint="SHOW CLIENTS lists them by id.")
        if client.relay is not None:
            client.relay.finish("killed", Shutdown("terminating connection due to administrator command"))
        else:
            self.worker.tasks[client].cancel()


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Settings by their path.  What is secret is dumped as stars."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


_NAMES = ("total_client_count", "total_query_count", "total_xact_count", "total_server_assignment_count", "total_received",
          "total_sent")


async def serve_console(worker: Worker, stream: Stream, client: Client, hello: Startup, account: User) -> None:
    """Answer an operator until they leave."""
    client.plugin = "(console)"
    key = worker.keys.invent(length=hello.secret_length)
    parameters: dict[str, Any] = {
        "server_version": f"{__version__}/switchboard", "server_encoding": "UTF8", "client_encoding": "UTF8",
        "DateStyle": "ISO, MDY",
        "TimeZone": "UTC", "integer_datetimes": "on", "standard_conforming_strings": "on",
        "is_superuser": "on" if account.console == "admin" else "off"}
    await stream.write(welcome(parameters, key))
    try:
        await Session(Inflow(stream), Console(Desk(worker), user=hello.user, admin=account.console == "admin")).run()
    finally:
        worker.keys.forget(key)
    client.reason = "client said goodbye"
