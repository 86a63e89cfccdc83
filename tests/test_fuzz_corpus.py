"""What the fuzzers found or start from, replayed: one case per file of tests/fuzz/corpus/<target>/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "fuzz/corpus"
CASES = sorted(path.relative_to(CORPUS) for path in CORPUS.glob("*/*"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_replay(case: Path) -> None:
    TARGETS[case.parts[0]]((CORPUS / case).read_bytes())


def test_every_target_has_a_corpus() -> None:
    assert {case.parts[0] for case in CASES} == set(TARGETS)
