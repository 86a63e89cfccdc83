"""Us as a MySQL server: from our greeting to the moment when the client's proof is accepted.

`greet` says who we are and hears who the client is; `prove` is the exchange of proofs.  Neither knows sockets.  Whether the
user exists is not visible: an unknown one walks the same path as a wrong password.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from proxy.auth import mysql as proofs
from proxy.auth.mysql_rsa import Key
from proxy.errors import AuthenticationFailed, AuthorizationFailed, ClientFault, NotSupported
from proxy.session.effects import Ask, Dialogue, Work
from proxy.session.mysql_turns import Turns
from proxy.wire.mysql import MORE_DATA, NATIVE, NONCE, OURS, RELAYED, SHA2, Can
from proxy.wire.mysql_login import Answer, Greeting, asks_for_tls, pack_greeting, parse_answer, switch


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a client is told of us.  `capabilities`: of RELAYED those that the servers behind us have."""

    version: str
    thread: int
    capabilities: Can = RELAYED
    tls: bool = False
    tls_required: bool = False


@dataclass(slots=True)
class Hello:
    """A client that has said who it is."""

    answer: Answer
    nonce: bytes = field(repr=False)
    turns: Turns
    secure: bool                               # under TLS


def greet(offer: Offer) -> Dialogue[Hello]:
    nonce, turns = proofs.nonce(), Turns(ClientFault)
    capabilities = OURS | offer.capabilities | (Can.SSL if offer.tls else Can(0))
    yield from turns.say(pack_greeting(Greeting(offer.version, offer.thread, nonce, capabilities, SHA2)))
    payload = yield from turns.read()
    secure = False
    if asks_for_tls(payload):
        if not offer.tls:
            raise ClientFault("Bad handshake: TLS is not offered here",
                              hint="Set switchboard.tls.certificate, or connect without TLS.")
        yield Ask.TLS
        secure = True
        payload = yield from turns.read()
    answer = parse_answer(payload)
    if answer.capabilities & Can.COMPRESS:
        raise NotSupported("compression is not relayed", hint="Connect without it.")
    if offer.tls_required and not secure:
        raise AuthorizationFailed("Connections using insecure transport are prohibited here", hint="Connect with --ssl.")
    # Nobody can do what was not offered.
    return Hello(replace(answer, capabilities=answer.capabilities & capabilities), nonce, turns, secure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """How one user may prove itself.

    `digests` by plugin, of the password that the configuration holds; empty for who is unknown and for who has a verifier
    alone.  `whole`: ask for the password itself when no digest fits.  `safe`: nobody can listen (TLS, a unix socket).
    """

    digests: dict[str, bytes] = field(default_factory=dict, repr=False)
    whole: bool = False
    safe: bool = False
    native: bool = True
    key: Key | None = field(default=None, repr=False)


def prove(hello: Hello, exam: Exam) -> Dialogue[str | None]:
    """Returns None when a digest fitted, else the password, for somebody else to judge.  Raises AuthenticationFailed."""
    turns, nonce, asked = hello.turns, hello.nonce, hello.answer.plugin
    if not hello.answer.capabilities & Can.PLUGIN_AUTH:
        asked = NATIVE
    proof, plugin = hello.answer.proof, SHA2
    if asked == NATIVE and exam.native and not (exam.whole and NATIVE not in exam.digests):
        plugin = NATIVE
    if asked != SHA2 or plugin != SHA2:
        # Its proof was for another plugin than the greeting's, and may have been made without our nonce.
        if not hello.answer.capabilities & Can.PLUGIN_AUTH:
            if plugin != NATIVE:
                raise NotSupported("this client knows no plugin of authentication that is accepted here")
        else:
            nonce = proofs.nonce()
            yield from turns.say(switch(plugin, nonce))
            proof = yield from turns.read()
    digest = exam.digests.get(plugin, bytes(NONCE))
    if proofs.FITS[plugin](digest, nonce, proof) and plugin in exam.digests:
        if plugin == SHA2:
            yield from turns.say(bytes((MORE_DATA,)) + proofs.FAST_OK, more=True)
        return None
    if not exam.whole or plugin != SHA2 or proof in (b"", b"\0"):
        raise AuthenticationFailed("wrong password")
    yield from turns.say(bytes((MORE_DATA,)) + proofs.FULL)
    return (yield from _whole(turns, exam, nonce))


def _whole(turns: Turns, exam: Exam, nonce: bytes) -> Dialogue[str]:
    told = yield from turns.read()
    if not exam.safe:
        key = exam.key
        if told != proofs.ASK_KEY or key is None:
            raise AuthorizationFailed("the password itself is asked for over TLS or a unix socket only",
                                      hint="Connect with --ssl, or let your driver ask for the server's public key.")
        yield from turns.say(bytes((MORE_DATA,)) + key.public)
        secret = yield from turns.read()
        hidden = yield Work(lambda: key.decrypt(secret))
        if hidden is None:
            raise AuthenticationFailed("wrong password")
        told = proofs.hide(hidden, nonce)[:len(hidden)]
    try:
        return told.partition(b"\0")[0].decode()
    except UnicodeDecodeError:
        raise AuthenticationFailed("password is not UTF-8") from None
