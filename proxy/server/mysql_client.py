"""The life of one MySQL client, from accept to its one line in the log.

The greeting comes first on this wire, and with it the connection's id; what a client is told then is an id of ours.  KILL
takes it, and the server's own (SELECT CONNECTION_ID()), for connections of the same user.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.config.target import Engine, Target
from proxy.errors import ClientFault, NoStartup, NotSupported, ProxyError, TooManyConnections
from proxy.gateway.mysql_lobby import Enter, Lobby
from proxy.mysql.relay import Relay
from proxy.mysql.thinking import Thinking
from proxy.net.drive import drive
from proxy.net.stream import Stream
from proxy.net.tasks import keep
from proxy.server.admission import crowd, enter_as, enter_plugin, introduced, permit, shutting_down
from proxy.server.client import Client, attend, last_words
from proxy.server.mysql_admission import authenticate, enter
from proxy.server.mysql_places import LobbyPlaces
from proxy.session.handshake import greet as greet_postgres
from proxy.session.mysql_commands import Kill, Use
from proxy.session.mysql_handshake import Hello, greet
from proxy.wire import messages
from proxy.wire.mysql import RELAYED, Command, ok, packets
from proxy.wire.mysql_errors import (
    DB_ACCESS_DENIED,
    KILL_DENIED,
    NO_SUCH_THREAD,
    NOT_SUPPORTED,
    UNKNOWN_DB,
    Told,
    error_packet,
)
from proxy.wire.startup import Startup

if TYPE_CHECKING:
    from proxy.config.rule import Rule
    from proxy.server.mysql_door import MysqlDoor
    from proxy.server.worker import Worker

log = logging.getLogger(__name__)
SYSTEM = frozenset({"information_schema", "performance_schema", "mysql", "sys"})


async def serve(worker: Worker, sock: socket.socket, client: Client) -> None:
    """Greet, admit, route, lease, relay; one way out."""
    session = Session(worker, worker.mysql, client)
    await attend(worker, Stream(sock), client, session.live, session.refusal)


def refusal_early(fault: TooManyConnections) -> bytes:
    """For who has not even been greeted."""
    return packets(error_packet(fault, early=True))


class Session:
    """One client.  `thread` is the id that it was told."""

    def __init__(self, worker: Worker, door: MysqlDoor, client: Client) -> None:
        self.worker, self.door, self.client = worker, door, client
        self.thread = 0
        self.hello: Hello | None = None
        self.greeted = self.postgres = False
        self.target: Target | None = None
        self.relay: Relay | None = None

    def refusal(self, fault: ProxyError) -> bytes:
        if self.postgres:
            return b"" if isinstance(fault, NoStartup) else messages.error_response(fault)
        if self.relay is not None:
            return self.relay.last_packet(fault)
        if self.hello is None:
            return packets(error_packet(fault, early=not self.greeted), 2 if self.greeted else 0)
        return packets(error_packet(fault), self.hello.turns.next)

    async def live(self, worker: Worker, stream: Stream, client: Client) -> None:
        await introduced(worker, stream, client)
        if stream.buffered():
            await self._wrong_door(stream)
            return
        full = crowd(worker, client)
        remote = stream.sock.family != socket.AF_UNIX
        offer = await self.door.offer(tls=worker.tls is not None and remote,
                                      tls_required=worker.settings.tls.mode == "require" and remote)
        self.thread = offer.thread
        self.door.sessions[self.thread] = self
        try:
            self.greeted = True
            hello = self.hello = await drive(greet(offer), stream, context=worker.tls, server_side=True)
            client.tls = stream.encrypted
            client.user, client.database = hello.answer.user, hello.answer.database or ""
            if full is not None:
                raise full
            if worker.draining:
                raise shutting_down()
            # Without a database it is as the maintenance database on the other wire, to rules too.
            asked = Startup(0, {"user": client.user, "database": client.database or "postgres"})
            client.account, rule = await authenticate(worker, self.door, stream, client, hello, asked)
            enter_as(worker, client, client.user)
            settings: tuple[str, ...] = ()
            if not client.database:
                worker.logins.end(worker.tasks[client])
                entered = await self._wait_in_lobby(stream, hello, offer.version, rule)
                if entered is None:
                    client.reason = "client said goodbye"
                    return
                hello.turns.next, settings = 1, entered.settings
                client.database = entered.database
            target = self.destination(client.database)
            enter_plugin(worker, client, client.database, target)
            worker.logins.end(worker.tasks[client])
            await self._ride(stream, hello, target, settings)
        finally:
            del self.door.sessions[self.thread]

    async def _wrong_door(self, stream: Stream) -> None:
        """MySQL's clients never speak first: most likely this one speaks PostgreSQL's protocol, and is told in that where to knock."""
        worker = self.worker
        self.postgres = True
        hello = await drive(greet_postgres(tls_offered=worker.tls is not None and stream.sock.family != socket.AF_UNIX), stream,
                            context=worker.tls, server_side=True)
        if isinstance(hello, Startup):
            self.client.user, self.client.database, self.client.tls = hello.user, hello.database, stream.encrypted
            raise NotSupported("this port speaks MySQL's protocol",
                               hint=f"Connect a PostgreSQL client to {next(iter(worker.door.addresses), 'switchboard.listen')}.")
        self.client.reason = "a PostgreSQL client at MySQL's door"

    async def _wait_in_lobby(self, stream: Stream, hello: Hello, version: str, rule: Rule | None) -> Enter | None:
        """Until the client has chosen a database that it may have; None: it has left."""
        worker, client = self.worker, self.client
        client.plugin = "(lobby)"
        if worker.settings.log.connections:
            log.info("client let in", extra={"fields": worker.line(client)})
        await stream.write(packets(ok(), hello.turns.next))
        lobby = Lobby(places=LobbyPlaces(self), version=version, thread=self.thread, user=f"{client.user}@{client.peer or 'localhost'}",
                      capabilities=hello.answer.capabilities)
        while True:
            try:
                sequence, payload = await stream.read_packet()
            except EOFError:
                return None
            hello.turns.next = 1
            if sequence:
                raise ClientFault("Got packets out of order")
            answer = await lobby.answer(payload)
            if answer is None:
                return None
            if isinstance(answer, Enter):
                try:
                    self.destination(answer.database)
                    await enter(worker, stream, client, Startup(0, {"user": client.user, "database": answer.database}), rule)
                except ProxyError as fault:
                    answer = packets(error_packet(fault), 1)
                else:
                    return answer
            await stream.write(answer)

    def destination(self, database: str) -> Target:
        """Where a proven user wants to go and may.  Raises what the client is told."""
        worker, client = self.worker, self.client
        asked = Startup(0, {"user": client.user, "database": database})
        try:
            target = worker.route(database, "")
        except ClientFault as fault:
            raise Told(UNKNOWN_DB, "42000", f"Unknown database '{database}'", hint=fault.hint) from None
        try:
            permit(client, asked, target)
        except ClientFault as fault:
            raise self._denied(database, "", fault.detail) from None
        if target.engine is not Engine.MYSQL:
            raise Told(NOT_SUPPORTED, "0A000", f"plugin {target.plugin} lives in PostgreSQL, and this port speaks MySQL's protocol",
                       hint=f"Connect a PostgreSQL client to {next(iter(worker.door.addresses), 'switchboard.listen')}")
        return target

    def _denied(self, database: str, why: str, hint: str | None) -> Told:
        who = f"'{self.client.user}'@'{self.client.peer or 'localhost'}'"
        return Told(DB_ACCESS_DENIED, "42000", f"Access denied for user {who} to database '{database}'{why}", hint=hint)

    async def _ride(self, stream: Stream, hello: Hello, target: Target, settings: Sequence[str]) -> None:
        """Lease, welcome, relay, part."""
        worker, client = self.worker, self.client
        pool = worker.pool(target)
        client.plugin, self.target = target.plugin, target
        relay = Relay(stream.sock, pool, worker.tally(target, client.user), hello.answer.capabilities & RELAYED,
                      hello.answer.charset, self._decide)
        try:
            await stream.while_connected(relay.lease())
            if settings:
                await stream.while_connected(relay.tell_server(settings))
            client.relay, client.tally = relay, relay.tally
            relay.tally.clients += 1
            relay.tally.connections += 1
            if worker.settings.log.connections and log.isEnabledFor(logging.INFO):
                log.info("client let in", extra={"fields": worker.line(client)})
            await stream.write(packets(ok(), hello.turns.next))
            stream.unwatch()
            self.relay = relay
            reason, fault = await relay.run()
            client.reason = reason
            if relay.backlog or fault is not None:
                await last_words(stream, bytes(relay.backlog or b"") + (relay.last_packet(fault) if fault is not None else b""))
        finally:
            relay.part()

    # -- commands that are ours ---------------------------------------------------------------------------

    def _decide(self, relay: Thinking, command: Use | Kill) -> bytes | ProxyError | None:
        try:
            return self._use(command.database) if isinstance(command, Use) else self.kill(command, relay)
        except ProxyError as fault:
            return fault

    def _use(self, database: str) -> bytes:
        """A connection stays with its plugin: under whatever name, and the server's own schemas beside."""
        assert self.target is not None
        if database.lower() in SYSTEM:
            name = database
        else:
            target = self.destination(database)
            if target != self.target:
                raise self._denied(database, f": this connection is plugin {self.target.plugin}'s",
                                   f"Connect anew with database {target.plugin}")
            name = target.database
        return bytes((Command.INIT_DB,)) + name.encode()

    def kill(self, kill: Kill, relay: Thinking | None = None) -> bytes | None:
        """What to ask our own server, or None: it is done, or on its way.  Raises ProxyError."""
        victim = self.door.sessions.get(kill.thread) or (self._by_server(relay, kill.thread) if relay is not None else None)
        if victim is None:
            raise Told(NO_SUCH_THREAD, "HY000", f"Unknown thread id: {kill.thread}")
        if victim.client.user != self.client.user:
            raise Told(KILL_DENIED, "HY000", f"You are not owner of thread {kill.thread}")
        upstream = victim.relay.upstream if victim.relay is not None else None
        if upstream is None:
            if kill.words is None or b"query" not in kill.words.lower():
                self.worker.tasks[victim.client].cancel()
            return None
        if relay is not None and victim is self:
            return kill.worded(upstream.pid)
        if relay is not None and upstream.pool is relay.pool and relay.striking is None:
            # It may strike what its rider asks next, but nobody after it (pool.cancel_done).
            relay.striking = upstream
            upstream.cancels += 1
            return kill.worded(upstream.pid)
        words = kill.words.decode("ascii", "replace") if kill.words is not None else "KILL"
        keep(self.door.strike(upstream, words), name="KILL")
        return None

    def _by_server(self, relay: Thinking, thread: int) -> Session | None:
        """Who rides the connection that the server calls so; of this server alone, where numbers mean the same."""
        return next((session for session in self.door.sessions.values() if session.relay is not None
                     and session.relay.upstream is not None and session.relay.upstream.pid == thread
                     and session.relay.pool.target.server == relay.pool.target.server), None)


