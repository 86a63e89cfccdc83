"""Us as the client: from a fresh socket to the first ReadyForQuery of an upstream.

`ways` says which kinds of connection sslmode allows, in order; `secure` makes one of them encrypted; `login` sends the
startup packet and answers whatever proof is asked, within what `Proof` allows.  The server's own refusals come out as
UpstreamRefused, word for word.  Names, order and refusals are libpq's (PostgreSQL manual, "libpq - C Library").
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.auth import password as passwords
from proxy.auth.scram_client import PLAIN, PLUS, ScramClient, keys
from proxy.config.target import ChannelBinding, Credential, Proof, Secret, SslMode, Tls
from proxy.errors import NoCredential, OperatorFault, UpstreamFault, UpstreamRefused
from proxy.session.effects import Ask, Dialogue, Send, Work
from proxy.wire import messages, startup

MAX_PARAMETERS = 1000       # PostgreSQL 18 reports 16
MIN_KEY, MAX_KEY = 8, 260   # a pid, and a secret of 4 bytes, or of up to 256 from protocol 3.2 on
BRIEF = 20_000              # SCRAM rounds (some milliseconds) that may run between two events


@dataclass(slots=True)
class Welcome:
    """What a server said while letting us in."""

    parameters: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    secret: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Channel:
    """What lies between us and the server.  `end_point`: the hash of its certificate (RFC 5929), None without TLS."""

    tls: bool = False
    local: bool = False                 # a unix socket
    end_point: bytes | None = None


class Way(enum.Enum):
    """One kind of connection to try."""

    PLAIN = "without TLS"
    ASKED = "TLS if the server has it"
    SURE = "TLS"
    DIRECT = "TLS from the first byte"


def ways(tls: Tls, *, local: bool) -> tuple[Way, ...]:
    """In order: the next is tried when the server or the handshake refuses the one before.

    `allow` is plain, then TLS; `prefer` is TLS, then plain.  A unix socket never has TLS.
    """
    if local or tls.mode is SslMode.DISABLE:
        return (Way.PLAIN,)
    if tls.mode is SslMode.ALLOW:
        return (Way.PLAIN, Way.SURE)
    if tls.mode is SslMode.PREFER:
        return (Way.ASKED, Way.PLAIN)
    return (Way.DIRECT if tls.direct else Way.SURE,)


def secure(way: Way) -> Dialogue[bool]:
    """Returns whether the connection is encrypted now."""
    if way is Way.PLAIN:
        return False
    if way is Way.DIRECT:
        yield Ask.TLS
        return True
    yield Send(startup.SSL_REQUEST)
    answer = yield Ask.BYTE
    if answer == b"S":
        yield Ask.TLS
        return True
    if answer == b"N":
        if way is Way.ASKED:
            return False
        raise OperatorFault("server does not support TLS, but TLS was required",
                            hint="Switch TLS on at the server, or relax `connection.ssl` of this plugin.")
    # An `E` here is unauthenticated text: it is not shown (CVE-2024-10977).
    raise UpstreamFault("the server answered SSLRequest with something else than S or N")


def login(credential: Credential, parameters: Mapping[str, str], channel: Channel, proof: Proof) -> Dialogue[Welcome]:
    """`parameters` is the whole startup packet except `user`."""
    yield Send(startup.pack({"user": credential.user, **parameters}))
    welcome, exam = Welcome(), _Exam(credential, channel, proof)
    while True:
        tag, body = yield Ask.MESSAGE
        match tag:
            case 0x52:  # R, Authentication
                yield from exam.answer(body)
            case 0x45:  # E, ErrorResponse
                raise UpstreamRefused(messages.parse_fields(body))
            case 0x4E | 0x76:  # N, NoticeResponse; v, NegotiateProtocolVersion
                pass
            case _ if not exam.passed:
                raise UpstreamFault(f"the server sent message type {tag:#04x} before it had let us in")
            case 0x53:  # S, ParameterStatus
                name, value = messages.parse_parameter_status(body)
                welcome.parameters[name] = value
                if len(welcome.parameters) > MAX_PARAMETERS:
                    raise UpstreamFault(f"the server reports more than {MAX_PARAMETERS} parameters")
            case 0x4B:  # K, BackendKeyData
                if not MIN_KEY <= len(body) <= MAX_KEY:
                    raise UpstreamFault("the server sent a malformed BackendKeyData")
                welcome.pid, welcome.secret = int.from_bytes(body[:4]), bytes(body[4:])
            case 0x5A:  # Z, ReadyForQuery
                return welcome
            case _:
                raise UpstreamFault(f"the server sent message type {tag:#04x} during login")


class _Exam:
    """The questions of one server, and what we may answer."""

    def __init__(self, who: Credential, channel: Channel, proof: Proof) -> None:
        self.who = who
        self.channel = channel
        self.proof = proof
        self.scram: ScramClient | None = None
        self.passed = False
        self.method = "none"                # libpq's name of what the server asked for

    def answer(self, body: bytes) -> Dialogue[None]:
        code, rest = int.from_bytes(body[:4]), body[4:]
        if len(body) < 4 or self.passed:
            raise UpstreamFault("the server sent a malformed authentication request")
        if code == messages.AUTH_OK:
            self._pass()
        elif code == messages.AUTH_SASL_CONTINUE and self.scram is not None:
            salt, rounds = self.scram.work(rest)
            if rounds > BRIEF:
                password = self.scram.password
                yield Work(lambda: keys(password, salt, rounds))
            yield Send(messages.message(b"p", self.scram.final(rest)))
        elif code == messages.AUTH_SASL_FINAL and self.scram is not None:
            self.scram.verify(rest)
        elif code == messages.AUTH_SASL and self.scram is None:
            yield from self._sasl(rest)
        elif code == messages.AUTH_MD5 and len(rest) == 4:
            stored = passwords.md5_hash(self.who.user, self._word("md5").reveal())
            yield Send(messages.message(b"p", passwords.md5_answer(stored, rest) + b"\0"))
        elif code == messages.AUTH_CLEARTEXT:
            word = self._word("password")
            if not (self.channel.tls or self.channel.local or self.proof.cleartext):
                raise OperatorFault(
                    "the server asks for a cleartext password over a connection without TLS",
                    hint="Use TLS (`connection.ssl`), let the server ask for scram-sha-256, or set "
                         "switchboard.upstream.cleartext_passwords if everybody on the way may know the password.")
            yield Send(messages.message(b"p", word.reveal().encode() + b"\0"))
        else:
            raise UpstreamFault(f"the server asks for authentication method {code}, which is not supported")

    def _word(self, method: str) -> Secret:
        """The password, if it may be used for this method."""
        self._permit(method)
        if self.proof.channel_binding is ChannelBinding.REQUIRE and method != "scram-sha-256":
            raise OperatorFault("channel binding required but not supported by server's authentication request")
        word = self.who.password
        if not word:
            raise NoCredential("the server asks for a password, and the configuration has none for this plugin",
                                hint="Set connection.password or connection.passwordCommand, or add a line to the file "
                                     "that PGPASSFILE names.")
        if "\0" in word.reveal():
            raise OperatorFault("the password of this plugin holds a NUL, which no server can take")
        return word

    def _permit(self, method: str) -> None:
        allowed = self.proof.methods
        if allowed is not None and method not in allowed:
            raise OperatorFault(f'authentication method requirement "{",".join(sorted(allowed))}" failed: '
                                + (f"server requested {method}" if method != "none" else
                                   "server did not complete authentication"),
                                hint="See `require_auth` of this connection, and pg_hba.conf of the server.")
        self.method = method

    def _sasl(self, offer: bytes) -> Dialogue[None]:
        word = self._word("scram-sha-256")
        offered, wish, channel = offer.split(b"\0"), self.proof.channel_binding, self.channel
        plus = PLUS.encode() in offered
        if plus and not channel.tls:
            raise UpstreamFault("server offered SCRAM-SHA-256-PLUS authentication over a connection without TLS")
        bind = plus and wish is not ChannelBinding.DISABLE and channel.end_point is not None
        if not bind and wish is ChannelBinding.REQUIRE:
            raise OperatorFault("channel binding is required, but server did not offer an authentication method that "
                                "supports channel binding" if channel.tls else
                                "channel binding is required, but the connection has no TLS")
        if not bind and PLAIN.encode() not in offered:
            raise UpstreamFault("none of the server's SASL authentication mechanisms are supported")
        able = channel.end_point is not None and wish is not ChannelBinding.DISABLE
        scram = self.scram = ScramClient(word, end_point=channel.end_point if bind else None, could_bind=able)
        first = scram.first()
        yield Send(messages.message(b"p", scram.mechanism.encode() + b"\0" + len(first).to_bytes(4) + first))

    def _pass(self) -> None:
        """AuthenticationOk: has the server shown what we ask of it?"""
        if self.scram is not None and not self.scram.verified:
            raise UpstreamFault("the server did not prove that it knows the password")
        if self.proof.channel_binding is ChannelBinding.REQUIRE and self.scram is None:
            raise OperatorFault("channel binding required, but server authenticated client without channel binding")
        if self.method == "none":
            self._permit("none")
        self.passed = True
