"""Us as the client of a server, without a socket: kinds of connection, proofs, and what we do not answer."""

from __future__ import annotations

import hashlib

import pytest

from proxy.auth.scram import ScramServer, make_verifier
from proxy.config.target import ChannelBinding, Credential, Proof, Secret, SslMode, Tls
from proxy.errors import OperatorFault, ProxyError, UpstreamFault, UpstreamRefused
from proxy.session.effects import Ask, Dialogue, Send, Work
from proxy.session.login import Channel, Way, Welcome, login, secure, ways
from proxy.wire import messages, startup
from tests.play import Play

TLS = Channel(tls=True, end_point=hashlib.sha256(b"certificate").digest())
SOCKET, OPEN = Channel(local=True), Channel()
WORD = Credential(user="u", password=Secret("secret"))
BOTH = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
REQUIRE = Proof(channel_binding=ChannelBinding.REQUIRE)


@pytest.mark.parametrize(("mode", "want"), [
    (SslMode.DISABLE, [Way.PLAIN]), (SslMode.ALLOW, [Way.PLAIN, Way.SURE]), (SslMode.PREFER, [Way.ASKED, Way.PLAIN]),
    (SslMode.REQUIRE, [Way.SURE]), (SslMode.VERIFY_CA, [Way.SURE]), (SslMode.VERIFY_FULL, [Way.SURE]),
])
def test_ways(mode: SslMode, want: list[Way]) -> None:
    assert list(ways(Tls(mode=mode), local=False)) == want
    assert list(ways(Tls(mode=mode), local=True)) == [Way.PLAIN]


def test_direct_needs_no_question() -> None:
    (way,) = ways(Tls(mode=SslMode.REQUIRE, direct=True), local=False)
    (Play(secure(way)) << Ask.TLS).returns(True)


def test_asking_for_tls() -> None:
    (Play(secure(Way.ASKED)) << Send(startup.SSL_REQUEST) << Ask.BYTE >> b"S" << Ask.TLS).returns(True)
    (Play(secure(Way.ASKED)) << Send(startup.SSL_REQUEST) << Ask.BYTE >> b"N").returns(False)
    (Play(secure(Way.PLAIN))).returns(False)
    for answer, fault in ((b"N", OperatorFault), (b"E", UpstreamFault), (b"H", UpstreamFault)):
        play = Play(secure(Way.SURE)) << Send(startup.SSL_REQUEST) << Ask.BYTE
        with pytest.raises(fault):
            play >> answer


def asked(code: int, rest: bytes = b"", *, channel: Channel = TLS, proof: Proof | None = None,
          who: Credential = WORD) -> tuple[Dialogue[Welcome], object]:
    """Our answer to one authentication request."""
    dialogue = login(who, {"database": "d"}, channel, proof or Proof())
    hello = next(dialogue)
    assert hello == Send(startup.pack({"user": "u", "database": "d"}))
    assert next(dialogue) is Ask.MESSAGE
    return dialogue, dialogue.send((0x52, code.to_bytes(4) + rest))


def password(sent: object) -> bytes:
    assert isinstance(sent, Send)
    assert sent.data[:1] == b"p"
    return sent.data[5:]


@pytest.mark.parametrize("channel", [TLS, SOCKET])
def test_cleartext_where_nobody_listens(channel: Channel) -> None:
    assert password(asked(messages.AUTH_CLEARTEXT, channel=channel)[1]) == b"secret\0"


def test_cleartext_in_the_open() -> None:
    with pytest.raises(OperatorFault, match="without TLS") as caught:
        asked(messages.AUTH_CLEARTEXT, channel=OPEN)
    assert "cleartext_passwords" in str(caught.value.hint)
    assert password(asked(messages.AUTH_CLEARTEXT, channel=OPEN, proof=Proof(cleartext=True))[1]) == b"secret\0"


def test_huge_password() -> None:
    who = Credential(user="u", password=Secret("t" * 50_000))
    assert password(asked(messages.AUTH_CLEARTEXT, who=who)[1]) == b"t" * 50_000 + b"\0"


def test_no_password() -> None:
    with pytest.raises(OperatorFault, match="has none for this plugin"):
        asked(messages.AUTH_MD5, b"salt", who=Credential(user="u"))


