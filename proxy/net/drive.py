"""Runs the dialogues of `session/` on a Stream."""

from __future__ import annotations

import asyncio
import ssl
from typing import TypeVar

from proxy.net.stream import Stream
from proxy.session.effects import Ask, Dialogue, Send, Work
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
                case Send(data, more=True):
                    stream.hold(data)
                case Send(data):
                    await stream.write(data)
                case Ask.MESSAGE:
                    answer = await stream.read_message()
                case Ask.STARTUP:
                    answer = await _startup(stream)
                case Ask.BYTE:
                    answer = await stream.read_exactly(1)
                case Work(function):
                    answer = await asyncio.to_thread(function)
                case Ask.TLS:
                    assert context is not None
                    await stream.start_tls(context, server_side=server_side, server_name=server_name)
                case Ask.ALPN:
                    answer = stream.alpn
                case Ask.PACKET:
                    answer = await stream.read_packet()
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        dialogue.close()


async def _startup(stream: Stream) -> startup.Packet:
    head = b"" if stream.encrypted else await stream.peek(startup.MAX_STARTUP)
    if head and head[0] == startup.TLS_HANDSHAKE:
        return startup.DirectTls()
    if len(head) >= 4 and len(head) >= startup.length_of(head):
        # The usual case: it came in one piece, and this takes it without another look.
        data = await stream.recv(startup.length_of(head))
    else:
        data = await stream.read_exactly(4)
        data += await stream.read_exactly(startup.length_of(data) - 4)
    packet = startup.parse(data)
    if isinstance(packet, (startup.SSLRequest, startup.GSSENCRequest)) and not stream.encrypted:
        stream.expect_silence("SSL" if isinstance(packet, startup.SSLRequest) else "GSSAPI encryption")
    return packet
