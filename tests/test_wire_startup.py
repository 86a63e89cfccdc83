"""Startup packets of strangers: either a record or a ClientFault, nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ClientFault
from proxy.wire import startup
from proxy.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, Startup, length_of, pack, pack_cancel, parse

NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)


@given(st.dictionaries(NAMES.filter(lambda n: not n.startswith("_pq_.")), NAMES, max_size=8))
def test_what_is_packed_is_parsed(parameters: dict[str, str]) -> None:
    asked = parameters | {"user": "u"}
    assert parse(pack(asked)) == Startup(0, asked)


@given(st.binary(max_size=200))
def test_anything_else_is_a_client_fault(data: bytes) -> None:
    try:
        parse(data)
    except ClientFault:
        return


@given(st.integers(-(2**31), 2**31 - 1))
def test_lengths(length: int) -> None:
    head = struct.pack("!i", length)
    if 8 <= length <= startup.MAX_STARTUP:
        assert length_of(head) == length
    else:
        with pytest.raises(ClientFault, match="invalid length of startup packet"):
            length_of(head)


def test_requests() -> None:
    assert parse(startup.SSL_REQUEST) == SSLRequest()
    assert parse(struct.pack("!ii", 8, startup.GSSENC_CODE)) == GSSENCRequest()
    assert parse(pack_cancel(3_000_000_000, b"abcd")) == CancelRequest(3_000_000_000, b"abcd")


@pytest.mark.parametrize(("packet", "sqlstate", "text"), [
    (struct.pack("!ii", 8, 2 << 16), "0A000", "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"),
    (struct.pack("!ii", 8, 9 << 16), "0A000", "unsupported frontend protocol 9.0"),
    (struct.pack("!ii", 9, 3 << 16) + b"\0", "28000", "no PostgreSQL user name"),
    (struct.pack("!ii", 14, 3 << 16) + b"user\0u", "08P01", "expected terminator as last byte"),
    (struct.pack("!ii", 17, 3 << 16) + b"user\0u\0\0x\0", "08P01", "expected terminator as last byte"),
])
def test_refusals(packet: bytes, sqlstate: str, text: str) -> None:
    with pytest.raises(ClientFault, match=text) as caught:
        parse(packet)
    assert caught.value.sqlstate == sqlstate


def test_database_defaults_to_user() -> None:
    packet = parse(pack({"user": "u"}))
    assert isinstance(packet, Startup)
    assert packet.database == "u"
