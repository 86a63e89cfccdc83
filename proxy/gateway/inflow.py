"""A client's messages, many from one read: a batch of the extended protocol is one packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.net.stream import Stream

AT_ONCE = 65_536              # bytes of a read


class Inflow:
    """Reads ahead; so nobody else may read from `stream` any more."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.write = stream.write
        self.data, self.at = b"", 0

    async def read_message(self) -> tuple[int, bytes]:
        """One typed message: (tag, body).  Raises EOFError at a clean end, ClientFault in the middle, or for its length."""
        while True:
            rest = len(self.data) - self.at
            if rest >= 5:
                size = int.from_bytes(self.data[self.at + 1:self.at + 5], signed=True) - 4
                if not 0 <= size <= self.stream.limit:
                    raise self.stream.fault(f"invalid message length {size + 4}")
                if rest >= 5 + size:
                    start, self.at = self.at, self.at + 5 + size
                    return self.data[start], self.data[start + 5:self.at]
                if size > AT_ONCE:
                    return await self._long(size)
            more = await self.stream.recv(AT_ONCE)
            if not more:
                if rest:
                    raise self.stream.fault("connection ended in the middle of a message")
                raise EOFError
            self.data, self.at = (self.data[self.at:] + more if rest else more), 0

    async def _long(self, size: int) -> tuple[int, bytes]:
        """One that does not fit: its pieces are put together once."""
        tag, begun = self.data[self.at], self.data[self.at + 5:]
        self.data, self.at = b"", 0
        try:
            return tag, begun + await self.stream.read_exactly(size - len(begun))
        except EOFError:
            raise self.stream.fault("connection ended in the middle of a message") from None
