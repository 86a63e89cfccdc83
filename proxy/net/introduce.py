"""Reads a PROXY header from a socket, and not a byte more: what follows is the client's own first packet, or its TLS."""

from __future__ import annotations

from proxy.errors import ClientFault
from proxy.net.stream import Stream
from proxy.wire.proxy_header import SIGNATURE, V1, V1_LONGEST, V2_HEAD, Source, length_v2, parse_v1, parse_v2


async def introduce(stream: Stream) -> Source | None:
    """Who the peer speaks for; None: for itself.  Raises ClientFault for what is no header: a trusted peer must send one,
    or a client behind it could send its own."""
    head = await stream.read_exactly(len(SIGNATURE))
    if head == SIGNATURE:
        head += await stream.read_exactly(V2_HEAD - len(head))
        length = length_v2(head)
        return parse_v2(head + (await stream.read_exactly(length) if length else b""))
    if not head.startswith(V1):
        raise ClientFault("expected a PROXY header", hint="This peer is in switchboard.proxy_protocol.from.")
    while not head.endswith(b"\n"):
        if len(head) >= V1_LONGEST:
            raise ClientFault("malformed PROXY header")
        there = await stream.peek(V1_LONGEST - len(head))
        head += await stream.recv(there.find(b"\n") + 1 or len(there))
    return parse_v1(head)
