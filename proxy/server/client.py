"""The life of one client, from accept to its one line in the log.  `serve` is the whole story; the rest are its steps."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from proxy.config.settings import Method, Mode
from proxy.config.target import Target
from proxy.errors import Forbidden, LoginTimeout, NotSupported, ProxyError, SharedDatabase, TooManyConnections
from proxy.net.drive import drive
from proxy.net.stream import MAX_GATEWAY_MESSAGE, Stream
from proxy.pool.tally import Tally
from proxy.pool.upstream import TRACKED
from proxy.relay.relay import Relay
from proxy.session.handshake import Login, greet, prove
from proxy.wire import messages
from proxy.wire.startup import CancelRequest, Startup

if TYPE_CHECKING:
    from proxy.server.worker import Worker

log = logging.getLogger(__name__)
MAINTENANCE = frozenset({"postgres", "template1"})
NOT_FORWARDED = frozenset({"user", "database", "replication"})
_TRACKED_LOWER = {name.lower(): name for name in TRACKED}


@dataclass(slots=True, eq=False)
class Client:
    """What is known of one client.  `str` is how the log names it."""

    serial: int
    address: str
    since: float = field(default_factory=monotonic)
    user: str = ""
    database: str = ""
    plugin: str = ""
    tls: bool = False
    reason: str = ""
    relay: Relay | None = None
    tally: Tally | None = None

    def __str__(self) -> str:
        return f"c{self.serial} {self.plugin or '?'}@{self.address}"


async def serve(worker: Worker, sock: socket.socket, client: Client) -> None:
    """Greet, prove, route, lease, relay; one way out."""
    stream, task, login = Stream(sock), worker.tasks[client], worker.logins
    login.begin(task)
    try:
        hello = await _greet(worker, stream, client)
        if isinstance(hello, CancelRequest):
            await worker.cancel(hello)
            return
        await _authenticate(worker, stream, client, hello)
        target = _route(worker, client, hello)
        login.end(task)
        if target is None:
            await _maintain(worker, stream, client, hello)
        else:
            await _ride(worker, stream, client, hello, target)
    except ProxyError as fault:
        await _refuse(worker, stream, client, fault)
    except EOFError:
        client.reason = client.reason or ("client left during login" if client.database else "")
    except OSError:
        client.reason = client.reason or "client connection lost"
    except asyncio.CancelledError:
        if not login.passed(task):
            client.reason = client.reason or "shutting down"
            raise
        await _refuse(worker, stream, client, LoginTimeout("canceling authentication due to timeout"))
    except Exception:
        log.exception("internal error while serving %s", client)
        await _refuse(worker, stream, client, ProxyError("internal error"))
    finally:
        login.end(task)
        stream.close()
        worker.parted(client)


async def _greet(worker: Worker, stream: Stream, client: Client) -> Startup | CancelRequest:
    if len(worker.clients) > worker.settings.max_clients:
        # Cancels still get through: they are answered before anything is counted.
        client.reason = "too many clients"
    offered = worker.tls is not None and stream.sock.family != socket.AF_UNIX
    required = worker.settings.tls.mode == "require" and stream.sock.family != socket.AF_UNIX
    hello = await drive(greet(tls_offered=offered, tls_required=required), stream, context=worker.tls, server_side=True)
    if isinstance(hello, CancelRequest):
        return hello
    client.tls = stream.encrypted
    client.user, client.database = hello.user, hello.database
    if client.reason:
        raise TooManyConnections("sorry, too many clients already", hint="Raise switchboard.max_clients.")
    if worker.draining:
        raise _shutting_down()
    return hello


def _shutting_down() -> ProxyError:
    fault = ProxyError("the database system is shutting down")
    fault.sqlstate = "57P03"
    return fault


async def _authenticate(worker: Worker, stream: Stream, client: Client, hello: Startup) -> None:
    user = worker.settings.users.get(hello.user)
    auth = worker.settings.auth
    method = (user.method if user else None) or auth.method
    stored = None
    if user is not None:
        stored = user.password.get_secret_value() if user.password is not None else None
        if stored is None and method is Method.TRUST:
            stored = ""
    elif method is Method.TRUST:
        method = Method.SCRAM                 # a stranger must not learn that trust exists
    try:
        if method is not Method.TRUST:
            await drive(prove(Login(hello.user, method, stored, auth.scram_iterations)), stream, server_side=True)
    except ProxyError as fault:
        worker.auth_failures["unknown user" if user is None else fault.sqlstate] += 1
        raise
    if hello.parameters.get("replication", "false").lower() not in ("false", "off", "no", "0"):
        raise NotSupported("replication connections are not supported through the proxy",
                           hint="Connect to the database server itself for replication.")


def _route(worker: Worker, client: Client, hello: Startup) -> Target | None:
    """Where this client wants to go; None is the maintenance gateway."""
    if hello.database in MAINTENANCE:
        return None
    try:
        target = worker.route(hello.database, hello.parameters.get("application_name", ""))
    except SharedDatabase:
        if not worker.settings.users[hello.user].maintenance:
            raise
        return None                           # Backstage asks for its schemas there
    plugins = worker.settings.users[hello.user].plugins
    if "*" not in plugins and target.plugin not in plugins:
        raise Forbidden(f'permission denied for database "{hello.database}"',
                        detail=f'User "{hello.user}" may not use plugin {target.plugin}.',
                        hint=f"Add the plugin to switchboard.users.{hello.user}.plugins.")
    if not target.engine.speaks_postgres:
        raise NotSupported(f"plugin {target.plugin} lives in {target.engine}, which is not served over this protocol")
    return target


async def _ride(worker: Worker, stream: Stream, client: Client, hello: Startup, target: Target) -> None:
    """Lease, welcome, relay, part."""
    pool = worker.pool(target)
    client.plugin = target.plugin
    session = pool.settings.mode is Mode.SESSION
    asked = {name: value for name, value in hello.parameters.items() if name not in NOT_FORWARDED}
    wants = {} if session else {_TRACKED_LOWER[name.lower()]: asked.pop(name) for name in list(asked)
                                if name.lower() in _TRACKED_LOWER}
    relay = Relay(stream.sock, pool, worker.tally(target, hello.user), frozenset(asked.items()), None,
                  lambda statement: worker.concerns_databases(pool, statement))
    key = None
    try:
        if session:
            upstream = relay.lease_now()
            if upstream is None:
                upstream = await stream.while_connected(relay.lease())
            parameters = upstream.parameters
            key = worker.keys.for_upstream(relay, upstream, hello.secret_length)
        else:
            told = relay.remembered(wants)
            parameters = await stream.while_connected(relay.settle(wants)) if told is None else told
            key = worker.keys.invent(relay, hello.secret_length)
        client.relay, client.tally = relay, relay.tally
        relay.since = 0.0
        relay.tally.clients += 1
        relay.tally.connections += 1
        if worker.settings.log.connections and log.isEnabledFor(logging.INFO):
            log.info("client let in", extra={"fields": worker.line(client)})
        await stream.write(welcome(parameters, key))
        reason, fault = await relay.run()
        client.reason = reason
        if relay.backlog or fault is not None:
            rest = bytes(relay.backlog or b"") + (messages.error_response(fault) if fault is not None else b"")
            await _last_words(stream, rest)
    finally:
        if key is not None:
            worker.keys.forget(key)
        relay.part()


def welcome(parameters: dict[str, str], key: tuple[int, bytes]) -> bytes:
    """AuthenticationOk to ReadyForQuery, in one write."""
    return _statuses(tuple(parameters.items())) + messages.backend_key_data(*key) + messages.ready_for_query()


@functools.lru_cache(maxsize=1024)
def _statuses(parameters: tuple[tuple[str, str], ...]) -> bytes:
    """Nearly every client of a plugin is told the same."""
    return messages.authentication(messages.AUTH_OK) + b"".join(messages.parameter_status(*each) for each in parameters)


async def _last_words(stream: Stream, data: bytes) -> None:
    try:
        async with asyncio.timeout(5):
            await stream.write(data)
        # What the client has sent meanwhile is read away: closing over it would reset the connection, and the client
        # might never see why.
        for _ in range(64):
            if not stream.sock.recv(16_384):
                break
    except (OSError, TimeoutError, ProxyError):
        pass                                  # the client does not listen any more


async def _refuse(worker: Worker, stream: Stream, client: Client, fault: ProxyError) -> None:
    client.reason = fault.message
    worker.refused[fault.sqlstate[:2]] += 1
    await _last_words(stream, messages.error_response(fault))


async def _maintain(worker: Worker, stream: Stream, client: Client, hello: Startup) -> None:
    user = worker.settings.users[hello.user]
    if not user.maintenance:
        raise Forbidden(f'permission denied for database "{hello.database}"')
    stream.limit = MAX_GATEWAY_MESSAGE
    client.plugin = "(maintenance)"
    if worker.settings.log.connections:
        log.info("client let in", extra={"fields": worker.line(client)})
    await worker.maintain(stream, hello)
    client.reason = "client said goodbye"
