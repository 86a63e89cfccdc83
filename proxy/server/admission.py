"""Who gets in: the first half of a client's life.

`admit` greets, finds the rule for this caller, asks for the proof that it wants, and looks where the user may go.  It
says no in the same words and the same time to a wrong password and to a user that does not exist.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from pydantic import SecretStr

from proxy.auth.password import is_md5
from proxy.auth.rules import Caller, Rules, among, may_be
from proxy.config.clients import Method, User
from proxy.config.rule import MapLine, Rule
from proxy.config.target import Engine, Target
from proxy.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ClientFault,
    Forbidden,
    NotSupported,
    ProxyError,
    SharedDatabase,
    TooManyConnections,
    UnknownDatabase,
)
from proxy.net.drive import drive
from proxy.net.introduce import introduce
from proxy.net.peer import system_user
from proxy.net.stream import Stream
from proxy.net.tls import ServerContext, common_name
from proxy.session.handshake import Login, ask_password, greet, prove
from proxy.wire.startup import CancelRequest, Startup

if TYPE_CHECKING:
    from proxy.server.client import Client
    from proxy.server.lookup import Lookup
    from proxy.server.worker import Worker

MAINTENANCE = frozenset({"postgres", "template1"})
CONSOLE = frozenset({"switchboard", "pgbouncer"})


async def admit(worker: Worker, stream: Stream, client: Client) -> Startup | CancelRequest:
    """From the first byte to a proven user.  Raises what the client is told."""
    hello = await _greet(worker, stream, client)
    if isinstance(hello, CancelRequest):
        return hello
    try:
        client.account = await _authenticate(worker, stream, client, hello)
    except ProxyError as fault:
        worker.auth_failures[fault.sqlstate if client.known else "unknown user"] += 1
        if isinstance(fault, AuthenticationFailed):
            await hold_back(worker, stream, client)
        raise
    if hello.replication is not None and not client.account.replication:
        raise Forbidden("permission denied to start WAL sender", detail=f'User "{hello.user}" may not start replication connections.',
                        hint=f"Set switchboard.users.{hello.user}.replication: true.")
    enter_as(worker, client, hello.user)
    return hello


def enter_as(worker: Worker, client: Client, name: str) -> None:
    """A proven user's clients are counted."""
    assert client.account is not None
    limit = client.account.max_clients
    if not worker.heads.enter(client.counted, "user", name, worker.settings.max_clients_per_user if limit is None else limit):
        raise TooManyConnections(f'too many connections for role "{name}"', limit="user",
                                 hint=f"Raise switchboard.max_clients_per_user, or max_clients of users.{name}.")


async def hold_back(worker: Worker, stream: Stream, client: Client) -> None:
    """The answer to who guesses passwords comes late."""
    throttle = worker.throttle
    delay = throttle.failed(client.peer, monotonic())
    if delay:
        worker.limited["late answer"] += 1
        throttle.hold(client.peer, +1)
        try:
            await stream.while_connected(asyncio.sleep(delay))
        finally:
            throttle.hold(client.peer, -1)


async def introduced(worker: Worker, stream: Stream, client: Client) -> None:
    """A load balancer says first for whom it speaks."""
    if not (worker.balancers and among(client.peer, worker.balancers)):
        return
    source = await introduce(stream)
    if source is not None:
        client.source, client.address = source.address, str(source)


async def _greet(worker: Worker, stream: Stream, client: Client) -> Startup | CancelRequest:
    await introduced(worker, stream, client)
    full = crowd(worker, client)
    offered = worker.tls is not None and stream.sock.family != socket.AF_UNIX
    required = worker.settings.tls.mode == "require" and stream.sock.family != socket.AF_UNIX
    dialogue = greet(tls_offered=offered, tls_required=required)
    if worker.mysql.address is None:
        hello = await drive(dialogue, stream, context=worker.tls, server_side=True)
    else:
        with worker.mysql.awaited_elsewhere(stream):
            hello = await drive(dialogue, stream, context=worker.tls, server_side=True)
    if isinstance(hello, CancelRequest):
        return hello
    client.tls = stream.encrypted
    client.user, client.database = hello.user, hello.database
    if full is not None:
        raise full                            # only now: cancels get through however many clients there are
    if worker.draining:
        raise shutting_down()
    return hello


def crowd(worker: Worker, client: Client) -> TooManyConnections | None:
    """Why there is no room for this client, if there is none."""
    if len(worker.clients) > worker.settings.max_clients:
        return TooManyConnections("sorry, too many clients already", hint="Raise switchboard.max_clients.")
    if worker.throttle and worker.throttle.crowded(client.peer):
        return TooManyConnections("too many failed logins from this address", limit="throttle")
    limit, peer = worker.settings.max_clients_per_address, client.peer
    if limit and peer is not None and not worker.heads.enter(client.counted, "address", str(peer), limit):
        return TooManyConnections("too many connections from this address", limit="address",
                                  hint="Raise switchboard.max_clients_per_address.")
    return None


