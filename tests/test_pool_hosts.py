"""Which host is dialled next: every case of order, absence and role, without a socket."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.target import Session
from proxy.errors import UpstreamFault
from proxy.pool.hosts import Host, Hosts, Role, role_of

PRIMARY, STANDBY, FENCED = Role(False, False), Role(True, True), Role(False, True)
GONE = UpstreamFault("gone")
PLACES = (("a", 1), ("b", 2), ("c", 3))


def hosts(session: Session = Session.ANY, **roles: Role) -> Hosts:
    found = Hosts(PLACES, session)
    for host in found.known:
        host.role = roles.get(host.host)
    return found


def named(some: tuple[Host, ...]) -> str:
    return "".join(host.host for host in some)


@pytest.mark.parametrize(("role", "fits"), [
    (PRIMARY, {"any", "read-write", "primary"}), (STANDBY, {"any", "read-only", "standby", "prefer-standby"}),
    (FENCED, {"any", "read-only", "primary"}),
])
def test_roles(role: Role, fits: set[str]) -> None:
    assert {str(session) for session in Session if role.fits(session)} == fits


@pytest.mark.parametrize(("standby", "read_only", "want"), [
    ("off", "off", PRIMARY), ("on", "off", STANDBY), ("off", "on", FENCED), (None, "off", None), (None, None, None)])
def test_what_a_server_reports(standby: str | None, read_only: str | None, want: Role | None) -> None:
    said = {"in_hot_standby": standby, "default_transaction_read_only": read_only}
    assert role_of({name: value for name, value in said.items() if value is not None}) == want


def test_the_operators_order() -> None:
    assert named(hosts().plan(0).tries) == "abc"


@pytest.mark.parametrize(("session", "roles", "want"), [
    (Session.READ_WRITE, {"b": PRIMARY, "a": STANDBY}, "bca"),       # who did not fit is asked last: it may fit by now
    (Session.READ_WRITE, {"a": STANDBY}, "bca"),
    (Session.STANDBY, {"a": PRIMARY, "b": STANDBY, "c": STANDBY}, "bca"),
    (Session.STANDBY, {"c": STANDBY}, "abc"),                        # a and b may fit, and come first
    (Session.PREFER_STANDBY, {"a": PRIMARY, "c": STANDBY}, "cba"),
    (Session.PREFER_STANDBY, {"a": PRIMARY}, "bca"),
    (Session.ANY, {"a": STANDBY}, "abc"),
])
def test_roles_order(session: Session, roles: dict[str, Role], want: str) -> None:
    assert named(hosts(session, **roles).plan(0).tries) == want


def test_who_is_away_is_skipped_and_then_probed() -> None:
    found = hosts(Session.READ_WRITE, b=PRIMARY)
    found.known[0].failed(GONE, 5)
    assert named(found.plan(4).tries) == "bc"
    assert named(found.plan(4).probes) == ""
    assert named(found.plan(5).tries) == "bc"        # nobody waits for the probe while another host will do
    assert named(found.plan(5).probes) == "a"
    found.known[0].answered(PRIMARY)
    assert named(found.plan(5).tries) == "abc"


def test_without_a_known_good_host_the_dial_is_the_probe() -> None:
    found = hosts(Session.READ_WRITE, b=STANDBY)
    found.known[0].failed(GONE, 5)
    found.known[2].failed(GONE, 9)
    assert named(found.plan(5).tries) == "ba"
    assert not found.plan(5).probes


def test_a_primary_will_do_for_prefer_standby_while_the_standby_is_away() -> None:
    found = hosts(Session.PREFER_STANDBY, a=PRIMARY, b=PRIMARY)
    found.known[2].failed(GONE, 5)
    assert named(found.plan(5).tries) == "ab"
    assert named(found.plan(5).probes) == "c"          # nobody waits for it


def test_the_cached_reason_while_nobody_is_there() -> None:
    found = hosts()
    for host in found.known:
        host.failed(GONE, 5)
    assert found.plan(4).reason is GONE
    assert not found.plan(4).tries
    assert named(found.plan(5).tries) == "abc"
    for host in found.known:
        host.probing = True                          # one at a time
    assert found.plan(5).reason is GONE


def test_a_host_that_failed_has_no_role_any_more() -> None:
    found = hosts(Session.PRIMARY, a=PRIMARY, b=STANDBY)
    found.known[0].failed(GONE, 5)
    found.known[0].answered(None)
    assert found.known[0].role is None


def test_shuffle_spreads() -> None:
    found = Hosts(PLACES, shuffle=True, random=random.Random(1))
    firsts = {found.plan(0).tries[0].host for _ in range(100)}
    assert firsts == {"a", "b", "c"}


def test_a_name_that_moved_away() -> None:
    host = Host("db", 5432)
    assert not host.left("10.0.0.1")
    host.resolved(["10.0.0.1", "10.0.0.2"], 100)
    host.resolved(["10.0.0.2"], 150)
    assert not host.left("10.0.0.1")             # a round of names may come back to it
    host.resolved(["10.0.0.2"], 161)
    assert host.left("10.0.0.1")
    assert not host.left("10.0.0.2")
    host.resolved(["10.0.0.1"], 162)
    assert not host.left("10.0.0.1")


def test_without_answers_nothing_has_moved() -> None:
    host = Host("db", 5432)
    host.resolved(["10.0.0.1"], 100)
    assert not host.left("10.0.0.1")


roles = st.sampled_from([None, PRIMARY, STANDBY, FENCED])


@given(session=st.sampled_from(Session), known=st.tuples(roles, roles, roles), away=st.tuples(*[st.booleans()] * 3),
       now=st.integers(0, 10), probing=st.tuples(*[st.booleans()] * 3))
def test_any_plan(session: Session, known: tuple[Role | None, ...], away: tuple[bool, ...], now: int,
                  probing: tuple[bool, ...]) -> None:
    """Nobody twice, nobody who is away before the time, everybody who is here, and a reason when there is nobody."""
    found = hosts(session)
    for host, role, gone, asked in zip(found.known, known, away, probing, strict=True):
        host.role = role
        if gone:
            host.failed(GONE, 5)
            host.probing = asked
    plan = found.plan(now)
    listed = [*plan.tries, *plan.probes]
    assert len(listed) == len(set(map(id, listed)))
    assert all(host.away is None or (now >= host.until and not host.probing) for host in listed)
    assert {host for host in found.known if host.away is None} <= set(plan.tries)
    assert bool(plan.tries) != (plan.reason is not None)
