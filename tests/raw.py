"""A client that writes bytes itself: for what no library would send."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from proxy.wire.messages import message, parse_fields, query
from proxy.wire.startup import pack

SYNC, FLUSH, COPY_DONE, TERMINATE = map(message, (b"S", b"H", b"c", b"X"))


def parse(text: str, name: str = "") -> bytes:
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(name: str = "", *values: str) -> bytes:
    """To the unnamed portal; parameters and results as text."""
    packed = b"".join(struct.pack("!i", len(value.encode())) + value.encode() for value in values)
    return message(b"B", b"\0" + name.encode() + b"\0" + struct.pack("!hh", 0, len(values)) + packed + b"\0\0")


def execute(rows: int = 0) -> bytes:
    return message(b"E", b"\0" + struct.pack("!i", rows))


def close(name: str) -> bytes:
    return message(b"C", b"S" + name.encode() + b"\0")


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


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

    def enter(self, database: str = "catalog", user: str = "backstage", **parameters: str) -> list[tuple[bytes, bytes]]:
        """Log in where everybody is trusted; all that comes up to the first ReadyForQuery."""
        self.hello(user=user, database=database, **parameters)
        return self.until(b"Z")

    def ask(self, text: str) -> list[tuple[bytes, bytes]]:
        self.send(query(text))
        return self.until(b"Z")

    def shown(self, text: str) -> str:
        """The one value of the one row."""
        told = dict(self.ask(text))
        assert b"D" in told, told
        return told[b"D"][6:].decode()

    def password(self, word: str) -> None:
        self.send(message(b"p", word.encode() + b"\0"))

    def refusal(self) -> dict[str, str]:
        """The error that ends the connection."""
        fields = parse_fields(self.until(b"E")[-1][1])
        assert self.closed()
        return fields
