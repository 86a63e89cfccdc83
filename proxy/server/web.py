"""/metrics, /healthz, /readyz and the status page, from a process of their own.

The daemon holds one end of a socket pair and answers each byte with a snapshot (4 bytes of length, JSON); everything else,
HTTP, formatting, a slow scraper, happens in the child, so a scrape never delays a query.  The child ends with the parent:
its end of the pair is closed then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from proxy.errors import OperatorFault
from proxy.net.tasks import keep

log = logging.getLogger(__name__)
ANSWER = 2.0                # seconds the worker may take before it counts as sick


class Web:
    """The parent's side."""

    def __init__(self, provider: Callable[[], dict[str, Any]]) -> None:
        self.provider = provider
        self.child: asyncio.subprocess.Process | None = None
        self.pair: socket.socket | None = None
        self.listening: socket.socket | None = None
        self.stopping = False

    async def start(self, address: str) -> str:
        """Bind here, so that the real address is known and mistakes are told at once.  Returns it."""
        host, _, port = address.rpartition(":")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.listening = socket.create_server((host.strip("[]"), int(port)), family=family)
        except (OSError, ValueError) as error:
            raise OperatorFault(f"cannot listen on {address}: {error}", hint="See switchboard.metrics.listen.") from None
        await self._spawn()
        name = self.listening.getsockname()
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    async def _spawn(self) -> None:
        assert self.listening is not None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.pair = ours
        self.child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.server.web", str(self.listening.fileno()), str(theirs.fileno()),
            pass_fds=(self.listening.fileno(), theirs.fileno()), stdin=asyncio.subprocess.DEVNULL)
        theirs.close()
        keep(self._answer(ours), name="mailbox")

    async def _answer(self, pair: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while await loop.sock_recv(pair, 1):
                data = json.dumps(self.provider()).encode()
                await loop.sock_sendall(pair, len(data).to_bytes(4) + data)
        except OSError:
            pass                              # the child went away
        except Exception:                     # a page that fails must not end the daemon
            log.exception("no snapshot could be made")
        pair.close()                          # the child answers 503, sees the end and goes; another one follows
        if self.child is not None:
            await self.child.wait()
        if not self.stopping:
            await asyncio.sleep(1)            # it died: not in a hurry, lest it dies in circles
            await self._spawn()

    async def stop(self) -> None:
        self.stopping = True
        if self.child is not None and self.child.returncode is None:
            self.child.terminate()
            await self.child.wait()
        if self.listening is not None:
            self.listening.close()


class Mailbox:
    """The child's side: one question at a time."""

    def __init__(self, pair: socket.socket) -> None:
        self.pair = pair
        self.lock = asyncio.Lock()

    async def snapshot(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        async with self.lock, asyncio.timeout(ANSWER):
            await loop.sock_sendall(self.pair, b"?")
            size = int.from_bytes(await self._exactly(4))
            return json.loads(await self._exactly(size))  # type: ignore[no-any-return]

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(self.pair, size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


def application(mailbox: Mailbox) -> Any:
    from aiohttp import web

    from proxy.server.metrics import render
    from proxy.server.page import Rates, status_page

    rates = Rates()

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = render(await mailbox.snapshot(), request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status(_: web.Request) -> web.Response:
        return web.json_response(await mailbox.snapshot())

    async def health(_: web.Request) -> web.Response:
        await mailbox.snapshot()
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        process = (await mailbox.snapshot())["process"]
        good = process["ready"] and not process["draining"] and process["embedded"] is not False
        return web.Response(text="ready\n" if good else "not ready\n", status=200 if good else 503)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=status_page(await mailbox.snapshot(), rates), content_type="text/html")

    @web.middleware
    async def sick(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            return await handler(request)  # type: ignore[no-any-return]
        except TimeoutError:
            # The late answer would be taken for the next one: say no, and let a new process begin anew.
            asyncio.get_running_loop().call_later(0.1, os._exit, 1)
            return web.Response(text="the daemon does not answer in time\n", status=503)
        except (EOFError, OSError):
            return web.Response(text="the daemon does not answer\n", status=503)

    app = web.Application(middlewares=[sick])
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", health), web.get("/readyz", ready),
                    web.get("/status.json", status), web.get("/", page)])
    return app


def main() -> None:
    from aiohttp import web

    listening, pair = socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))
    listening.setblocking(False)
    pair.setblocking(False)

    async def serve() -> None:
        runner = web.AppRunner(application(Mailbox(pair)), access_log=None)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        gone = asyncio.Event()

        def look() -> None:
            # Readable without a question under way is only the end of the parent.
            if pair.recv(1, socket.MSG_PEEK) == b"":
                gone.set()

        while not gone.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await gone.wait()
            with contextlib.suppress(BlockingIOError):
                look()
        await runner.cleanup()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
