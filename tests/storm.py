"""A bad network as an object: a relay that delays, halves what it passes, freezes, and cuts at any byte.

It lives in the loop of the test.  While it does not rage it is a plain relay; from then on each new connection gets a fate of
its own, drawn from one seed: after so many bytes, in either direction, it ends by a reset, by an orderly end, in one
direction only, or it stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator

LINGER = struct.pack("ii", 1, 0)           # close with a reset
CHUNK = 65_536
Ends = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class Storm:
    """`lengths` are the shortest and the longest life of a connection, in bytes as powers of two, both directions together.
    `frozen` is how many seconds a connection stands still before it is cut; None: until the storm is over."""

    def __init__(self, port: int, seed: int, lengths: tuple[float, float], frozen: float | None) -> None:
        self.target = port
        self.chance = random.Random(seed)
        self.lengths = lengths
        self.frozen = frozen
        self.raging = False
        self.fates: Counter[str] = Counter()
        self.calm = asyncio.Event()
        self.pairs: set[Ends] = set()
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, thither = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, thither)
        self.pairs.add(ends)
        passing = _Passing(self, ends)
        try:
            await asyncio.gather(passing.pump(reader, thither), passing.pump(there, writer))
        finally:
            self.pairs.discard(ends)
            for end in ends:
                end.close()

    def cut(self, ends: Ends, *, reset: bool) -> None:
        for end in ends:
            if reset and not end.is_closing():
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                end.transport.abort()
            else:
                end.close()

    def over(self) -> None:
        """No more faults; what stands still is cut."""
        self.raging = False
        self.calm.set()

    @property
    def cuts(self) -> int:
        return sum(self.fates.values())


class _Passing:
    """One connection through the storm."""

    def __init__(self, storm: Storm, ends: Ends) -> None:
        self.storm, self.ends = storm, ends
        self.left = int(2 ** storm.chance.uniform(*storm.lengths))      # bytes until its fate, once the storm rages
        self.over = False

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        storm, chance = self.storm, self.storm.chance
        with contextlib.suppress(OSError):
            while not self.over and (data := await source.read(CHUNK)):
                if not storm.raging:
                    sink.write(data)
                    await sink.drain()
                    continue
                pieces = [data]
                if len(data) > 1 and chance.random() < 0.3:
                    at = chance.randrange(1, len(data))
                    pieces = [data[:at], data[at:]]
                for piece in pieces:
                    fatal = len(piece) >= self.left
                    sink.write(piece[:self.left] if fatal else piece)
                    self.left -= len(piece)
                    if fatal:
                        await self._end(sink)
                        return
                    await sink.drain()
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.random() / 200)      # a slow road
        if not self.over:
            with contextlib.suppress(OSError):
                sink.write_eof()

    async def _end(self, sink: asyncio.StreamWriter) -> None:
        storm = self.storm
        self.over = True
        fate = storm.chance.choices(("reset", "end", "half", "frozen"), (20, 20, 8, 1))[0]
        storm.fates[fate] += 1
        with contextlib.suppress(OSError):
            if fate == "half":
                sink.write_eof()               # the other direction goes on until its next bytes
                return
            if fate == "frozen":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(storm.frozen):
                        await storm.calm.wait()
            elif fate == "end":
                await sink.drain()
        storm.cut(self.ends, reset=fate == "reset")


@contextlib.asynccontextmanager
async def storm(port: int, seed: int, lengths: tuple[float, float], frozen: float | None) -> AsyncIterator[Storm]:
    """A relay to 127.0.0.1:`port`, calm as yet."""
    found = Storm(port, seed, lengths, frozen)
    server = await asyncio.start_server(found._serve, "127.0.0.1", 0)
    found.port = int(server.sockets[0].getsockname()[1])
    try:
        yield found
    finally:
        found.over()
        server.close()
        for ends in list(found.pairs):
            found.cut(ends, reset=True)
        while found.pairs:
            await asyncio.sleep(0)
