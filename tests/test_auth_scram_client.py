"""SCRAM with us as the client: the RFC's own example, PostgreSQL's liberties, and what servers may not do."""

from __future__ import annotations

import base64
import hashlib

import pytest

from proxy.auth.scram import ScramServer, make_verifier
from proxy.auth.scram_client import PLUS, ScramClient, prepared
from proxy.config.target import Secret
from proxy.errors import UpstreamFault

FIRST = (b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def example() -> ScramClient:
    return ScramClient(Secret("pencil"), user=b"user", nonce=b"rOprNGfwEbeRWgbNEkqO")


def test_rfc_7677() -> None:
    client = example()
    assert client.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert client.final(FIRST) == (b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                                   b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client.verify(FINAL)
    assert client.verified


@pytest.mark.parametrize("said", [b"", b"v=", b"e=other-error", FINAL[:-2], b"v=" + base64.b64encode(bytes(32))])
def test_a_server_that_does_not_know_the_password(said: bytes) -> None:
    client = example()
    client.final(FIRST)
    with pytest.raises(UpstreamFault, match="did not prove"):
        client.verify(said)
    assert not client.verified


def test_nothing_is_proved_before_the_exchange() -> None:
    with pytest.raises(UpstreamFault):
        example().verify(b"v=")


@pytest.mark.parametrize("first", [
    b"", b"r=", FIRST.replace(b"rOpr", b"xOpr"), FIRST.replace(b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", b""),
    FIRST.replace(b"i=4096", b"i=0"), FIRST.replace(b"i=4096", b"i=99999999999999"), FIRST.replace(b"i=4096", b"i=999999999"),
    FIRST.replace(b"s=W22", b"s=W2"), FIRST.replace(b"i=4096", b"i=-1"), b"m=x," + FIRST, b"\xff" * 40,
])
def test_malformed(first: bytes) -> None:
    with pytest.raises(UpstreamFault):
        example().final(first)


def test_one_round_is_enough_for_postgresql() -> None:
    assert example().final(FIRST.replace(b"i=4096", b"i=1"))


@pytest.mark.parametrize(("password", "want"), [
    ("plain", b"plain"),
    ("I\u00adX", b"IX"),                     # RFC 4013 section 3: soft hyphen maps to nothing
    ("\u2168", b"IX"),                       # NFKC
    ("a\u00a0b", b"a b"),                    # a space that is not ASCII
    ("\u0007", b"\x07"),                     # prohibited, so taken as it is
    ("\u0627\u0031", "\u0627\u0031".encode()),    # fails the bidirectional check: as it is
    ("\u00ad", "\u00ad".encode()),           # nothing would be left
    ("\u0221", "\u0221".encode()),           # unassigned in Unicode 3.2
])
def test_saslprep(password: str, want: bytes) -> None:
    assert prepared(password) == want


@pytest.mark.parametrize("size", [1, 996, 4096, 40_000])
def test_passwords_of_any_size(size: int) -> None:
    word = "é" + "x" * size
    client, server = ScramClient(Secret(word)), ScramServer(make_verifier(word))
    client.verify(server.final(client.final(server.first(client.first()))))


def test_binding_is_signed() -> None:
    end_point = hashlib.sha256(b"certificate").digest()
    client = ScramClient(Secret("pencil"), end_point=end_point, nonce=b"abc")
    assert client.mechanism == PLUS
    assert client.first().startswith(b"p=tls-server-end-point,,n=,r=")
    bound = client.final(FIRST.replace(b"rOprNGfwEbeRWgbNEkqO", b"abc")).partition(b",")[0]
    assert base64.b64decode(bound[2:]) == b"p=tls-server-end-point,," + end_point


def test_a_server_that_could_have_bound_is_told() -> None:
    assert ScramClient(Secret("x"), could_bind=True).first().startswith(b"y,,")


def test_nothing_shows_the_password() -> None:
    client = example()
    client.final(FIRST)
    assert "pencil" not in repr(vars(client))
