"""Who gets in on MySQL's wire: the same users and rules as on PostgreSQL's (server/admission), with MySQL's proofs.

    trust, cert, peer, reject           as on the other wire
    scram-sha-256, md5, password        caching_sha2_password, or mysql_native_password where mysql.native_password allows it
    ldap, pam                           caching_sha2_password with the password itself, under TLS or on a unix socket
    scram-sha-256-plus                  nobody: nothing here can be bound to a channel

A verifier in the configuration fits no digest of MySQL's: then the password itself is asked for, once for each user and
daemon, and its digest remembered.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from proxy.auth import mysql as proofs
from proxy.auth import password as passwords
from proxy.auth.scram import parse_verifier
from proxy.config.clients import Method, User
from proxy.errors import AuthenticationFailed, AuthorizationFailed, ProxyError
from proxy.net.drive import drive
from proxy.net.stream import Stream
from proxy.server.admission import caller_of, certified, hold_back, known, looked_up, rule_for, vouched
from proxy.session.mysql_handshake import Exam, Hello, prove
from proxy.wire.mysql import SHA2
from proxy.wire.startup import Startup

if TYPE_CHECKING:
    from proxy.config.rule import Rule
    from proxy.server.client import Client
    from proxy.server.mysql_door import MysqlDoor
    from proxy.server.worker import Worker


async def authenticate(worker: Worker, door: MysqlDoor, stream: Stream, client: Client, hello: Hello,
                       asked: Startup) -> tuple[User, Rule | None]:
    """A proven user, and the rule that said how.  Raises what the client is told; a wrong password is answered late when it is one
    of many."""
    try:
        return await _authenticate(worker, door, stream, client, hello, asked)
    except ProxyError as fault:
        worker.auth_failures[fault.sqlstate if client.known else "unknown user"] += 1
        if isinstance(fault, AuthenticationFailed):
            await hold_back(worker, stream, client)
            raise denied(client, hello) from None
        raise


def denied(client: Client, hello: Hello) -> AuthenticationFailed:
    """In MySQL's words."""
    host = str(client.peer) if client.peer is not None else "localhost"
    using = "YES" if hello.answer.proof else "NO"
    return AuthenticationFailed(f"Access denied for user '{client.user}'@'{host}' (using password: {using})")


async def enter(worker: Worker, stream: Stream, client: Client, asked: Startup, proven: Rule | None) -> None:
    """A client that proved itself without a database has chosen one: the rule for that must ask for no other proof.  Raises
    AuthorizationFailed."""
    if worker.gate.rules is None:
        return
    rule = await rule_for(worker, worker.gate.rules, stream, caller_of(worker, stream, client, asked))
    if rule.clientcert is not None:
        certified(worker, stream, rule, asked.user)
    if rule.method != "trust" and (proven is None or _proof(rule) != _proof(proven)):
        raise AuthorizationFailed("the rule for this database asks for another proof than the one without a database",
                                  hint=f"Connect anew with database {asked.database}")


def _proof(rule: Rule) -> object:
    """What a rule asks for, whoever it is for."""
    if rule.method in ("password", "md5", "scram-sha-256"):
        return "password"
    return rule.model_dump(exclude={"type", "users", "plugins", "address", "clientcert"})


async def _authenticate(worker: Worker, door: MysqlDoor, stream: Stream, client: Client, hello: Hello,
                        asked: Startup) -> tuple[User, Rule | None]:
    name = asked.user
    user = worker.settings.users.get(name) if name != "*" else None
    if user is None and worker.lookup is not None and name != "*":
        user = await looked_up(worker, worker.lookup, name)
    client.known = user is not None
    if worker.gate.rules is None:
        method = (user.method if user is not None else None) or worker.settings.auth.method
        if method is Method.TRUST and user is not None:
            return user, None
        return await _by_password(worker, door, stream, hello, name, user), None
    rule = await rule_for(worker, worker.gate.rules, stream, caller_of(worker, stream, client, asked))
    if rule.clientcert is not None:
        certified(worker, stream, rule, name)
    return await _by_rule(worker, door, stream, client, rule, hello, name, user), rule


async def _by_rule(worker: Worker, door: MysqlDoor, stream: Stream, client: Client, rule: Rule, hello: Hello, name: str,
                   user: User | None) -> User:
    match rule.method:
        case "cert" | "peer":
            return vouched(worker, stream, rule, name, user)
        case "trust":
            return known(worker, user, name, rule.method)
        case "ldap" | "pam":
            return await _judged(worker, door, stream, client, rule, hello, name, user)
        case "password" | "md5" | "scram-sha-256":
            return await _by_password(worker, door, stream, hello, name, user)
        case _:
            raise AuthorizationFailed("channel binding is required, and MySQL's protocol has none")


def _safe(stream: Stream) -> bool:
    return stream.encrypted or stream.sock.family == socket.AF_UNIX


async def _by_password(worker: Worker, door: MysqlDoor, stream: Stream, hello: Hello, name: str, user: User | None) -> User:
    stored = user.password.get_secret_value() if user is not None and user.password is not None else None
    plain = stored is not None and not _is_verifier(stored)
    digests = {}
    if stored is not None and plain:
        digests = {plugin: digest(stored.encode()) for plugin, digest in proofs.DIGESTS.items()}
    elif stored is not None and (learnt := door.remembered.find(name, stored)) is not None:
        digests = {SHA2: learnt}
    # Who is unknown, and who has a plain password and errs, is asked as everybody is: wholly where anybody has a verifier.
    whole = door.any_verifier
    exam = Exam(digests=digests, whole=whole, safe=_safe(stream), native=worker.settings.mysql.native_password, key=door.rsa_key)
    try:
        offered = await drive(prove(hello, exam), stream, server_side=True)
        if offered is not None:
            rounds = worker.settings.auth.scram_iterations
            if not await asyncio.to_thread(passwords.matches, name, stored, offered, rounds):
                raise AuthenticationFailed("wrong password")
            if stored is not None:
                door.remembered.learn(name, stored, offered)
    except AuthenticationFailed:
        if worker.lookup is not None:
            worker.lookup.doubt(name)
        raise
    if user is None:
        raise AuthenticationFailed("no such user")
    return user


def _is_verifier(stored: str) -> bool:
    if passwords.is_md5(stored):
        return True
    try:
        parse_verifier(stored)
    except ValueError:
        return False
    return True


def any_verifier(worker: Worker) -> bool:
    """Does anybody have to be asked for the password itself?"""
    words = [user.password.get_secret_value() for user in worker.settings.users.values() if user.password is not None]
    return worker.lookup is not None or any(map(_is_verifier, words))


async def _judged(worker: Worker, door: MysqlDoor, stream: Stream, client: Client, rule: Rule, hello: Hello, name: str,
                  user: User | None) -> User:
    """By a directory or PAM."""
    if not _safe(stream):
        raise AuthorizationFailed("a cleartext password is asked for over TLS or a unix socket only", hint="Connect with --ssl.")
    offered = await drive(prove(hello, Exam(whole=True, safe=True, native=False)), stream, server_side=True)
    address = "[local]" if client.peer is None else str(client.peer)
    right = await stream.while_connected(
        worker.gate.judge.knows(rule, name, offered or "", address, worker.settings.auth.ask_timeout))
    if not right:
        raise AuthenticationFailed("wrong password")
    return known(worker, user, name, rule.method)


