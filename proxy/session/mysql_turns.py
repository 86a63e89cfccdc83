"""Whose turn it is: the packets of a MySQL login are numbered through, from both sides."""

from __future__ import annotations

from proxy.errors import ProxyError
from proxy.session.effects import Ask, Dialogue, Send
from proxy.wire.mysql import packets


class Turns:
    """`next` is the number of the next packet, whoever sends it."""

    def __init__(self, fault: type[ProxyError]) -> None:
        self.next = 0
        self.fault = fault

    def read(self) -> Dialogue[bytes]:
        """The peer's next packet.  Raises `fault` for one out of turn."""
        sequence, payload = yield Ask.PACKET
        if sequence != self.next & 0xFF:
            raise self.fault("Got packets out of order", hint="Does the peer speak MySQL's protocol?")
        self.next += 1
        return bytes(payload)

    def say(self, payload: bytes, *, more: bool = False) -> Dialogue[None]:
        yield Send(packets(payload, self.next), more)
        self.next += 1
