"""The pool's arithmetic, swept."""

from __future__ import annotations

import itertools

import pytest

from proxy.pool.plan import Census, Do, keeps_waiting, plan


@pytest.mark.parametrize(("idle", "others", "busy", "coming", "waiting", "want"), [
    (1, 0, 0, 0, 1, Do.GIVE),
    (0, 0, 0, 0, 1, Do.DIAL),
    (0, 0, 0, 1, 1, Do.WAIT),
    (0, 0, 0, 1, 2, Do.DIAL),
    (0, 0, 4, 0, 1, Do.WAIT),
    (0, 1, 3, 0, 1, Do.EVICT),
    (0, 0, 3, 1, 2, Do.WAIT),
])
def test_plan(idle: int, others: int, busy: int, coming: int, waiting: int, want: Do) -> None:
    assert plan(Census(waiting, idle, others, busy, coming), 4) is want


def test_never_more_than_size() -> None:
    for waiting, idle, others, busy, coming in itertools.product(range(1, 4), range(3), range(3), range(5), range(4)):
        if plan(Census(waiting, idle, others, busy, coming), 4) is Do.DIAL:
            assert idle + others + busy + coming < 4
            assert coming < waiting


def test_who_may_hope() -> None:
    assert keeps_waiting("57P03", alive=0)
    assert keeps_waiting("53300", alive=1)
    assert not keeps_waiting("53300", alive=0)
    assert not keeps_waiting("28P01", alive=3)
