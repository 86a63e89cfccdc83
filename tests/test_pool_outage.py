"""Held or told: every case of a server that is away."""

from __future__ import annotations

import pytest

from proxy.errors import NoCredential, OperatorFault, ProxyError, UpstreamFault, UpstreamRefused
from proxy.pool.outage import Do, Outage, away

GONE = UpstreamFault("Connection refused")


def refused(sqlstate: str) -> UpstreamRefused:
    return UpstreamRefused({"C": sqlstate, "M": "no"})


@pytest.mark.parametrize(("fault", "want"), [
    (GONE, True), (refused("57P01"), True), (refused("57P03"), True), (refused("28P01"), False), (refused("53300"), False),
    (refused("3D000"), False), (OperatorFault("no TLS"), False), (NoCredential("no token"), False)])
def test_away(fault: ProxyError, want: bool) -> None:
    assert away(fault) is want


def failed(outage: Outage, now: float, fault: ProxyError = GONE, hold: float = 30.0) -> Do:
    return outage.failed(fault, now, hold=hold, delay=1.0)


def test_a_server_that_was_never_there_is_told_at_once() -> None:
    outage = Outage()
    assert failed(outage, 100) is Do.TELL
    assert outage.cached(100.5) is GONE
    assert outage.cached(101) is None


def test_a_server_that_went_is_waited_for() -> None:
    outage = Outage()
    outage.over()
    assert failed(outage, 100) is Do.HOLD
    assert outage.cached(100.5) is None              # newcomers wait too
    assert failed(outage, 129.9) is Do.HOLD
    assert failed(outage, 130) is Do.TELL
    assert outage.cached(130.5) is GONE
    assert failed(outage, 200) is Do.TELL            # still the same outage
    outage.over()
    assert outage.cached(200) is None
    assert failed(outage, 300) is Do.HOLD            # a new one


def test_without_hold_it_is_told_at_once() -> None:
    outage = Outage()
    outage.over()
    assert failed(outage, 100, hold=0) is Do.TELL


def test_starting_up_is_waited_for_in_any_case() -> None:
    assert failed(Outage(), 100, refused("57P03")) is Do.HOLD


def test_refusals_are_told_at_once() -> None:
    outage = Outage()
    outage.over()
    assert failed(outage, 100) is Do.HOLD
    assert failed(outage, 101, refused("28P01")) is Do.TELL
    assert outage.since is None
