"""Readers: who is called when a socket can be read, by the loop or by the compiled twin inside one reader of the loop."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from proxy.hot import hot
from proxy.net.readers import readers

needs_twin = pytest.mark.skipif(not hasattr(hot, "Readers"), reason="no compiled twin, or no epoll")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def pairs() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    made: list[socket.socket] = []

    def pair() -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        made.extend(ends)
        return ends

    yield pair
    for each in made:
        each.close()


def test_a_reader_is_called_until_it_is_taken_away(loop: Any, pairs: Any) -> None:
    near, far = pairs()
    heard: list[bytes] = []

    def listen() -> None:
        heard.append(near.recv(1))             # not all: who has left something is called again
        if len(heard) == 3:
            readers(loop).remove(near.fileno())
            loop.call_soon(loop.stop)

    readers(loop).add(near.fileno(), listen)
    far.send(b"abcde")
    loop.run_forever()
    assert heard == [b"a", b"b", b"c"]
    assert not readers(loop).remove(near.fileno())


def test_who_was_taken_away_in_the_same_round_is_not_called(loop: Any, pairs: Any) -> None:
    both = [pairs(), pairs()]
    called: list[int] = []

    def first_come(which: int) -> None:
        called.append(which)
        for near, _ in both:
            readers(loop).remove(near.fileno())
        loop.call_soon(loop.stop)

    for which, (near, far) in enumerate(both):
        readers(loop).add(near.fileno(), lambda which=which: first_come(which))
        far.send(b"x")
    loop.run_forever()
    assert len(called) == 1


def test_a_reader_that_raises_harms_nobody_else(loop: Any, pairs: Any) -> None:
    (bad, to_bad), (good, to_good) = pairs(), pairs()
    told: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context.get("exception")))

    def fail() -> None:
        bad.recv(1)
        raise ValueError("nonsense")

    def succeed() -> None:
        good.recv(1)
        if told:
            loop.stop()
        else:
            to_good.send(b"x")

    readers(loop).add(bad.fileno(), fail)
    readers(loop).add(good.fileno(), succeed)
    to_bad.send(b"x")
    to_good.send(b"x")
    loop.run_forever()
    assert [str(fault) for fault in told] == ["nonsense"]


def test_a_socket_may_be_closed_and_its_number_come_back(loop: Any, pairs: Any) -> None:
    near, _ = pairs()
    number = near.detach()
    readers(loop).add(number, lambda: None)
    os.close(number)                          # without a word
    readers(loop).remove(number)
    again, far = pairs()
    assert number in (again.fileno(), far.fileno())           # the lowest that is free
    if far.fileno() == number:
        again, far = far, again
    readers(loop).add(number, loop.stop)
    far.send(b"x")
    loop.run_forever()
    readers(loop).remove(number)


@needs_twin
def test_more_than_a_round_holds_are_all_served(loop: Any, pairs: Any) -> None:
    waiting = set()
    for _ in range(150):
        near, far = pairs()
        waiting.add(near)

        def listen(near: socket.socket = near) -> None:
            near.recv(1)
            waiting.discard(near)
            if not waiting:
                loop.stop()

        readers(loop).add(near.fileno(), listen)
        far.send(b"x")
    loop.run_forever()
    assert not waiting


@needs_twin
def test_a_reset_is_told_until_somebody_listens(loop: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as far:
        near, _ = listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        told = 0

        def listen() -> None:
            nonlocal told
            told += 1
            if told == 3:
                loop.stop()

        readers(loop).add(near.fileno(), listen)
        loop.run_forever()
        readers(loop).remove(near.fileno())
        near.close()


@needs_twin
def test_nonsense_is_refused_and_nothing_is_left() -> None:
    made = hot.Readers(print)
    for wrong in [(-1, print), (1 << 40, print), (1,), ("x", print)]:
        with pytest.raises((ValueError, TypeError)):
            made.add(*wrong)
    with pytest.raises(OSError, match="descriptor"):
        made.add(1 << 20, print)
    assert not made.remove(1 << 20)
    with pytest.raises(TypeError):
        made.__init__(print)
    number = made.fileno()
    made.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(number)
    with pytest.raises(ValueError, match="open"):
        made.add(0, print)
    assert made.turn() is None


@needs_twin
def test_readers_end_with_their_loop() -> None:
    loop = asyncio.new_event_loop()
    found: Any = readers(loop)
    number = found.fileno()
    gone = weakref.ref(loop)
    del found
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(number)
