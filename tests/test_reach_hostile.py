"""Servers that die, lie, stall or talk nonsense in each state of a login: one fault, in time, and nothing left open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from proxy.config.settings import Upstream
from proxy.config.target import Credential, Secret, Server, SslMode, Tls
from proxy.errors import ProxyError, UpstreamRefused
from proxy.pool.reach import Reach
from proxy.wire.messages import authentication, backend_key_data, message, parameter_status, ready_for_query

WHO = Credential(user="u", password=Secret("canary"))
OK = authentication(0)
STALL = b"<stall>"
Script = list[bytes]


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[int]:
    """Says the next line of its script each time it hears something; then closes (or stalls)."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            for line in script:
                if line == STALL:
                    await asyncio.Event().wait()
                if line and not await reader.read(65_536):
                    break
                writer.write(line)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


async def fault_of(script: Script, mode: str = "disable", timeout: float = 20.0) -> ProxyError:
    async with server(script) as port:
        with pytest.raises(ProxyError) as caught:
            await Reach().connect(Server(host="127.0.0.1", port=port, tls=Tls(mode=SslMode(mode))), WHO, {"database": "d"},
                                  Upstream(connect_timeout=timeout))
    assert "canary" not in repr(caught.value) + str(caught.value.detail) + str(caught.value.hint)
    return caught.value


def flood(make: Callable[[int], bytes], count: int) -> bytes:
    return b"".join(map(make, range(count)))


@pytest.mark.parametrize(("script", "problem"), [
    ([], "failed: "),                          # an end or a reset, as the network has it
    ([b"R"], "ended in the middle of a message"),
    ([message(b"R", b"\0\0\0")], "malformed authentication request"),
    ([b"R\0\0\0\3"], "invalid message length"),
    ([b"R\xff\xff\xff\xff"], "invalid message length"),
    ([b"R\x7f\xff\xff\xff" + bytes(100)], "invalid message length"),
    ([authentication(99)], "authentication method 99"),
    ([authentication(2)], "authentication method 2"),
    ([authentication(10, b"\0")], "none of the server's SASL"),
    ([authentication(10, b"SCRAM-SHA-256\0\0"), authentication(11, b"r=x,s=eA==,i=4096")], "does not continue ours"),
    ([authentication(10, b"SCRAM-SHA-256\0\0"), authentication(12, b"v=")], "did not prove"),
    ([authentication(10, b"SCRAM-SHA-256\0\0"), OK], "did not prove"),
    ([authentication(10, b"SCRAM-SHA-256\0\0"), authentication(10, b"SCRAM-SHA-256\0\0")], "method 10"),
    ([authentication(11, b"r=x,s=eA==,i=4096")], "method 11"),
    ([authentication(12, b"v=x")], "method 12"),
    ([authentication(5, b"sa")], "method 5"),
    ([ready_for_query()], "before it had let us in"),
    ([OK + OK], "malformed authentication request"),
    ([OK + message(b"K", b"\0\0\0")], "malformed BackendKeyData"),
    ([OK + message(b"S", b"no end")], "malformed ParameterStatus"),
    ([OK + flood(lambda at: parameter_status(f"p{at}", "x" * 100), 2000)], "more than 1000 parameters"),
    ([OK + backend_key_data(1, b"1234")], "closed the connection unexpectedly"),
    ([OK + message(b"D", b"")], "message type 0x44 during login"),
    ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "invalid message length"),
    ([b"\0" * 100], "invalid message length"),
])
async def test_nonsense(script: Script, problem: str) -> None:
    fault = await fault_of(script)
    assert problem in fault.message, fault


@pytest.mark.parametrize(("script", "problem"), [
    ([b"S" + b"R\0\0\0\x08\0\0\0\0"], "received unencrypted data after SSL request"),
    ([b"E\0\0\0\x10SFATAL\0Mhacked\0\0"], "something else than S or N"),
    ([b"H"], "something else than S or N"),
    ([b"S", b"this is no TLS, this is a long text"], "TLS handshake failed"),
    ([b"S"], "closed the connection"),
    ([b"N"], "does not support TLS"),
    ([], "failed: "),
])
async def test_nonsense_where_tls_should_be(script: Script, problem: str) -> None:
    fault = await fault_of(script, "require")
    assert problem in fault.message, fault
    assert "hacked" not in repr(fault)


@pytest.mark.parametrize("script", [
    [STALL], [b"S", STALL], [OK, STALL], [OK[:3], STALL], [flood(lambda _: message(b"N", b"SNOTICE\0Mx\0\0"), 2000), STALL],
    [authentication(10, b"SCRAM-SHA-256\0\0"), STALL]])
async def test_stalling(script: Script) -> None:
    fault = await fault_of(script, "require" if script[0] == b"S" else "disable", timeout=0.3)
    assert "timeout expired" in fault.message


@pytest.mark.parametrize(("body", "sqlstate", "text"), [
    (b"\0", "08006", "unknown error"), (b"", "08006", "unknown error"), (b"Mno state\0\0", "08006", "no state"),
    (b"C28P01\0Mno end", "28P01", "no end"), (b"\xff\xff\0\0", "08006", "unknown error"), (b"C\0M\xff\0\0", "08006", "\ufffd")])
async def test_errors_of_any_shape(body: bytes, sqlstate: str, text: str) -> None:
    fault = await fault_of([message(b"E", body)])
    assert isinstance(fault, UpstreamRefused)
    assert (fault.sqlstate, fault.message) == (sqlstate, text)


async def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for script in ([], [b"R"], [OK], [b"S", b"x" * 50], [message(b"E", b"C28P01\0\0")]):
        for mode in ("disable", "allow", "prefer", "require"):
            await fault_of(list(script), mode, timeout=0.3)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before
