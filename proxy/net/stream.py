"""A raw non-blocking socket, read exactly: the form a connection has until the relay takes it.

Nothing is ever read past what was asked for.  So there is no buffer to hand over when TLS starts or when the relay
takes the socket, and plaintext slipped in behind an SSLRequest is still in the kernel, where we look for it
(CVE-2021-3935).  Under TLS the socket is a non-blocking SSLSocket.

The loop is told of the socket when it must be waited for, once: adding and removing a reader costs six system calls,
and a login seldom has to wait.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxy.errors import ClientFault, ProxyError
from proxy.net.ends import left

MAX_MESSAGE = 65_536        # tokens and Kerberos tickets in password messages: PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH
MAX_GATEWAY_MESSAGE = 1 << 20
MAX_FILE_MESSAGE = 16 << 20  # of a client of a SQLite file
LOOK = 1.0                  # seconds between two looks at who has sent something and waits
T = TypeVar("T")


class Stream:
    def __init__(self, sock: socket.socket, *, fault: type[ProxyError] = ClientFault) -> None:
        self.sock = sock
        self.fault = fault
        self.loop = asyncio.get_running_loop()
        self.limit = MAX_MESSAGE
        self._awaited: Callable[[], object] | None = None      # what the next event is for
        self._held = b""
        self._watched = False
        self.heard = False                    # has the peer said anything?

    @property
    def encrypted(self) -> bool:
        return isinstance(self.sock, ssl.SSLSocket)

    @property
    def alpn(self) -> str | None:
        return self.sock.selected_alpn_protocol() if isinstance(self.sock, ssl.SSLSocket) else None

    async def readable(self) -> None:
        """Wait until there is something to read, or the end."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._watch(lambda: _wake(future))
        try:
            await future
        finally:
            self._awaited = None

    def _watch(self, awaited: Callable[[], object]) -> None:
        self._awaited = awaited
        if not self._watched:
            fd = self.sock.fileno()
            if fd < 0:
                raise self.fault("connection closed")
            self.loop.add_reader(fd, self._on_readable)
            self._watched = True

    def _on_readable(self) -> None:
        if self._awaited is None:
            self.unwatch()                    # what nobody reads yet would raise its event again and again
        else:
            self._awaited()

    def unwatch(self) -> None:
        """The loop forgets the socket: before it is closed, or given to somebody who may close it."""
        if self._watched:
            self._watched = False
            self.loop.remove_reader(self.sock.fileno())

    async def _writable(self) -> None:
        future: asyncio.Future[None] = self.loop.create_future()
        fd = self.sock.fileno()
        if fd < 0:
            raise self.fault("connection closed")
        self.loop.add_writer(fd, _wake, future)
        try:
            await future
        finally:
            self.loop.remove_writer(fd)

    async def recv(self, size: int) -> bytes:
        while True:
            try:
                data = self.sock.recv(size)
                self.heard = True
                return data
            except (BlockingIOError, ssl.SSLWantReadError):
                await self.readable()
            except ssl.SSLWantWriteError:
                await self._writable()

    async def peek(self, size: int) -> bytes:
        """What is there, at least one byte and at most `size`, and it stays there.  Not under TLS.  EOFError at the end."""
        while True:
            try:
                data = self.sock.recv(size, socket.MSG_PEEK)
            except BlockingIOError:
                await self.readable()
                continue
            if not data:
                raise EOFError
            return data

    async def read_exactly(self, size: int) -> bytes:
        """Raises EOFError at a clean end, `fault` in the middle."""
        data = await self.recv(size)
        if not data:
            raise EOFError
        while len(data) < size:
            more = await self.recv(size - len(data))
            if not more:
                raise self.fault("connection ended in the middle of a message")
            data += more
        return data

    async def read_message(self) -> tuple[int, bytes]:
        """One typed message: (tag, body)."""
        head = await self.read_exactly(5)
        size = int.from_bytes(head[1:], signed=True) - 4
        if not 0 <= size <= self.limit:
            raise self.fault(f"invalid message length {size + 4}")
        return head[0], (await self.read_exactly(size) if size else b"")

    async def read_packet(self) -> tuple[int, bytes]:
        """One packet of MySQL's: (sequence, payload)."""
        head = await self.read_exactly(4)
        size = int.from_bytes(head[:3], "little")
        if size > self.limit:
            raise self.fault(f"packet of {size} bytes, where {self.limit} are the most")
        return head[3], (await self.read_exactly(size) if size else b"")

    def hold(self, data: bytes) -> None:
        """Goes out in front of the next `write`."""
        self._held += data

    async def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view):]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._writable()
            except ssl.SSLWantReadError:
                await self.readable()

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """`work`'s result; EOFError if the peer goes away first.  Nothing is read."""
        task = asyncio.current_task()
        assert task is not None
        lost = False

        later: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal lost, later
            self.unwatch()                    # bytes mean that it is there: they are for later
            if self._ended():
                lost = True
                task.cancel()
            else:
                later = self.loop.call_later(LOOK, look)

        self._watch(look)
        try:
            return await work
        except asyncio.CancelledError:
            if lost and task.uncancel() <= 0:
                raise EOFError from None
            raise
        finally:
            self._awaited = None
            if later is not None:
                later.cancel()

    def _ended(self) -> bool:
        if left(self.sock.fileno()):
            return True                       # behind bytes that nobody has read, and under TLS too
        if self.encrypted:
            return False                      # only the peer's bytes could tell, and they are not ours to read now
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def buffered(self) -> bool:
        """Has the peer already sent what we have not read?"""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def expect_silence(self, what: str) -> None:
        """Refuse bytes that were slipped in behind a request for encryption (CVE-2021-3935).  On the server's side this is
        asked before the answer is sent: once a client has its `S`, its ClientHello may be here at any moment."""
        if self.buffered():
            raise self.fault(f"received unencrypted data after {what} request",
                             detail="This could be either a client-software bug or evidence of an attempted "
                                    "man-in-the-middle attack.")

    async def start_tls(self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None) -> None:
        if not server_side:
            self.expect_silence("SSL")        # a server waits for our ClientHello: what it says before is not its own
        secure = context.wrap_socket(self.sock, server_side=server_side, server_hostname=server_name,
                                     do_handshake_on_connect=False, suppress_ragged_eofs=True)
        self.sock = secure
        while True:
            try:
                secure.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self.readable()
            except ssl.SSLWantWriteError:
                await self._writable()
            except (ssl.SSLError, OSError) as error:
                reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
                raise self.fault(f"TLS handshake failed: {reason}") from error

    def close(self) -> None:
        self.unwatch()
        if isinstance(self.sock, ssl.SSLSocket):
            try:
                # Our close_notify, without waiting for the peer's: libpq takes a cancel that ends without for a failure.
                self.sock.unwrap()
            except (OSError, ValueError):
                pass                          # sent, or there is nobody to send it to
        self.sock.close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
