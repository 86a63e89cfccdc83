"""Us as the server: from the first byte of a client to AuthenticationOk.

`greet` answers the untyped packets until the client says who it is; `prove` is the password exchange.  Neither
knows sockets.  Whether the user exists is not visible: an unknown one walks the same path as a wrong password.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, field

from proxy.auth import password as passwords
from proxy.auth.scram import MECHANISM, ScramServer, mock_verifier
from proxy.config.clients import Method
from proxy.errors import AuthenticationFailed, AuthorizationFailed, ClientFault
from proxy.session.effects import Ask, Dialogue, Send, Work
from proxy.wire import messages
from proxy.wire.startup import ALPN, NEWEST_MINOR, CancelRequest, DirectTls, GSSENCRequest, SSLRequest, Startup

SLOW = 20_000               # rounds of PBKDF2 that take more than some milliseconds: not on the loop


@dataclass(frozen=True, slots=True)
class Login:
    """How one user proves itself.  `stored` is what the configuration holds; None: nobody of that name.

    `end_point`: the hash of our certificate, where there is TLS; `only_bound` refuses SCRAM without it.
    """

    user: str
    method: Method
    stored: str | None = field(repr=False)
    iterations: int = 4096
    end_point: bytes | None = None
    only_bound: bool = False


def greet(*, tls_offered: bool, tls_required: bool = False) -> Dialogue[Startup | CancelRequest]:
    """Answer requests for encryption until the client says what it wants.  Each kind may be made once, and none under TLS."""
    secure = False
    asked: set[type] = set()
    while True:
        packet = yield Ask.STARTUP
        match packet:
            case DirectTls() | SSLRequest() | GSSENCRequest() if secure:
                raise ClientFault(f"received {type(packet).__name__} inside TLS")
            case DirectTls() if not tls_offered:
                raise ClientFault("received direct TLS, which is not offered here",
                                  hint="Set switchboard.tls.certificate, or connect with sslmode=disable.")
            case DirectTls():
                yield Ask.TLS
                if (yield Ask.ALPN) != ALPN:
                    # Without it, a browser could be led to speak to us what somebody else wrote (ALPACA).
                    raise ClientFault("received direct SSL connection request without ALPN protocol negotiation extension")
                secure = True
            case SSLRequest() | GSSENCRequest() if type(packet) in asked:
                raise ClientFault(f"received a second {type(packet).__name__}")
            case SSLRequest() if tls_offered:
                yield Send(b"S")
                yield Ask.TLS              # the driver has refused if plaintext was buffered behind the request
                secure = True
            case SSLRequest() | GSSENCRequest():
                asked.add(type(packet))
                yield Send(b"N")
            case CancelRequest():
                return packet
            case Startup():
                if tls_required and not secure:
                    raise AuthorizationFailed("connection requires TLS", hint="Connect with sslmode=require.")
                if packet.minor > NEWEST_MINOR or packet.unknown:
                    yield Send(messages.negotiate_protocol_version(min(packet.minor, NEWEST_MINOR), packet.unknown))
                return packet


def prove(login: Login) -> Dialogue[None]:
    """Ask for the proof that `login.method` wants; raise AuthenticationFailed with one wording for every cause."""
    failed = AuthenticationFailed(f'password authentication failed for user "{login.user}"')
    method, stored = login.method, login.stored
    if method is Method.TRUST:
        if stored is None:
            raise failed
        return
    if method is Method.MD5 and stored is not None and stored.startswith(MECHANISM + "$"):
        method = Method.SCRAM                 # PostgreSQL: md5 means SCRAM for who has a SCRAM verifier
    try:
        match method:
            case Method.SCRAM:
                yield from _scram(login)
            case Method.MD5:
                yield from _md5(login)
            case _:
                yield from _cleartext(login)
    except AuthenticationFailed:
        raise failed from None


def _password() -> Dialogue[bytes]:
    tag, body = yield Ask.MESSAGE
    if tag != ord("p"):
        raise ClientFault(f"expected a password response, got message type {tag:#04x}")
    return bytes(body)


def _text(body: bytes) -> str:
    if not body.endswith(b"\0") or b"\0" in body[:-1]:
        raise ClientFault("malformed password message")
    if body == b"\0":
        fault = ClientFault("empty password returned by client")      # PostgreSQL's words, for whoever it is
        fault.sqlstate = AuthenticationFailed.sqlstate
        raise fault
    try:
        return body[:-1].decode()
    except UnicodeDecodeError:
        raise AuthenticationFailed("password is not UTF-8") from None


def ask_password() -> Dialogue[str]:
    """A password in clear, for somebody else to judge.  Raises AuthenticationFailed for one that is no text."""
    yield Send(messages.authentication(messages.AUTH_CLEARTEXT))
    return _text((yield from _password()))


def _cleartext(login: Login) -> Dialogue[None]:
    offered = yield from ask_password()
    if not (yield Work(lambda: passwords.matches(login.user, login.stored, offered, login.iterations))):
        raise AuthenticationFailed("wrong password")


def _md5(login: Login) -> Dialogue[None]:
    salt = os.urandom(4)
    yield Send(messages.authentication(messages.AUTH_MD5, salt))
    offered = _text((yield from _password())).encode()
    stored = login.stored if login.stored is not None else os.urandom(16).hex()
    if not passwords.is_md5(stored):
        stored = passwords.md5_hash(login.user, stored)
    if not hmac.compare_digest(passwords.md5_answer(stored, salt), offered) or login.stored is None:
        raise AuthenticationFailed("wrong password")


def _scram(login: Login) -> Dialogue[None]:
    verifier = None
    if login.stored is not None:
        stored = login.stored
        if login.iterations > SLOW and not stored.startswith(MECHANISM + "$"):
            verifier = yield Work(lambda: passwords.verifier_of(stored, login.iterations))
        else:
            verifier = passwords.verifier_of(stored, login.iterations)
    server = ScramServer(verifier or mock_verifier(login.user, login.iterations), real=verifier is not None,
                         end_point=login.end_point, only_bound=login.only_bound)
    offer = b"".join(name.encode() + b"\0" for name in server.mechanisms) + b"\0"
    yield Send(messages.authentication(messages.AUTH_SASL, offer))
    first = yield from _password()
    # SASLInitialResponse: mechanism, NUL, int32 length, data
    name, _, rest = first.partition(b"\0")
    if len(rest) < 4:
        raise ClientFault("malformed SASL initial response")
    (length,) = struct.unpack_from("!i", rest)
    if length != len(rest) - 4:
        raise ClientFault("malformed SASL initial response")
    yield Send(messages.authentication(messages.AUTH_SASL_CONTINUE, server.first(rest[4:], name.decode("latin-1"))))
    final = server.final((yield from _password()))
    yield Send(messages.authentication(messages.AUTH_SASL_FINAL, final), more=True)      # the welcome follows, as in PostgreSQL