@pytest.mark.parametrize(("channel", "offer", "proof", "want"), [
    (TLS, BOTH, Proof(), b"SCRAM-SHA-256-PLUS\0"),
    (TLS, BOTH, REQUIRE, b"SCRAM-SHA-256-PLUS\0"),
    (TLS, BOTH, Proof(channel_binding=ChannelBinding.DISABLE), b"SCRAM-SHA-256\0"),
    (TLS, BOTH[19:], Proof(), b"SCRAM-SHA-256\0"),
    (OPEN, BOTH[19:], Proof(), b"SCRAM-SHA-256\0"),
])
def test_mechanism(channel: Channel, offer: bytes, proof: Proof, want: bytes) -> None:
    said = password(asked(messages.AUTH_SASL, offer, channel=channel, proof=proof)[1])
    assert said.startswith(want)
    flag = said[len(want) + 4:].partition(b",")[0]
    assert flag == (b"p=tls-server-end-point" if b"PLUS" in want else
                    b"y" if channel.tls and proof.channel_binding is not ChannelBinding.DISABLE else b"n")


@pytest.mark.parametrize(("code", "rest", "channel", "proof", "problem"), [
    (messages.AUTH_SASL, BOTH, OPEN, Proof(), "over a connection without TLS"),
    (messages.AUTH_SASL, BOTH[19:], TLS, REQUIRE, "did not offer an authentication method that supports channel binding"),
    (messages.AUTH_SASL, BOTH[19:], OPEN, REQUIRE, "channel binding is required"),
    (messages.AUTH_SASL, b"OTHER\0\0", TLS, Proof(), "none of the server's SASL"),
    (messages.AUTH_MD5, b"salt", TLS, REQUIRE, "channel binding required"),
    (messages.AUTH_CLEARTEXT, b"", TLS, REQUIRE, "channel binding required"),
    (messages.AUTH_OK, b"", TLS, REQUIRE, "without channel binding"),
    (messages.AUTH_OK, b"", TLS, Proof(methods=frozenset({"scram-sha-256"})), "did not complete authentication"),
    (messages.AUTH_MD5, b"salt", TLS, Proof(methods=frozenset({"scram-sha-256"})), "server requested md5"),
    (messages.AUTH_CLEARTEXT, b"", TLS, Proof(methods=frozenset({"none"})), "server requested password"),
    (messages.AUTH_MD5, b"sa", TLS, Proof(), "authentication method 5"),
    (messages.AUTH_SASL_FINAL, b"v=", TLS, Proof(), "authentication method 12"),
    (7, b"", TLS, Proof(), "authentication method 7"),
])
def test_not_answered(code: int, rest: bytes, channel: Channel, proof: Proof, problem: str) -> None:
    with pytest.raises(ProxyError, match=problem):
        asked(code, rest, channel=channel, proof=proof)


def test_the_server_must_prove_itself_too() -> None:
    dialogue, sent = asked(messages.AUTH_SASL, BOTH[19:])
    server = ScramServer(make_verifier("secret"))
    challenge = server.first(password(sent)[len(b"SCRAM-SHA-256\0") + 4:])
    next(dialogue)
    dialogue.send((0x52, messages.AUTH_SASL_CONTINUE.to_bytes(4) + challenge))
    next(dialogue)
    with pytest.raises(UpstreamFault, match="did not prove"):
        dialogue.send((0x52, messages.AUTH_OK.to_bytes(4)))


def test_many_rounds_are_computed_elsewhere() -> None:
    dialogue, sent = asked(messages.AUTH_SASL, BOTH[19:])
    server = ScramServer(make_verifier("secret", 30_000))
    challenge = server.first(password(sent)[len(b"SCRAM-SHA-256\0") + 4:])
    next(dialogue)
    work = dialogue.send((0x52, messages.AUTH_SASL_CONTINUE.to_bytes(4) + challenge))
    assert isinstance(work, Work)
    work.function()
    final = dialogue.send(None)
    assert server.final(password(final))


@pytest.mark.parametrize("tag", [b"S", b"K", b"Z", b"D", b"\xff"])
def test_nothing_counts_before_we_are_in(tag: bytes) -> None:
    dialogue = login(WORD, {}, TLS, Proof())
    next(dialogue)
    next(dialogue)
    with pytest.raises(UpstreamFault, match="before it had let us in"):
        dialogue.send((tag[0], b"x\0y\0"))


def test_the_servers_own_words() -> None:
    dialogue = login(WORD, {}, TLS, Proof())
    next(dialogue)
    next(dialogue)
    with pytest.raises(UpstreamRefused) as caught:
        dialogue.send((0x45, b"SFATAL\0C28P01\0Mno\0\0"))
    assert (caught.value.sqlstate, caught.value.message) == ("28P01", "no")
