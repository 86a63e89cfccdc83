"""Us as the client: from a fresh socket to the first ReadyForQuery of an upstream.

`secure` asks for TLS as sslmode says; `login` sends the startup packet and answers whatever proof is asked.  The
server's own refusals come out as UpstreamRefused, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.auth import password as passwords
from proxy.auth.scram import MECHANISM, ScramClient
from proxy.config.target import Credential, SslMode
from proxy.errors import OperatorFault, UpstreamFault, UpstreamRefused
from proxy.session.effects import Ask, Dialogue, Send
from proxy.wire import messages, startup


@dataclass(slots=True)
class Welcome:
    """What a server said while letting us in."""

    parameters: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    secret: bytes = field(default=b"", repr=False)


def secure(mode: SslMode) -> Dialogue[bool]:
    """Ask for TLS before the startup packet.  Returns whether the connection is encrypted now."""
    if mode in (SslMode.DISABLE, SslMode.ALLOW):
        return False
    yield Send(startup.SSL_REQUEST)
    answer = yield Ask.BYTE
    if answer == b"S":
        yield Ask.TLS
        return True
    if answer == b"N":
        if mode is SslMode.PREFER:
            return False
        raise OperatorFault("server does not support TLS, but TLS was required",
                            hint="Switch TLS on at the server, or relax `connection.ssl` of this plugin.")
    raise UpstreamFault("the server answered SSLRequest with something else than S or N")


def login(credential: Credential, parameters: Mapping[str, str], *, encrypted: bool) -> Dialogue[Welcome]:
    """`parameters` is the whole startup packet except `user`."""
    yield Send(startup.pack({"user": credential.user, **parameters}))
    welcome = Welcome()
    scram: ScramClient | None = None
    while True:
        tag, body = yield Ask.MESSAGE
        match tag:
            case 0x52:  # R, Authentication
                scram = yield from _answer(credential, body, scram, encrypted)
            case 0x53:  # S, ParameterStatus
                name, value = messages.parse_parameter_status(body)
                welcome.parameters[name] = value
            case 0x4B:  # K, BackendKeyData
                welcome.pid, welcome.secret = int.from_bytes(body[:4]), bytes(body[4:])
            case 0x5A:  # Z, ReadyForQuery
                return welcome
            case 0x45:  # E, ErrorResponse
                raise UpstreamRefused(messages.parse_fields(body))
            case 0x4E | 0x76:  # N, NoticeResponse; v, NegotiateProtocolVersion
                pass
            case _:
                raise UpstreamFault(f"the server sent message type {tag:#04x} during login")


def _answer(who: Credential, body: bytes, scram: ScramClient | None, encrypted: bool) -> Dialogue[ScramClient | None]:
    code, rest = int.from_bytes(body[:4]), body[4:]
    if code == messages.AUTH_OK:
        return scram
    if code == messages.AUTH_SASL_CONTINUE and scram is not None:
        yield Send(messages.message(b"p", scram.final(rest)))
        return scram
    if code == messages.AUTH_SASL_FINAL and scram is not None:
        scram.verify(rest)
        return scram
    if not who.password:
        raise OperatorFault("the server asks for a password, and the configuration has none for this plugin")
    word = who.password.reveal()
    if code == messages.AUTH_SASL:
        if MECHANISM.encode() not in rest.split(b"\0"):
            raise UpstreamFault("the server offers no SASL mechanism that we know")
        scram = ScramClient(word)
        first = scram.first()
        yield Send(messages.message(b"p", MECHANISM.encode() + b"\0" + len(first).to_bytes(4) + first))
    elif code == messages.AUTH_MD5:
        stored = passwords.md5_hash(who.user, word)
        yield Send(messages.message(b"p", passwords.md5_answer(stored, rest[:4]) + b"\0"))
    elif code == messages.AUTH_CLEARTEXT:
        yield Send(messages.message(b"p", word.encode() + b"\0"))
    else:
        raise UpstreamFault(f"the server asks for authentication method {code}, which is not supported")
    return scram
