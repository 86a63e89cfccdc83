"""The PROXY protocol: the table, any pieces, and clients behind a balancer as logs, rules and limits see them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ClientFault
from proxy.net.introduce import introduce
from proxy.net.stream import Stream
from proxy.wire.messages import query
from proxy.wire.proxy_header import SIGNATURE, V1_LONGEST, V2_LONGEST, length_v2, parse_v1, parse_v2
from tests import certificates
from tests.raw import Raw
from tests.servers import daemon, until


def v2(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if length is None else length) + rest


IPV4 = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + struct.pack("!HH", 51234, 5432)
IPV6 = bytes.fromhex("20010db8000000000000000000000007") + bytes(16) + struct.pack("!HH", 51234, 5432)
GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 5432\r\n", "192.0.2.7:51234"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 5432\r\n", "[2001:db8::7]:51234"),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 0 65535\r\n", "192.0.2.7:0"),
    (b"PROXY UNKNOWN\r\n", "None"),
    (b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n", "None"),
    (v2(0x21, 0x11, IPV4), "192.0.2.7:51234"),
    (v2(0x21, 0x11, IPV4 + b"\x04\x00\x02xx"), "192.0.2.7:51234"),
    (v2(0x21, 0x21, IPV6), "[2001:db8::7]:51234"),
    (v2(0x21, 0x31, bytes(216)), "None"),
    (v2(0x21, 0x00, b""), "None"),
    (v2(0x20, 0x00, b""), "None"),
    (v2(0x20, 0x11, IPV4), "None"),
]


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_headers(header: bytes, source: str) -> None:
    assert str(parse_v1(header) if header.startswith(b"PROXY") else parse_v2(header)) == source


@pytest.mark.parametrize("header", [
    b"PROXY \r\n", b"PROXY TCP4\r\n", b"PROXY TCP4 192.0.2.7 198.51.100.1 51234\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 5432 \r\n",
    b"PROXY TCP4  192.0.2.7 198.51.100.1 51234 5432\r\n", b"PROXY TCP4 192.0.2.007 198.51.100.1 51234 5432\r\n",
    b"PROXY TCP4 2001:db8::7 198.51.100.1 51234 5432\r\n", b"PROXY TCP6 192.0.2.7 198.51.100.1 51234 5432\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 5432\r\n", b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 5432\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 01 5432\r\n", b"PROXY TCP4 192.0.2.7 198.51.100.1 1 \xb2\r\n",
    b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
    b"PROXY UNKNOWN\n", b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n", b"proxy unknown\r\n", b""])
def test_what_is_no_line(header: bytes) -> None:
    with pytest.raises(ClientFault):
        parse_v1(header)


@pytest.mark.parametrize("header", [
    v2(0x11, 0x11, IPV4), v2(0x22, 0x11, IPV4), v2(0x21, 0x12, IPV4), v2(0x21, 0x11, IPV4[:-1]), v2(0x21, 0x21, IPV4),
    v2(0x21, 0x41, IPV4), v2(0x21, 0x11, IPV4, length=11), v2(0x21, 0x11, IPV4, length=13), b"", SIGNATURE])
def test_what_is_no_binary_header(header: bytes) -> None:
    with pytest.raises(ClientFault):
        parse_v2(header)


def test_a_header_too_long_is_refused_by_its_head() -> None:
    with pytest.raises(ClientFault, match="too long"):
        length_v2(v2(0x21, 0x11, b"", length=V2_LONGEST + 1))


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_anything_else_is_a_client_fault(data: bytes, begin: bytes) -> None:
    for parse in (parse_v1, parse_v2):
        try:
            parse(begin + data)
        except ClientFault:
            continue


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize(("header", "source"), GOOD)
async def test_any_pieces_and_not_a_byte_more(header: bytes, source: str, step: int) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = Stream(ours)
    reading = asyncio.ensure_future(introduce(stream))
    data = header + b"behind"
    for at in range(0, len(data), step):
        theirs.send(data[at:at + step])
        await asyncio.sleep(0)
    assert str(await reading) == source
    assert ours.recv(100) == b"behind"
    stream.close()
    theirs.close()


@pytest.mark.parametrize("data", [b"\0\0\0\x08\x04\xd2\x16\x2fmore", b"PROXY " + b"x" * V1_LONGEST, b"PROXY UNKNOWN\n"])
async def test_a_trusted_peer_must_introduce_its_client(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = Stream(ours)
    theirs.send(data)
    with pytest.raises(ClientFault, match=r"PROXY header"):
        await introduce(stream)
    stream.close()
    theirs.close()


@pytest.mark.parametrize(("header", "seen"), [(GOOD[0][0], "192.0.2.7:51234"), (GOOD[6][0], "192.0.2.7:51234"),
                                              (GOOD[7][0], "[2001:db8::7]:51234")])
def test_the_client_behind_a_balancer_is_seen(base: dict[str, Any], tmp_path: Path, header: bytes, seen: str) -> None:
    rules = [{"address": ["192.0.2.0/24", "2001:db8::/32"], "users": "backstage", "method": "trust"},
             {"address": ["192.0.2.0/24", "2001:db8::/32"], "users": "other", "method": "reject"}]
    _, pem = certificates.make(tmp_path)
    with daemon(tmp_path, base, auth={"rules": rules}, proxy_protocol={"from": ["127.0.0.0/8"]}, tls={"certificate": str(pem)},
                max_clients_per_address=1) as running:
        with Raw(running.port) as raw:
            raw.send(header)
            raw.hello(user="backstage", database="catalog")
            raw.until(b"Z")
            raw.send(query("select 1"))
            assert b"D" in dict(raw.until(b"Z"))
            running.logged(rf'msg="client let in" \S+ address="?{seen.replace("[", ".").replace("]", ".")}"?')
            with Raw(running.port) as second:
                second.send(header)
                second.hello(user="backstage", database="catalog")
                assert second.refusal()["M"] == "too many connections from this address"
            with Raw(running.port) as other:
                other.send(b"PROXY TCP4 192.0.2.99 192.0.2.1 1 2\r\n")
                other.hello(user="other", database="catalog")
                assert 'rejects connection for host "192.0.2.99"' in other.refusal()["M"]
        until(lambda: running.metric("switchboard_clients") == 0, "everybody to leave")
        with Raw(running.port) as raw:        # direct TLS behind the header
            raw.send(header)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["postgresql"])
            raw.sock = context.wrap_socket(raw.sock)
            raw.hello(user="backstage", database="catalog")
            raw.until(b"Z")
        with Raw(running.port) as raw:
            raw.hello(user="backstage", database="catalog")
            assert raw.refusal()["M"] == "expected a PROXY header"


def test_a_health_check_leaves_nothing_in_the_log(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"method": "trust"}, proxy_protocol={"from": "127.0.0.1"}) as running:
        for header in (b"", GOOD[3][0], GOOD[10][0]):
            with Raw(running.port) as raw:
                raw.send(header)
        with Raw(running.port) as raw:
            raw.send(GOOD[0][0])
            raw.hello(user="backstage", database="catalog")
            raw.until(b"Z")
            assert "client left" not in running.log
            assert "client refused" not in running.log


def test_a_header_of_who_is_not_trusted_is_no_startup_packet(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, proxy_protocol={"from": "10.0.0.0/8"}) as running:
        running.connect("catalog").close()
        for header, _ in GOOD:
            with Raw(running.port) as raw:
                raw.send(header)
                assert raw.closed()
                running.logged("invalid length of startup packet")
