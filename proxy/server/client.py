"""The life of one client, from accept to its one line in the log.  `serve` is the whole story; the rest are its steps."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from proxy.auth.rules import Address
from proxy.config.clients import User
from proxy.config.mode import Mode
from proxy.config.target import Engine, Target
from proxy.errors import Forbidden, LoginTimeout, NoStartup, ProxyError, TooManyConnections
from proxy.mysql.relay import Relay as MysqlRelay
from proxy.net.peer import address_of
from proxy.net.stream import MAX_FILE_MESSAGE, MAX_GATEWAY_MESSAGE, Stream
from proxy.pool.tally import Tally
from proxy.pool.upstream import TRACKED
from proxy.relay.attentive import Attentive
from proxy.relay.relay import Relay
from proxy.relay.statementwise import Statementwise
from proxy.relay.unused import Unused
from proxy.server.admission import admit, destination, invited
from proxy.server.limits import Head
from proxy.session.parameters import beginnings
from proxy.wire import messages
from proxy.wire.startup import CancelRequest, Startup

if TYPE_CHECKING:
    from proxy.gateway.session import Session
    from proxy.pool.pool import Pool
    from proxy.server.worker import Worker

log = logging.getLogger(__name__)
NOT_FORWARDED = frozenset({"user", "database"})
_TRACKED_LOWER = {name.lower(): name for name in TRACKED}


@dataclass(slots=True, eq=False)
class Client:
    """What is known of one client.  `str` is how the log names it."""

    serial: int
    address: str
    place: object = None                  # as accept told it
    source: Address | None = None         # whom a load balancer speaks for
    since: float = field(default_factory=monotonic)
    user: str = ""
    database: str = ""
    plugin: str = ""
    tls: bool = False
    account: User | None = None           # what the configuration says of a proven user
    reason: str = ""
    sqlstate: str = ""                    # of the refusal, if it was one
    known: bool = False                   # there is a user of that name
    counted: list[Head] = field(default_factory=list)
    relay: Relay | MysqlRelay | None = None
    tally: Tally | None = None
    session: Session | None = None        # of a gateway that has transactions

    @property
    def peer(self) -> Address | None:
        """Where the client is; None on a unix socket."""
        return self.source or address_of(self.place)

    def __str__(self) -> str:
        return f"c{self.serial} {self.plugin or '?'}@{self.address}"


Life = Callable[["Worker", Stream, Client], Coroutine[Any, Any, None]]


async def serve(worker: Worker, sock: socket.socket, client: Client) -> None:
    """Admit, route, lease, relay; one way out."""
    await attend(worker, Stream(sock), client, _live, _refusal)


async def _live(worker: Worker, stream: Stream, client: Client) -> None:
    hello = await admit(worker, stream, client)
    if isinstance(hello, CancelRequest):
        await worker.cancel(hello, client)
        _read_away(stream, 1)
        return
    if client.account is not None and invited(hello, client.account):
        worker.logins.end(worker.tasks[client])
        stream.limit = MAX_GATEWAY_MESSAGE
        await worker.attend_console(stream, client, hello, client.account)
        return
    target = destination(worker, client, hello)
    worker.logins.end(worker.tasks[client])
    if target is None:
        await _maintain(worker, stream, client, hello)
    elif target.engine is Engine.SQLITE:
        stream.limit = MAX_FILE_MESSAGE
        await worker.files.serve(worker, stream, client, hello, target)
    else:
        await _ride(worker, stream, client, hello, target)


async def attend(worker: Worker, stream: Stream, client: Client, live: Life,
                 refusal: Callable[[ProxyError], bytes]) -> None:
    """A client's `live`, and the one way out of it.  `refusal` words a fault on this client's wire."""
    task, login = worker.tasks[client], worker.logins
    login.begin(task)
    try:
        await live(worker, stream, client)
    except ProxyError as fault:
        await _refuse(worker, stream, client, fault, refusal)
    except EOFError:
        client.reason = client.reason or ("client left during login" if client.database else "")
    except OSError:
        client.reason = client.reason or "client connection lost"
    except asyncio.CancelledError:
        if not login.passed(task):
            client.reason = client.reason or "shutting down"
            raise
        await _refuse(worker, stream, client, LoginTimeout("canceling authentication due to timeout"), refusal)
    except Exception:                         # a fault of ours costs this client, not the others
        log.exception("internal error while serving %s", client)
        await _refuse(worker, stream, client, ProxyError("internal error"), refusal)
    finally:
        login.end(task)
        stream.close()
        worker.parted(client)


async def _ride(worker: Worker, stream: Stream, client: Client, hello: Startup, target: Target) -> None:
    """Lease, welcome, relay, part."""
    mode = client.account.mode if client.account is not None else None
    pool = worker.pool(target, mode) if hello.replication is None else worker.dedicated(target)
    client.plugin = target.plugin
    session = pool.settings.mode is Mode.SESSION
    asked = {name: value for name, value in hello.parameters.items() if name not in NOT_FORWARDED}
    wants = {} if session else {_TRACKED_LOWER[name.lower()]: asked.pop(name) for name in list(asked)
                                if name.lower() in _TRACKED_LOWER}
    relay = _rider(worker, stream, pool, target, hello, asked, wants)
    key = None
    try:
        if session:
            upstream = relay.lease_now()
            if upstream is None:
                upstream = await stream.while_connected(relay.lease())
            if hello.replication is not None:
                worker.apart(pool)
            else:
                Unused(relay, upstream)
            parameters = upstream.parameters
            key = worker.keys.for_upstream(relay, upstream, hello.secret_length)
        else:
            told = relay.remembered(wants)
            parameters = await stream.while_connected(relay.settle(wants)) if told is None else told
            key = worker.keys.invent(relay, hello.secret_length)
            relay.known_as(key[0])
            if isinstance(relay, Attentive):
                relay.hit = worker.hit
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
            await last_words(stream, rest)
    finally:
        if key is not None:
            worker.keys.forget(key)
        relay.part()


def _rider(worker: Worker, stream: Stream, pool: Pool, target: Target, hello: Startup, asked: dict[str, str],
           wants: dict[str, str]) -> Relay:
    tally, consider = worker.tally(target, hello.user), functools.partial(worker.concerns_databases, pool)
    if pool.settings.mode is Mode.AUTO:
        beginning, rest = beginnings(asked | wants)
        return Attentive(stream.sock, pool, tally, frozenset(rest.items()), beginning, consider)
    kind = Statementwise if pool.settings.mode is Mode.STATEMENT else Relay
    return kind(stream.sock, pool, tally, frozenset(asked.items()), None, consider)


def welcome(parameters: dict[str, str], key: tuple[int, bytes]) -> bytes:
    """AuthenticationOk to ReadyForQuery, in one write."""
    return _statuses(tuple(parameters.items())) + messages.backend_key_data(*key) + messages.ready_for_query()


@functools.lru_cache(maxsize=1024)
def _statuses(parameters: tuple[tuple[str, str], ...]) -> bytes:
    """Nearly every client of a plugin is told the same."""
    return messages.authentication(messages.AUTH_OK) + b"".join(messages.parameter_status(*each) for each in parameters)


async def last_words(stream: Stream, data: bytes) -> None:
    try:
        async with asyncio.timeout(5):
            await stream.write(data)
        # What the client has sent meanwhile is read away: closing over it would reset the connection, and the client
        # might never see why.
        _read_away(stream, 64)
    except (OSError, TimeoutError, ProxyError):
        pass                                  # the client does not listen any more


def _read_away(stream: Stream, times: int) -> None:
    for _ in range(times):
        try:
            if not stream.sock.recv(16_384):
                return
        except OSError:
            return


def _refusal(fault: ProxyError) -> bytes:
    return b"" if isinstance(fault, NoStartup) else messages.error_response(fault)


async def _refuse(worker: Worker, stream: Stream, client: Client, fault: ProxyError, refusal: Callable[[ProxyError], bytes]) -> None:
    client.reason, client.sqlstate = fault.message, fault.sqlstate
    worker.refused[fault.sqlstate[:2]] += 1
    if isinstance(fault, TooManyConnections):
        worker.limited[fault.limit] += 1
    await last_words(stream, refusal(fault))


async def _maintain(worker: Worker, stream: Stream, client: Client, hello: Startup) -> None:
    if client.account is None or not client.account.maintenance:
        raise Forbidden(f'permission denied for database "{hello.database}"')
    stream.limit = MAX_GATEWAY_MESSAGE
    client.plugin = "(maintenance)"
    if worker.settings.log.connections:
        log.info("client let in", extra={"fields": worker.line(client)})
    await worker.maintain(stream, hello, client.account)
    client.reason = "client said goodbye"
