"""Us as the server: untyped packets and proofs, without a socket."""

from __future__ import annotations

import pytest

from proxy.auth.password import md5_answer, md5_hash
from proxy.auth.scram import make_verifier
from proxy.auth.scram_client import ScramClient
from proxy.config.clients import Method
from proxy.config.target import Secret
from proxy.errors import AuthenticationFailed, ClientFault
from proxy.session.effects import Ask, Send, Work
from proxy.session.handshake import Login, greet, prove
from proxy.wire.messages import negotiate_protocol_version
from proxy.wire.startup import CancelRequest, DirectTls, GSSENCRequest, SSLRequest, Startup
from tests.play import Play

HELLO = Startup(0, {"user": "u", "database": "catalog"})


def test_plain_startup() -> None:
    (Play(greet(tls_offered=False)) << Ask.STARTUP >> HELLO).returns(HELLO)


def test_ssl_request_when_tls_is_off_gets_n_and_goes_on() -> None:
    (Play(greet(tls_offered=False)) << Ask.STARTUP >> SSLRequest() << Send(b"N") << Ask.STARTUP >> HELLO).returns(HELLO)


def test_gssenc_then_tls() -> None:
    (Play(greet(tls_offered=True))
     << Ask.STARTUP >> GSSENCRequest() << Send(b"N")
     << Ask.STARTUP >> SSLRequest() << Send(b"S") << Ask.TLS
     << Ask.STARTUP >> HELLO).returns(HELLO)


def test_ssl_request_inside_tls_is_refused() -> None:
    play = Play(greet(tls_offered=True)) << Ask.STARTUP >> SSLRequest() << Send(b"S") << Ask.TLS << Ask.STARTUP
    with pytest.raises(ClientFault, match="inside TLS"):
        play >> SSLRequest()


def test_direct_tls() -> None:
    (Play(greet(tls_offered=True, tls_required=True))
     << Ask.STARTUP >> DirectTls() << Ask.TLS << Ask.ALPN >> "postgresql" << Ask.STARTUP >> HELLO).returns(HELLO)


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_direct_tls_wants_its_own_protocol_named(alpn: str | None) -> None:
    play = Play(greet(tls_offered=True)) << Ask.STARTUP >> DirectTls() << Ask.TLS << Ask.ALPN
    with pytest.raises(ClientFault, match="without ALPN"):
        play >> alpn


def test_direct_tls_that_is_not_offered() -> None:
    with pytest.raises(ClientFault, match="not offered"):
        Play(greet(tls_offered=False)) << Ask.STARTUP >> DirectTls()


@pytest.mark.parametrize("request_", [SSLRequest(), GSSENCRequest()])
def test_no_request_is_answered_twice(request_: SSLRequest | GSSENCRequest) -> None:
    play = Play(greet(tls_offered=False)) << Ask.STARTUP >> request_ << Send(b"N") << Ask.STARTUP
    with pytest.raises(ClientFault, match="second"):
        play >> request_


@pytest.mark.parametrize("request_", [GSSENCRequest(), DirectTls()])
def test_nothing_is_encrypted_twice(request_: GSSENCRequest | DirectTls) -> None:
    play = Play(greet(tls_offered=True)) << Ask.STARTUP >> DirectTls() << Ask.TLS << Ask.ALPN >> "postgresql" << Ask.STARTUP
    with pytest.raises(ClientFault, match="inside TLS"):
        play >> request_


def test_required_tls() -> None:
    play = Play(greet(tls_offered=True, tls_required=True)) << Ask.STARTUP
    with pytest.raises(ClientFault, match="requires TLS"):
        play >> HELLO


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_protocols_that_we_speak_need_no_words(minor: int) -> None:
    hello = Startup(minor, {"user": "u"})
    (Play(greet(tls_offered=False)) << Ask.STARTUP >> hello).returns(hello)
    assert hello.secret_length == (32 if minor == 2 else 4)


@pytest.mark.parametrize(("asked", "unknown", "told"), [
    (0, ("_pq_.x",), 0), (2, ("_pq_.x", "_pq_.y"), 2), (3, (), 2), (9999, ("_pq_.x",), 2)])
def test_newer_protocol_is_negotiated_down(asked: int, unknown: tuple[str, ...], told: int) -> None:
    hello = Startup(asked, {"user": "u"}, unknown)
    (Play(greet(tls_offered=False)) << Ask.STARTUP >> hello << Send(negotiate_protocol_version(told, unknown))).returns(hello)


def test_cancel_request_comes_out() -> None:
    cancel = CancelRequest(7, b"1234")
    (Play(greet(tls_offered=False)) << Ask.STARTUP >> cancel).returns(cancel)


def _password(body: bytes) -> tuple[int, bytes]:
    return ord("p"), body


def scram(login: Login, password: str) -> None:
    dialogue, client = prove(login), ScramClient(Secret(password))
    offer = next(dialogue)
    assert isinstance(offer, Send)
    assert b"SCRAM-SHA-256\0\0" in offer.data
    assert next(dialogue) is Ask.MESSAGE
    first = client.first()
    challenge = dialogue.send(_password(b"SCRAM-SHA-256\0" + len(first).to_bytes(4) + first))
    assert isinstance(challenge, Send)
    next(dialogue)
    final = dialogue.send(_password(client.final(challenge.data[9:])))
    assert isinstance(final, Send)
    client.verify(final.data[9:])
    with pytest.raises(StopIteration):
        next(dialogue)


@pytest.mark.parametrize("stored", ["sécret", str(make_verifier("sécret"))])
def test_scram_agrees(stored: str) -> None:
    scram(Login("u", Method.SCRAM, stored), "sécret")


@pytest.mark.parametrize("stored", ["other", None])
def test_wrong_password_and_unknown_user_look_the_same(stored: str | None) -> None:
    with pytest.raises(AuthenticationFailed, match=r'^password authentication failed for user "u"$'):
        scram(Login("u", Method.SCRAM, stored), "secret")


@pytest.mark.parametrize("stored", ["secret", md5_hash("u", "secret")])
def test_md5(stored: str) -> None:
    dialogue = prove(Login("u", Method.MD5, stored))
    offer = next(dialogue)
    assert isinstance(offer, Send)
    next(dialogue)
    with pytest.raises(StopIteration):
        dialogue.send(_password(md5_answer(md5_hash("u", "secret"), offer.data[-4:]) + b"\0"))


@pytest.mark.parametrize("stored", ["secret", md5_hash("u", "secret"), str(make_verifier("secret"))])
@pytest.mark.parametrize("offered", ["secret", "wrong", ""])
def test_cleartext(stored: str, offered: str) -> None:
    dialogue = prove(Login("u", Method.PASSWORD, stored))
    next(dialogue)
    next(dialogue)

    def answer() -> None:
        work = dialogue.send(_password(offered.encode() + b"\0"))
        assert isinstance(work, Work)         # PBKDF2 takes its time: not on the loop
        dialogue.send(work.function())

    if offered == "secret":
        with pytest.raises(StopIteration):
            answer()
    else:
        with pytest.raises(ClientFault, match="empty password" if not offered else "password authentication failed") as caught:
            answer()
        assert caught.value.sqlstate == "28P01"


def test_trust_lets_in_only_who_is_known() -> None:
    with pytest.raises(StopIteration):
        next(prove(Login("u", Method.TRUST, "")))
    with pytest.raises(AuthenticationFailed):
        next(prove(Login("u", Method.TRUST, None)))
