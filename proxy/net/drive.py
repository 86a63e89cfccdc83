"""Runs the dialogues of `session/` on a Stream."""

from __future__ import annotations

import ssl
from typing import TypeVar

from proxy.errors import ClientFault
from proxy.net.stream import Stream
from proxy.session.effects import Ask, Dialogue, Send
from proxy.wire import startup

T = TypeVar("T")


async def drive(dialogue: Dialogue[T], stream: Stream, *, context: ssl.SSLContext | None = None,
                server_side: bool, server_name: str | None = None) -> T:
    """Do what the dialogue asks until it returns.  `context` is what Ask.TLS uses."""
    answer: object = None
    try:
        while True:
            wish = dialogue.send(answer)
            answer = None
            match wish:
                case Send(data):
                    await stream.write(data)
                case Ask.MESSAGE:
                    answer = await stream.read_message()
                case Ask.STARTUP:
                    answer = await _startup(stream, context if server_side else None)
                case Ask.BYTE:
                    answer = await stream.read_exactly(1)
                case Ask.TLS:
                    assert context is not None
                    await stream.start_tls(context, server_side=server_side, server_name=server_name)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        dialogue.close()


async def _startup(stream: Stream, context: ssl.SSLContext | None) -> startup.Packet:
    head = await stream.read_exactly(1)
    if head == b"\x16":
        # A TLS ClientHello (direct TLS) has been begun; the byte is gone, so it cannot be served from here.
        raise ClientFault("direct TLS is not supported", hint="Connect with sslnegotiation=postgres.")
    head += await stream.read_exactly(3)
    size = startup.length_of(head)
    packet = startup.parse(head + await stream.read_exactly(size - 4))
    if isinstance(packet, (startup.SSLRequest, startup.GSSENCRequest)):
        stream.expect_silence("SSL" if isinstance(packet, startup.SSLRequest) else "GSSAPI encryption")
    return packet
