"""Streams on real socket pairs: startup packets in any pieces, peers that leave, one deadline for many."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.errors import ClientFault
from proxy.net.deadline import Deadline
from proxy.net.drive import drive
from proxy.net.stream import Stream
from proxy.session.handshake import greet
from proxy.wire.startup import MAX_STARTUP, SSL_REQUEST, Startup, pack


def pair() -> tuple[Stream, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return Stream(ours), theirs


@pytest.mark.parametrize("step", [1, 3, 4, 7, 8, 4096, 20_000])
async def test_a_startup_packet_of_the_largest_size_in_any_pieces(step: int) -> None:
    ours, theirs = pair()
    asked = {"user": "u", "options": ""}
    asked["options"] = "x" * (MAX_STARTUP - len(pack(asked)))
    packet = pack(asked)
    assert len(packet) == MAX_STARTUP
    greeting = asyncio.ensure_future(drive(greet(tls_offered=False), ours, server_side=True))
    for at in range(0, len(packet), step):
        theirs.send(packet[at:at + step])
        await asyncio.sleep(0)
    assert await greeting == Startup(0, asked)
    with pytest.raises(BlockingIOError):
        ours.sock.recv(1)                     # nothing more than the packet is read, and nothing less
    ours.close()
    theirs.close()


async def test_what_follows_a_startup_packet_stays_in_the_kernel() -> None:
    ours, theirs = pair()
    theirs.send(pack({"user": "u"}) + b"more")
    assert await drive(greet(tls_offered=False), ours, server_side=True) == Startup(0, {"user": "u"})
    assert ours.sock.recv(100) == b"more"
    ours.close()
    theirs.close()


async def test_a_larger_packet_is_refused_by_its_head() -> None:
    ours, theirs = pair()
    theirs.send((MAX_STARTUP + 1).to_bytes(4))
    with pytest.raises(ClientFault, match="invalid length of startup packet"):
        await drive(greet(tls_offered=False), ours, server_side=True)
    ours.close()
    theirs.close()


async def test_plaintext_behind_a_request_for_encryption() -> None:
    ours, theirs = pair()
    theirs.send(SSL_REQUEST + b"\x16")
    with pytest.raises(ClientFault, match="received unencrypted data after SSL request"):
        await drive(greet(tls_offered=True), ours, server_side=True)
    ours.close()
    theirs.close()


async def test_work_ends_when_the_peer_leaves() -> None:
    ours, theirs = pair()
    never = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await never

    work = asyncio.ensure_future(ours.while_connected(wait()))
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(EOFError):
        await work
    assert never.cancelled()
    ours.close()


async def test_work_goes_on_when_the_peer_only_speaks_early() -> None:
    ours, theirs = pair()
    heard = asyncio.Event()
    theirs.send(b"early")
    asyncio.get_running_loop().call_later(0.02, heard.set)
    assert await ours.while_connected(heard.wait())
    assert ours.sock.recv(10) == b"early"
    ours.close()
    theirs.close()


async def test_one_deadline_for_many() -> None:
    deadline = Deadline(0.02)
    ended: list[str] = []

    async def login(name: str, *, late: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        deadline.begin(task)
        try:
            if late:
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if not deadline.passed(task):
                raise
            ended.append(name)
        finally:
            deadline.end(task)

    late = [asyncio.ensure_future(login(f"late {number}", late=True)) for number in range(3)]
    quick = asyncio.ensure_future(login("quick", late=False))
    shut = asyncio.ensure_future(login("shut", late=True))
    await asyncio.sleep(0)
    shut.cancel()
    await asyncio.gather(*late, quick)
    with pytest.raises(asyncio.CancelledError):
        await shut
    assert ended == ["late 0", "late 1", "late 2"]
