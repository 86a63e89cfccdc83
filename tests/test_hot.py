"""The compiled twin does what the Python text says: the same streams, cut the same way, give the same answers."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProxyError
from proxy.hot import hot
from proxy.pool.tally import BOUNDS, PureHistogram, PureTally, Tally
from proxy.relay.pump import AWAY, BROKEN, CLOSED, LOST, SETTLE, SHORT, WALKED, Pump
from proxy.session.link import IDLE, TERMINATE, THINK, Link, PureLink
from proxy.wire.messages import fields, message, parameter_status, query, ready_for_query

needs_twin = pytest.mark.skipif(hot is None, reason="the compiled twin was not built (no C compiler), or SWITCHBOARD_PURE is set")


def parse(text: bytes, name: bytes = b"") -> bytes:
    return message(b"P", name + b"\0" + text + b"\0\0\0")


TEXTS = st.sampled_from([b"select 1", b"SeLeCt PG_ADVISORY_lock(1)", b"listen x", b"LISTEN x", b"set session y",
                         b"create temp table t()", b"DISCARD all", b"drop DataBase x", b"x" * 5000,
                         b"prepar", b"databas", b" hold", b"load 'x'", b"\xff\xfe", b""])
REQUESTS = st.one_of(
    TEXTS.map(lambda text: message(b"Q", text + b"\0")), TEXTS.map(parse), TEXTS.map(lambda text: parse(text, b"s1")),
    st.sampled_from([message(b"D", b"S\0"), message(b"D", b"Sx\0"), message(b"D", b"P\0"), message(b"C", b"S\0"), message(b"C", b"P\0"),
                     message(b"B", b"p\0\0\0\0\0\0\0\0"), message(b"B", b"\0s\0")]),
    st.sampled_from([message(b"S"), message(b"H"), message(b"X"), message(b"c"), message(b"f", b"no\0"), message(b"B", b"\0" * 8),
                     message(b"E", b"\0" * 5), message(b"F", b"\0" * 10), message(b"d", b"x" * 300), message(b"d", b"y" * 70_000)]),
    st.binary(max_size=12))
ANSWERS = st.one_of(st.sampled_from([
    message(b"D", b"\0\1\0\0\0\2hi") * 40, message(b"D", b"y" * 900), ready_for_query(), ready_for_query(b"T"), ready_for_query(b"E"),
    message(b"C", b"SET\0"), message(b"C", b"RESET\0"), message(b"C", b"S"), message(b"C"), parameter_status("TimeZone", "UTC"),
    fields(b"E", {"S": "ERROR", "C": "23505"}), fields(b"E", {"S": "FATAL", "C": "57P01"}), fields(b"E", {"M": "m" * 6000}),
    message(b"G", b"\0\0\0"), message(b"1"), message(b"2"),
    message(b"n"), message(b"I"), message(b"T", b"\0\0"),
    message(b"d", b"z" * 100) * 30, message(b"v", b"w" * 70_000)]), st.binary(max_size=12))
STEPS = st.lists(st.one_of(st.tuples(st.just("from_client"), REQUESTS), st.tuples(st.just("from_upstream"), ANSWERS)), max_size=14)


def state(link: Any) -> tuple[object, ...]:
    tally = link.tally
    return (list(link.owed), link.status, link.open, link.copying, link.dirty, link.used, link.fatal, link.pinned, link.reported,
            link.statement, link.c_left, link.u_left, link.c_part, link.u_part, link.partial, link.settled, tally.queries,
            tally.transactions, tally.from_client, tally.from_upstream, dict(tally.errors), dict(tally.pins),
            sum(tally.query_time.counts), sum(tally.transaction_time.counts))


def fed(link: Any, direction: str, data: bytes) -> object:
    try:
        flags = getattr(link, direction)(bytearray(data), len(data))
    except ProxyError as fault:
        return type(fault), str(fault)
    return flags, link.cut if flags & TERMINATE else 0


@needs_twin
@pytest.mark.parametrize("watch", [True, False])
@given(steps=STEPS, data=st.data())
def test_the_walks_agree(watch: bool, steps: list[tuple[str, bytes]], data: st.DataObject) -> None:
    pure, twin = PureLink(PureTally("p", "s", "u"), watch=watch), Link(Tally("p", "s", "u"), watch=watch)
    for direction, stream in steps:
        at = 0
        while at < len(stream):
            size = data.draw(st.one_of(st.integers(1, 9), st.integers(1, 100_000)))
            piece = stream[at:at + size]
            at += size
            answer = fed(pure, direction, piece)
            assert fed(twin, direction, piece) == answer
            if isinstance(answer, tuple) and isinstance(answer[0], type):
                return                        # a fault ends the session
            assert state(twin) == state(pure)


@needs_twin
@given(steps=STEPS, data=st.data())
def test_the_walks_of_mode_auto_agree(steps: list[tuple[str, bytes]], data: st.DataObject) -> None:
    pure, twin = PureLink(PureTally("p", "s", "u"), watch=True), Link(Tally("p", "s", "u"), watch=True)
    for each in (pure, twin):
        each.neutral = {b"LISTEN x"}          # others are judged
    for direction, stream in steps:
        at = 0
        while at < len(stream):
            piece = stream[at:at + data.draw(st.one_of(st.integers(1, 9), st.integers(1, 100_000)))]
            at += len(piece)
            answer = fed(pure, direction, piece)
            assert fed(twin, direction, piece) == answer
            if isinstance(answer, tuple) and isinstance(answer[0], type):
                return                        # a fault ends the session
            assert state(twin) == state(pure)
            assert (twin.parse, twin.asked, twin.skipping) == (pure.parse, pure.asked, pure.skipping)
            if direction == "from_client" and isinstance(answer, tuple) and int(str(answer[0])) & THINK:
                assert 0 <= twin.cut == pure.cut <= len(piece)
                assert not twin.partial
                at = len(stream)              # the relay looks at the rest


@needs_twin
def test_a_long_pipeline_is_remembered() -> None:
    twin = Link(Tally("p", "s", "u"), watch=True)
    for _ in range(3):
        fed(twin, "from_client", query("select 1") * 5000)
        assert len(twin.owed) == 5000
        fed(twin, "from_upstream", ready_for_query() * 4999)
        assert len(twin.owed) == 1
        assert fed(twin, "from_upstream", ready_for_query()) == (IDLE, 0)


@needs_twin
@given(st.lists(st.floats(0, 1000) | st.sampled_from(BOUNDS)))
def test_histograms_agree(values: list[float]) -> None:
    pure, twin = PureHistogram(), hot.Histogram()
    for value in values:
        pure.observe(value)
        twin.observe(value)
    assert (twin.counts, twin.total) == (pure.counts, pure.total)


class Ends:
    """A pump between two socket pairs."""

    def __init__(self, which: str) -> None:
        self.client, near = socket.socketpair()
        self.server, far = socket.socketpair()
        self.all = [self.client, near, self.server, far]
        for each in self.all:
            each.setblocking(False)
        self.pump = Pump(near, Tally("p", "s", "u"), watch=True)
        self.far = far
        self.which = which
        self.ride()

    def ride(self) -> None:
        self.pump.up, self.pump.up_fd = self.far, self.far.fileno()

    def from_client(self) -> int:
        return int(getattr(self.pump, f"{self.which}_client")())

    def from_upstream(self) -> int:
        return int(getattr(self.pump, f"{self.which}_upstream")())

    def close(self) -> None:
        for each in self.all:
            each.close()


@pytest.fixture(params=["pump", "swift"])
def ends(request: pytest.FixtureRequest) -> Any:
    made = Ends(request.param)
    yield made
    made.close()


def test_an_event_moves_bytes(ends: Ends) -> None:
    assert ends.from_client() == 0            # nothing there
    ends.client.send(query("select 1"))
    assert ends.from_client() == 0
    assert ends.server.recv(100) == query("select 1")
    ends.server.send(ready_for_query())
    assert ends.from_upstream() == IDLE
    assert ends.client.recv(100) == ready_for_query()
    assert ends.from_upstream() == 0


def test_outcomes(ends: Ends) -> None:
    ends.client.send(query("drop database x"))
    assert ends.from_client() & THINK
    with pytest.raises(BlockingIOError):
        ends.server.recv(1)                   # not sent yet: the relay looks first
    ends.client.send(message(b"d", b"late"))
    assert ends.pump.push_client(ends.pump.got) == 0
    ends.server.send(ready_for_query())
    ends.from_upstream()
    assert ends.from_client() == SETTLE
    ends.client.send(message(b"X"))
    assert ends.from_client() == TERMINATE
    ends.pump.up, ends.pump.up_fd = None, -1
    ends.client.send(query("select 2"))
    assert ends.from_client() == AWAY
    assert ends.pump.got == len(query("select 2"))
    ends.ride()
    ends.server.recv(1000)
    ends.server.close()
    assert ends.from_upstream() == CLOSED
    ends.client.send(query("select 3"))
    assert ends.from_client() == BROKEN
    ends.client.recv(1000)
    ends.client.close()
    assert ends.from_client() == CLOSED


def test_a_reset_is_a_loss(ends: Ends) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    near.setblocking(False)
    ends.pump.sock, ends.pump.fd = near, near.fileno()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert ends.from_client() == LOST
    for each in (near, listener):
        each.close()


def test_a_short_send_tells_how_much(ends: Ends) -> None:
    row = message(b"D", b"z" * 60_000)
    outcome = 0
    sent = 0
    while not outcome & SHORT:
        ends.server.send(row)
        outcome = ends.from_upstream()
        sent += ends.pump.sent if outcome & SHORT else ends.pump.got
    assert 0 <= ends.pump.sent < ends.pump.got
    received = 0
    while received < sent:
        received += len(ends.client.recv(1 << 20))
    assert received == sent


class Lease:
    """A client, and an idle upstream in the lane of a pool, as the relay and the pool lay them out."""

    def __init__(self, ends: Ends, **of_upstream: Any) -> None:
        self.settings = ("UTF8",)
        self.key: frozenset[tuple[str, str]] = frozenset()
        self.ear = hot.Ear()
        for name, value in {"sock": ends.far, "fd": ends.far.fileno(), "key": self.key, "settings": self.settings, "expires": 0.0,
                            "idle_since": 9.0, "reading": True, **of_upstream}.items():
            setattr(self.ear, name, value)
        self.lane = hot.Lane()
        for name, value in {"idle": {self.key: [self.ear]}, "busy": set(), "resting": set(), "queue": deque(), "idle_count": 1,
                            "now": 10.0, "check_delay": 30.0, "size": 1, "plain": True, "patient": True, "clock": lambda: 12.5}.items():
            setattr(self.lane, name, value)
        self.admit(ends.pump)

    def admit(self, pump: Any) -> None:
        pump.up, pump.up_fd = None, -1
        pump.pool, pump.key, pump.settings, pump.held = self.lane, self.key, self.settings, b""
        pump.swift = pump.reading = True

    def census(self) -> tuple[int, int, int]:
        return sum(map(len, self.lane.idle.values())), self.lane.idle_count, len(self.lane.busy)


@pytest.fixture
def plain_ends() -> Iterator[Ends]:
    made = Ends("swift")
    yield made
    made.close()


@needs_twin
def test_a_plain_lease_is_taken_and_given_back_without_python(plain_ends: Ends) -> None:
    ends, lease = plain_ends, Lease(plain_ends)
    pump: Any = ends.pump
    for turn in range(1, 4):
        ends.client.send(query("select 1"))
        assert ends.from_client() == 0
        assert lease.census() == (0, 0, 1)
        assert (pump.upstream, pump.up, pump.up_fd, lease.ear.rider) == (lease.ear, ends.far, ends.far.fileno(), pump)
        assert ends.server.recv(100) == query("select 1")
        ends.server.send(ready_for_query())
        assert ends.from_upstream() == 0
        assert ends.client.recv(100) == ready_for_query()
        assert lease.census() == (1, 1, 0)
        assert (pump.upstream, pump.up, pump.up_fd, lease.ear.rider, pump.used) == (None, None, -1, None, False)
        assert (lease.ear.idle_since, pump.tally.leases, sum(pump.tally.wait_time.counts)) == (10.0, turn, turn)


@needs_twin
@pytest.mark.parametrize(("of_client", "of_upstream", "of_lane"), [
    ({"settings": ("LATIN1",)}, {}, {}), ({"held": b"Q"}, {}, {}), ({"place": object()}, {}, {}), ({"backlog": bytearray()}, {}, {}),
    ({"leaving": True}, {}, {}), ({"tls": True}, {}, {}), ({"drop_left": 5}, {}, {}), ({"key": frozenset({("a", "b")})}, {}, {}),
    ({}, {"tls": True}, {}), ({}, {"broken": True}, {}), ({}, {"idle_since": -21.0}, {}), ({}, {}, {"waiting": 1})])
def test_what_is_not_plain_is_left_to_the_pool(plain_ends: Ends, of_client: dict[str, Any], of_upstream: dict[str, Any],
                                               of_lane: dict[str, Any]) -> None:
    ends, lease = plain_ends, Lease(plain_ends, **of_upstream)
    for target, values in ((ends.pump, of_client), (lease.lane, of_lane)):
        for name, value in values.items():
            setattr(target, name, value)
    ends.client.send(query("select 1"))
    assert ends.from_client() == AWAY
    assert lease.census() == (1, 1, 0)
    assert not ends.pump.owed                 # nobody has looked at it


@needs_twin
@pytest.mark.parametrize("text", [
    query("select 1")[:-2], query("listen x")[:4], query("drop database x"), message(b"X"), message(b"X") * 2])
def test_what_needs_thought_has_been_walked_and_takes_nothing(plain_ends: Ends, text: bytes) -> None:
    ends, lease = plain_ends, Lease(plain_ends)
    ends.client.send(text)
    assert ends.from_client() & (AWAY | WALKED) == AWAY | WALKED
    assert lease.census() == (1, 1, 0)


@needs_twin
@pytest.mark.parametrize(("of_client", "of_upstream", "of_lane"), [
    ({"draining": True}, {}, {}), ({"dirty": True}, {}, {}), ({"pinned": "LISTEN"}, {}, {}), ({"reported": [("a", "b")]}, {}, {}),
    ({}, {"reading": False}, {}), ({}, {"cancels": 1}, {}), ({}, {"broken": True}, {}), ({}, {"expires": 9.0}, {}),
    ({}, {}, {"plain": False}), ({}, {}, {"queue": deque(["somebody"])}), ({}, {}, {"idle": {}})])
def test_what_does_not_come_back_plainly_is_the_relays(plain_ends: Ends, of_client: dict[str, Any], of_upstream: dict[str, Any],
                                                       of_lane: dict[str, Any]) -> None:
    ends, lease = plain_ends, Lease(plain_ends)
    ends.client.send(query("select 1"))
    assert ends.from_client() == 0
    for target, values in ((ends.pump, of_client), (lease.ear, of_upstream), (lease.lane, of_lane)):
        for name, value in values.items():
            setattr(target, name, value)
    ends.server.send(ready_for_query())
    assert ends.from_upstream() == IDLE
    pump: Any = ends.pump
    assert (len(lease.lane.busy), pump.upstream) == (1, lease.ear)


@needs_twin
def test_who_must_wait_waits_and_is_served_without_python(plain_ends: Ends) -> None:
    ends, lease = plain_ends, Lease(plain_ends)
    second = Ends("swift")
    lease.admit(second.pump)
    first: Any = ends.pump
    other: Any = second.pump
    ends.client.send(query("select 1"))
    assert ends.from_client() == 0
    second.client.send(query("select 2"))
    assert second.from_client() == 0
    (place,) = lease.lane.queue
    assert (place.waiter, place.pool, place.since, lease.lane.used_at, place.gone) == (other, lease.lane, 12.5, 12.5, False)
    assert (other.held, other.place, lease.lane.waiting, other.since > 0) == (query("select 2"), place, 1, True)
    assert ends.server.recv(100) == query("select 1")
    ends.server.send(ready_for_query())
    assert ends.from_upstream() == 0
    assert ends.server.recv(100) == query("select 2")
    assert lease.census() == (0, 0, 1)
    assert (place.gone, place.settled, place.left, len(lease.lane.queue), lease.lane.waiting) == (True, True, False, 0, 0)
    assert (other.held, other.place, other.upstream, other.up_fd, lease.ear.rider) == (b"", None, lease.ear, lease.ear.fd, other)
    assert (first.upstream, first.up_fd, first.used, sum(other.tally.wait_time.counts)) == (None, -1, False, 1)
    assert other.granted_at >= other.since
    second.close()


@needs_twin
@pytest.mark.parametrize("of_lane", [{"size": 2}, {"busy": set()}, {"plain": False}, {"patient": False}])
def test_who_may_be_helped_is_left_to_the_pool(plain_ends: Ends, of_lane: dict[str, Any]) -> None:
    ends, lease = plain_ends, Lease(plain_ends)
    lease.lane.idle, lease.lane.idle_count, lease.lane.busy = {}, 0, {lease.ear}
    for name, value in of_lane.items():
        setattr(lease.lane, name, value)
    ends.client.send(query("select 1"))
    assert ends.from_client() == AWAY
    assert not lease.lane.queue
    lease.lane.size, lease.lane.busy, lease.lane.plain, lease.lane.patient, lease.lane.alarm = 1, {lease.ear}, True, False, object()
    ends.client.send(query("select 1"))
    assert ends.from_client() == 0
    assert len(lease.lane.queue) == 1


@needs_twin
@pytest.mark.parametrize("of_waiter", [
    {"settings": ("LATIN1",)}, {"key": frozenset({("a", "b")})}, {"leaving": True}, {"reading": False}, {"swift": False},
    {"backlog": bytearray()}, {"waiter": object()}])
def test_a_waiter_who_is_not_plain_is_left_to_the_pool(plain_ends: Ends, of_waiter: dict[str, Any]) -> None:
    ends, lease = plain_ends, Lease(plain_ends)
    second = Ends("swift")
    lease.admit(second.pump)
    for each, text in ((ends, "select 1"), (second, "select 2")):
        each.client.send(query(text))
        assert each.from_client() == 0
    for name, value in of_waiter.items():
        setattr(second.pump, name, value)
    ends.server.send(ready_for_query())
    assert ends.from_upstream() == IDLE
    assert len(lease.lane.queue) == 1
    second.close()
