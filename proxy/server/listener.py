"""Listening sockets of one wire: bound, or handed over by systemd; accepting without starving anybody."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.config.address import split_address
from proxy.errors import OperatorFault, TooManyConnections
from proxy.net.dial import tune
from proxy.net.tasks import keep
from proxy.server.client import Client

if TYPE_CHECKING:
    from proxy.server.worker import Worker

log = logging.getLogger(__name__)
ACCEPTS = 64                # per event, so that a flood of connects does not starve the relays
BACKLOG = 1024
SPARE = 100                 # sockets beyond max_clients that are listened to: one may bring a cancel request
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
Serve = Callable[["Worker", socket.socket, Client], Coroutine[Any, Any, None]]


class Listener:
    """`serve` owns a client that was accepted; `refusal` words the fault for one for whom there is no room."""

    def __init__(self, worker: Worker, serve: Serve, refusal: Callable[[TooManyConnections], bytes], *, key: str = "listen") -> None:
        self.worker, self.serve, self.refusal, self.key = worker, serve, refusal, key
        self.sockets: list[socket.socket] = []
        self._unlink: list[Path] = []

    def bind(self, addresses: Sequence[str], port: int, unix_name: str) -> None:
        """`unix_name`: of the socket in a folder.  Raises OperatorFault."""
        for address in addresses:
            self.sockets += self._bind(address, port, unix_name)

    def listen(self) -> list[str]:
        """Accept from now on.  Returns the real addresses."""
        for sock in self.sockets:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                tune(sock, self.worker.settings.client_tcp)       # once, instead of for each client
            self.worker.loop.add_reader(sock.fileno(), self._accept, sock)
        return self.addresses

    @property
    def addresses(self) -> list[str]:
        return [_shown(sock) for sock in self.sockets if sock.fileno() >= 0]

    def deaf(self) -> None:
        """No more clients."""
        for sock in self.sockets:
            if sock.fileno() >= 0:
                self.worker.loop.remove_reader(sock.fileno())
                sock.close()

    def close(self) -> None:
        self.deaf()
        for path in self._unlink:
            path.unlink(missing_ok=True)

    def _bind(self, address: str, port: int, unix_name: str) -> list[socket.socket]:
        if address.startswith("/"):
            return [self._bind_unix(Path(address), unix_name)]
        host, port = split_address(address, port)
        bound = []
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, _, _, place in dict.fromkeys(found):
                sock = socket.socket(family, kind)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(place)
                sock.listen(BACKLOG)
                bound.append(sock)
        except OSError as fault:
            raise OperatorFault(f"cannot listen on {address}: {fault.strerror or fault}",
                                hint=f"Is another Switchboard or PgBouncer running? See switchboard.{self.key}.") from None
        return bound

    def _bind_unix(self, folder: Path, name: str) -> socket.socket:
        path = folder / name if folder.is_dir() else folder
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
                if sock.connect_ex(str(path)) == 0:
                    raise OSError(errno.EADDRINUSE, "another process listens there")
                path.unlink()                 # left by a crash: nobody answers
                sock.close()
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(str(path))
            path.chmod(int(self.worker.settings.unix_socket_mode, 8))
            sock.listen(BACKLOG)
        except OSError as fault:
            sock.close()
            raise OperatorFault(f"cannot listen on {path}: {fault.strerror or fault}") from None
        self._unlink.append(path)
        return sock

    def _accept(self, listening: socket.socket) -> None:
        worker = self.worker
        for _ in range(ACCEPTS):
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as fault:
                if fault.errno not in OUT_OF_FILES:
                    raise
                # Nothing can be accepted now: look away for a moment instead of spinning.
                log.error("cannot accept a connection", extra={"fields": {"error": fault.strerror}})
                worker.loop.remove_reader(listening.fileno())
                worker.loop.call_later(0.5, self._accept_again, listening)
                return
            sock.setblocking(False)
            worker.served += 1
            if len(worker.clients) >= worker.settings.max_clients + SPARE:
                self._turn_away(sock)
                continue
            client = Client(worker.served, f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix", peer)
            worker.clients.add(client)
            worker.tasks[client] = keep(self.serve(worker, sock, client), name=f"client {worker.served}")

    def _turn_away(self, sock: socket.socket) -> None:
        """Too many to listen even for a cancel request."""
        fault = TooManyConnections("sorry, too many clients already")
        self.worker.refused[fault.sqlstate[:2]] += 1
        self.worker.limited[fault.limit] += 1
        with contextlib.suppress(OSError):
            sock.send(self.refusal(fault))
        sock.close()

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0 and not self.worker.draining:
            self.worker.loop.add_reader(listening.fileno(), self._accept, listening)


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return os.fsdecode(name)
