"""A relay between us and a server that remembers what passed, and can cut, freeze and change it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Tap:
    """`sent` is all that went to the server, `heard` all that came back, of all connections in order."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.sent, self.heard = bytearray(), bytearray()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        self.open = threading.Event()          # cleared: nothing passes towards the proxy
        self.open.set()
        self.freeze_new = threading.Event()    # set: a new connection is taken, and nothing of it passes
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self.pairs.append((client, server))
                if self.freeze_new.is_set():
                    continue
                for source, sink, seen in ((client, server, self.sent), (server, client, self.heard)):
                    threading.Thread(target=self._pump, args=(source, sink, seen), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if seen is self.heard:
                    self.open.wait()
                seen += data
                sink.sendall(data)
            if seen is self.heard:
                self.open.wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Every connection ends, as by a fault of the network."""
        for pair in self.pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.open.set()
        self.listening.close()
        self.cut()
        for pair in self.pairs:
            for sock in pair:
                sock.close()


@contextlib.contextmanager
def tapped(port: int) -> Iterator[Tap]:
    tap = Tap(port)
    try:
        yield tap
    finally:
        tap.close()
