"""Random scripts read the same directly and through us: some hundred here; `-m long` or `python -m tests.oracle`: thousands."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, reject, seed, settings

from tests.oracle.scripts import scripts
from tests.oracle.stage import Blocked, Stage
from tests.oracle.steps import Script


def play(both: Stage, times: int, number: int) -> None:
    @seed(number)
    @settings(max_examples=times, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(scripts())
    def one(given: tuple[Script, int]) -> None:
        try:
            found = both.differences(*given)
        except Blocked:
            reject()
        assert found == ""

    one()


def test_some_hundred_scripts_read_the_same(oracle: Stage) -> None:
    play(oracle, 120, 33)


@pytest.mark.long
@pytest.mark.parametrize("number", range(10))
def test_thousands_of_scripts_read_the_same(oracle: Stage, number: int) -> None:
    play(oracle, 500, 1000 + number)
