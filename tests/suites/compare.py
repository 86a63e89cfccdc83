"""Two runs of one suite side by side: what passed only directly, and which of that has its reason."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

REASONS = Path(__file__).parent / "reasons"
PASSED, FAILED, SKIPPED, MISSING = "passed", "failed", "skipped", "missing"


@dataclasses.dataclass(frozen=True)
class Result:
    outcome: str
    words: str = ""        # the end of what the test said, if it failed


Results = Mapping[str, Result]


@dataclasses.dataclass(frozen=True)
class Reason:
    test: str              # an id; one that ends in `*` stands for all that begin so
    modes: frozenset[str]  # empty: every mode
    text: str

    def covers(self, test: str, mode: str) -> bool:
        named = test.startswith(self.test[:-1]) if self.test.endswith("*") else test == self.test
        return named and (not self.modes or mode in self.modes)


def reasons(text: str) -> list[Reason]:
    """Paragraphs: a reason, `# ` in front of each of its lines, then the ids of its tests, one a line.  `# only: auto` narrows it to a
    mode.  Raises ValueError for an id without a reason."""
    found: list[Reason] = []
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        notes = [line.lstrip("# ") for line in lines if line.startswith("#")]
        only = [note.removeprefix("only:") for note in notes if note.startswith("only:")]
        why = " ".join(note for note in notes if not note.startswith("only:"))
        tests = [line for line in lines if not line.startswith("#")]
        if tests and not why:
            raise ValueError(f"{tests[0]}: no reason")
        found += [Reason(test, frozenset(" ".join(only).split()), why) for test in tests]
    return found


def reasons_of(suite: str) -> list[Reason]:
    path = REASONS / f"{suite}.txt"
    return reasons(path.read_text()) if path.exists() else []


@dataclasses.dataclass(frozen=True)
class Comparison:
    suite: str
    mode: str
    direct: Results
    through: Results
    known: list[Reason]

    @property
    def lost(self) -> dict[str, Result]:
        """Passed directly, not through us."""
        return {test: self.through.get(test, Result(MISSING)) for test, result in self.direct.items()
                if result.outcome == PASSED and self.through.get(test, Result(MISSING)).outcome != PASSED}

    @property
    def unexplained(self) -> dict[str, Result]:
        return {test: result for test, result in self.lost.items() if not any(known.covers(test, self.mode) for known in self.known)}

    @property
    def idle_reasons(self) -> list[Reason]:
        """Reasons for tests that do pass, or that nobody ran."""
        return [known for known in self.known if (not known.modes or self.mode in known.modes)
                and not any(known.covers(test, self.mode) for test in self.lost)]

    def as_json(self) -> dict[str, object]:
        return {"suite": self.suite, "mode": self.mode, "tests": len(self.direct),
                "direct": dict(Counter(result.outcome for result in self.direct.values())),
                "through": dict(Counter(result.outcome for result in self.through.values())),
                "differences": {test: result.words for test, result in self.unexplained.items()},
                "with_reason": sorted(self.lost.keys() - self.unexplained.keys())}

    def table(self) -> str:
        direct, through = (Counter(result.outcome for result in run.values()) for run in (self.direct, self.through))
        names = [name for name in (PASSED, FAILED, SKIPPED, *sorted(direct.keys() | through.keys())) if name in direct | through]
        lines = [f"{self.suite}, mode {self.mode}: {len(self.direct)} tests", f"{'':10}{'directly':>10}{'through':>10}"]
        lines += [f"{name:10}{direct[name]:10}{through[name]:10}" for name in dict.fromkeys(names)]
        for test, result in self.unexplained.items():
            lines += ["", f"DIFFERENCE {test}: {result.outcome}", *(f"    {line}" for line in result.words.splitlines()[-12:])]
        for known in self.idle_reasons:
            lines.append(f"a reason that nothing needs: {known.test}")
        lines += ["", f"{len(self.unexplained)} differences, {len(self.lost) - len(self.unexplained)} more with a reason"]
        return "\n".join(lines)