def shutting_down() -> ProxyError:
    fault = ProxyError("the database system is shutting down")
    fault.sqlstate = "57P03"
    return fault


async def looked_up(worker: Worker, lookup: Lookup, name: str) -> User | None:
    stored = await lookup.stored(name)
    if stored is None:
        return None
    return worker.settings.users.get("*", User()).model_copy(update={"password": SecretStr(stored)})


async def _authenticate(worker: Worker, stream: Stream, client: Client, hello: Startup) -> User:
    user = worker.settings.users.get(hello.user) if hello.user != "*" else None
    if user is None and worker.lookup is not None and hello.user != "*":
        user = await looked_up(worker, worker.lookup, hello.user)
    client.known = user is not None
    if worker.gate.rules is None:
        return await _by_settings(worker, stream, hello, user)
    rule = await rule_for(worker, worker.gate.rules, stream, caller_of(worker, stream, client, hello))
    if rule.clientcert is not None:
        certified(worker, stream, rule, hello.user)
    match rule.method:
        case "cert" | "peer":
            return vouched(worker, stream, rule, hello.user, user)
        case "trust":
            return known(worker, user, hello.user, rule.method)
        case "password" | "ldap" | "pam" if not (stream.encrypted or client.peer is None):
            raise AuthorizationFailed("a cleartext password is asked for over TLS or a unix socket only",
                                      hint="Connect with sslmode=require, or give the rule method: scram-sha-256.")
        case "ldap" | "pam":
            return await _judged(worker, stream, client, rule, hello.user, user)
        case "password" | "md5" | "scram-sha-256":
            return await _by_password(worker, stream, hello, user, Method(rule.method))
        case _:
            return await _by_password(worker, stream, hello, user, Method.SCRAM, only_bound=True)


async def rule_for(worker: Worker, rules: Rules, stream: Stream, caller: Caller) -> Rule:
    if caller.address is not None and rules.hinges_on_a_name(caller):
        caller = replace(caller, host=await stream.while_connected(worker.gate.names.of(caller.address)))
    return rules.decide(caller)


async def _by_settings(worker: Worker, stream: Stream, hello: Startup, user: User | None) -> User:
    """Without rules: as the user's `method`, or `auth.method`, says."""
    method = (user.method if user is not None else None) or worker.settings.auth.method
    if method is Method.TRUST:
        if user is not None:
            return user
        method = Method.SCRAM                 # a stranger must not learn that trust exists
    if method is Method.SCRAM and user is not None and user.password is not None and is_md5(user.password.get_secret_value()):
        method = Method.MD5                   # all that such a hash can answer
    return await _by_password(worker, stream, hello, user, method)


async def _by_password(worker: Worker, stream: Stream, hello: Startup, user: User | None, method: Method, *,
                       only_bound: bool = False) -> User:
    stored = user.password.get_secret_value() if user is not None and user.password is not None else None
    context = getattr(stream.sock, "context", None)
    rounds = worker.settings.auth.scram_iterations
    if stored is None:
        rounds = worker.disguise.iterations
        if method is Method.MD5 and not worker.disguise.md5:
            method = Method.SCRAM             # as whoever exists: their verifiers cannot answer md5
    login = Login(hello.user, method, stored, rounds,
                  end_point=context.end_point if isinstance(context, ServerContext) else None, only_bound=only_bound)
    if only_bound and login.end_point is None:
        raise AuthorizationFailed("channel binding is required, and this connection cannot be bound")
    try:
        await drive(prove(login), stream, server_side=True)
    except AuthenticationFailed:
        if worker.lookup is not None:
            worker.lookup.doubt(hello.user)
        raise
    assert user is not None                   # prove lets nobody in without `stored`
    return user


def caller_of(worker: Worker, stream: Stream, client: Client, hello: Startup) -> Caller:
    plugin: str | None
    if hello.database in MAINTENANCE:
        plugin = "postgres"
    else:
        try:
            plugin = worker.route(hello.database, hello.parameters.get("application_name", "")).plugin
        except SharedDatabase:
            plugin = "postgres"
        except ProxyError:
            plugin = None                     # told after the login only
    address, near, neighbour = client.peer, False, False
    if address is not None and worker.gate.rules is not None and worker.gate.rules.neighbourly:
        # What a load balancer says may be near to it: only addresses that mean the same everywhere say something here.
        near = client.source is None and worker.gate.interfaces.ours(address)
        narrow = address.is_loopback or address.is_link_local
        neighbour = not (narrow and client.source is not None) and worker.gate.interfaces.beside(address)
    return Caller(user=hello.user, database=hello.database, plugin=plugin, address=address, near=near, neighbour=neighbour,
                  tls=stream.encrypted)


