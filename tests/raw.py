"""A client that writes bytes itself: for what no library would send."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from proxy.wire.messages import message, parse_fields
from proxy.wire.startup import pack


class Raw:
    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection((host, port), timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            assert more, f"closed after {data!r}"
            data += more
        return data

    def read(self) -> tuple[bytes, bytes]:
        head = self.exactly(5)
        return head[:1], self.exactly(int.from_bytes(head[1:]) - 4)

    def until(self, *tags: bytes) -> list[tuple[bytes, bytes]]:
        """Messages up to and with one of `tags`."""
        found = [self.read()]
        while found[-1][0] not in tags:
            found.append(self.read())
        return found

    def closed(self) -> bool:
        try:
            return not self.sock.recv(1)
        except ConnectionResetError:
            return True

    def hello(self, minor: int = 0, **parameters: str) -> None:
        packet = pack(parameters)
        self.send(packet[:4] + struct.pack("!i", 3 << 16 | minor) + packet[8:])

    def password(self, word: str) -> None:
        self.send(message(b"p", word.encode() + b"\0"))

    def refusal(self) -> dict[str, str]:
        """The error that ends the connection."""
        fields = parse_fields(self.until(b"E")[-1][1])
        assert self.closed()
        return fields
