"""Us as the client of a MySQL server: from its greeting to its OK.

The server speaks first; TLS begins behind the head of our answer.  Which proof it wants, it says in the greeting, or in an
AuthSwitchRequest.  `caching_sha2_password` wants the password itself when it has forgotten its digest: that goes under TLS,
over a unix socket, or encrypted by the server's RSA key; and never in clear otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from proxy.auth import mysql as proofs
from proxy.auth import mysql_rsa
from proxy.config.target import Credential, SslMode, Tls
from proxy.errors import NoCredential, OperatorFault, UpstreamFault
from proxy.session.effects import Ask, Dialogue
from proxy.session.login import Welcome
from proxy.session.mysql_turns import Turns
from proxy.wire.mysql import CLEAR, ERR, MORE_DATA, NATIVE, OK, OURS, SHA2, UTF8MB4, Can
from proxy.wire.mysql_errors import refused
from proxy.wire.mysql_login import SWITCH, Answer, Greeting, pack_answer, pack_ssl_request, parse_greeting, parse_switch

MAX_PACKET = 0x40000000       # what we tell the server that we take; the client's own limit is its own affair
MAX_TURNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the connection is to be.  `capabilities` are those of RELAYED that the client shares."""

    capabilities: Can = Can.LONG_FLAG | Can.TRANSACTIONS | Can.MULTI_RESULTS | Can.PS_MULTI_RESULTS
    charset: int = UTF8MB4
    database: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


def login(who: Credential, wish: Wish, tls: Tls, *, local: bool, cleartext: bool = False) -> Dialogue[Welcome]:
    """`local`: a unix socket, which needs no TLS; `cleartext`: a password may go over a connection that anybody can read."""
    turns = Turns(UpstreamFault)
    payload = yield from turns.read()
    if payload[:1] == bytes((ERR,)):
        raise refused(payload)
    greeting = parse_greeting(payload)
    answer = _answer(greeting, who, wish)
    secure = yield from _secure(turns, greeting, answer, tls, local=local)
    if secure and not local:
        answer = _with(answer, Can.SSL)
    exam = _Exam(who, turns, secure=secure or local, cleartext=cleartext)
    plugin = greeting.plugin if greeting.plugin in proofs.PROOFS else SHA2
    proof = exam.proof(plugin, greeting.nonce) if who.password else b""
    yield from turns.say(pack_answer(replace(answer, proof=proof, database=wish.database, plugin=plugin, attributes=wish.attributes)))
    yield from exam.take(plugin, greeting.nonce)
    return Welcome({"server_version": greeting.version, "capabilities": str(int(greeting.capabilities))}, greeting.thread)


def _answer(greeting: Greeting, who: Credential, wish: Wish) -> Answer:
    wanted = wish.capabilities | (OURS & ~Can.CONNECT_WITH_DB) | (Can.CONNECT_WITH_DB if wish.database else Can(0))
    missing = wish.capabilities & ~greeting.capabilities
    if missing or not greeting.capabilities & Can.PROTOCOL_41:
        words = ", ".join(flag.name or "" for flag in Can if flag & missing) or "protocol 4.1"
        raise OperatorFault(f"the server cannot do what the client asks for: {words}",
                            hint="MariaDB 10.2 and MySQL 5.7 can; older ones need a client that asks for less.")
    return Answer(wanted & (greeting.capabilities | Can.LONG_PASSWORD), MAX_PACKET, wish.charset, who.user, b"")


def _with(answer: Answer, flag: Can) -> Answer:
    return replace(answer, capabilities=answer.capabilities | flag)


def _secure(turns: Turns, greeting: Greeting, answer: Answer, tls: Tls, *, local: bool) -> Dialogue[bool]:
    if local or tls.mode is SslMode.DISABLE:
        return local
    if not greeting.capabilities & Can.SSL:
        if tls.mode in (SslMode.ALLOW, SslMode.PREFER):
            return False
        raise OperatorFault("server does not support TLS, but TLS was required",
                            hint="Switch TLS on at the server, or leave out `connection.ssl` of this plugin.")
    yield from turns.say(pack_ssl_request(_with(answer, Can.SSL)))
    yield Ask.TLS
    return True


class _Exam:
    """The questions of one server, and what we may answer."""

    def __init__(self, who: Credential, turns: Turns, *, secure: bool, cleartext: bool) -> None:
        self.who, self.turns, self.secure, self.cleartext = who, turns, secure, cleartext

    @property
    def word(self) -> bytes:
        if not self.who.password:
            raise NoCredential("the server asks for a password, and the configuration has none for this plugin",
                               hint="Set connection.password or connection.passwordCommand.")
        return self.who.password.reveal().encode()

    def proof(self, plugin: str, nonce: bytes) -> bytes:
        return proofs.PROOFS[plugin](self.word, nonce)

    def take(self, plugin: str, nonce: bytes) -> Dialogue[None]:
        """Until the server's OK."""
        for _ in range(MAX_TURNS):
            payload = yield from self.turns.read()
            match payload[0] if payload else -1:
                case 0x00 if payload[0] == OK:
                    return
                case 0xFF if payload[0] == ERR:
                    raise refused(payload)
                case 0xFE if payload[0] == SWITCH:
                    plugin, nonce = parse_switch(payload)
                    yield from self._switched(plugin, nonce)
                case 0x01 if payload[0] == MORE_DATA and plugin == SHA2:
                    yield from self._more(payload[1:], nonce)
                case _:
                    raise UpstreamFault("the server sent a malformed authentication request")
        raise UpstreamFault("the server asks for proof after proof")

    def _switched(self, plugin: str, nonce: bytes) -> Dialogue[None]:
        if plugin in proofs.PROOFS:
            # Even an empty answer is one: to an account without a password.
            yield from self.turns.say(self.proof(plugin, nonce) if self.who.password else b"")
        elif plugin == CLEAR:
            if not (self.secure or self.cleartext):
                raise OperatorFault("the server asks for a cleartext password over a connection without TLS",
                                    hint="Use TLS (`connection.ssl`), or set switchboard.upstream.cleartext_passwords if everybody on "
                                         "the way may know the password.")
            yield from self.turns.say(self.word + b"\0")
        else:
            raise OperatorFault(f"the server asks for authentication by {plugin}, which is not supported",
                                hint=f"Give the account {SHA2} or {NATIVE}.")

    def _more(self, said: bytes, nonce: bytes) -> Dialogue[None]:
        """caching_sha2_password has a word to say."""
        if said == proofs.FAST_OK:
            return
        if said != proofs.FULL:
            raise UpstreamFault("the server sent a malformed authentication request")
        if self.secure:
            yield from self.turns.say(self.word + b"\0")
            return
        # Without a certificate nobody can tell whose key this is; what it protects from is who only listens.
        yield from self.turns.say(proofs.ASK_KEY)
        payload = yield from self.turns.read()
        if payload[:1] == bytes((ERR,)):
            raise refused(payload)
        if payload[:1] != bytes((MORE_DATA,)):
            raise UpstreamFault("the server sent no public key")
        yield from self.turns.say(mysql_rsa.encrypt(payload[1:], proofs.hide(self.word, nonce)))