def certified(worker: Worker, stream: Stream, rule: Rule, name: str) -> None:
    """`clientcert`, besides another method."""
    found = common_name(stream.sock)
    if found is None:
        raise AuthorizationFailed("connection requires a valid client certificate")
    if rule.clientcert == "verify-full" and not may_be(found, name, _lines(worker, rule)):
        raise AuthorizationFailed(f'certificate authentication failed for user "{name}"')


def vouched(worker: Worker, stream: Stream, rule: Rule, name: str, user: User | None) -> User:
    """By the certificate authority or by the operating system."""
    if rule.method == "cert":
        found = common_name(stream.sock)
        if found is None:
            raise AuthorizationFailed("connection requires a valid client certificate")
    else:
        found = system_user(stream.sock)
    if found is None or not may_be(found, name, _lines(worker, rule)):
        raise unproven(rule.method, name)
    return known(worker, user, name, rule.method)


async def _judged(worker: Worker, stream: Stream, client: Client, rule: Rule, name: str, user: User | None) -> User:
    """By a directory or PAM; whoever has no rights here is asked and judged all the same, as slowly."""
    try:
        password = await drive(ask_password(), stream, server_side=True)
        address = "[local]" if client.peer is None else str(client.peer)
        right = await stream.while_connected(worker.gate.judge.knows(rule, name, password, address, worker.settings.auth.ask_timeout))
    except AuthenticationFailed:
        right = False
    if not right:
        raise unproven(rule.method, name)
    return known(worker, user, name, rule.method)


def _lines(worker: Worker, rule: Rule) -> list[MapLine] | None:
    return worker.settings.auth.maps[rule.map] if rule.map is not None else None


def known(worker: Worker, user: User | None, name: str, method: str) -> User:
    """Who is proven otherwise than by a password needs no entry of their own, when there is one for everybody else."""
    found = user or (worker.settings.users.get("*") if name != "*" else None)
    if found is None:
        raise unproven(method, name)
    return found


def unproven(method: str, name: str) -> ClientFault:
    words = {"cert": "certificate", "peer": "Peer", "ldap": "LDAP", "pam": "PAM", "trust": '"trust"'}
    fault = AuthenticationFailed(f'{words[method]} authentication failed for user "{name}"')
    fault.sqlstate = AuthorizationFailed.sqlstate      # PostgreSQL: 28P01 is for passwords
    return fault


def destination(worker: Worker, client: Client, hello: Startup) -> Target | None:
    """Where a proven user wants to go and may; None is the maintenance gateway."""
    assert client.account is not None
    if hello.database in MAINTENANCE and hello.replication is None:
        return None
    if hello.database in CONSOLE and hello.database not in worker.configuration.listed:
        raise Forbidden("permission denied for the console", hint=f"Set switchboard.users.{hello.user}.console to stats or admin.")
    try:
        target = worker.route(hello.database, hello.parameters.get("application_name", ""))
    except SharedDatabase:
        if not client.account.maintenance:
            raise
        return None                           # Backstage asks for its schemas there
    except UnknownDatabase:
        # Physical replication is of a server, not of a database: pg_basebackup names none.
        if hello.replication != "physical":
            raise
        target = worker.configuration.target("base")
    permit(client, hello, target)
    if target.engine is Engine.MYSQL:
        raise NotSupported(f"plugin {target.plugin} lives in MySQL, and this port speaks PostgreSQL's protocol",
                           hint=f"Connect a MySQL client to {worker.mysql.address or 'an address of switchboard.mysql.listen'}.")
    if target.engine is Engine.REJECTED:
        raise NotSupported(f"plugin {target.plugin} lives in SQLite and is not served here",
                           detail=f"switchboard.plugin.{target.plugin}.engine is reject.")
    if target.engine is Engine.SQLITE and hello.replication is not None:
        raise NotSupported(f"plugin {target.plugin} lives in a SQLite file, which has no replication connections")
    if target.plugin in worker.disabled:
        fault = UnknownDatabase(f'database "{hello.database}" is disabled')
        fault.sqlstate = "57P03"
        raise fault
    enter_plugin(worker, client, hello.database, target)
    return target


def invited(hello: Startup, account: User) -> bool:
    """Does this user come to the console?"""
    return hello.database in CONSOLE and account.console != "none" and hello.replication is None


def permit(client: Client, hello: Startup, target: Target) -> None:
    """May this user go there?"""
    assert client.account is not None
    plugins = client.account.plugins
    if "*" not in plugins and target.plugin not in plugins:
        raise Forbidden(f'permission denied for database "{hello.database}"',
                        detail=f'User "{hello.user}" may not use plugin {target.plugin}.',
                        hint=f"Add the plugin to switchboard.users.{hello.user}.plugins.")


def enter_plugin(worker: Worker, client: Client, database: str, target: Target) -> None:
    """A plugin's clients are counted."""
    if not worker.heads.enter(client.counted, "plugin", target.plugin, worker.settings.max_clients_per_plugin):
        raise TooManyConnections(f'too many connections for database "{database}"', limit="plugin",
                                 hint="Raise switchboard.max_clients_per_plugin.")
