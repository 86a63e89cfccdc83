"""Rounds in turn, A B then B A: the machine's speed drifts, and neighbours in time share it.

A row is one case with all its rounds.  Its **ratio** is Switchboard's median by PgBouncer's; its **range** is the least and
the greatest ratio of two rounds that ran side by side.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.peers import Peer


@dataclass
class Row:
    part: str
    case: str
    unit: str
    more_is_better: bool = True
    goal: float | None = None                 # of the ratio, or of Switchboard's value if `absolute`
    absolute: bool = False
    values: dict[str, list[float]] = field(default_factory=dict)     # by peer, one per round
    cpu: dict[str, list[float]] = field(default_factory=dict)        # by peer, microseconds of the proxy per operation

    def median(self, peer: str) -> float | None:
        return statistics.median(self.values[peer]) if self.values.get(peer) else None

    def median_cpu(self, peer: str) -> float | None:
        return statistics.median(self.cpu[peer]) if self.cpu.get(peer) else None

    @property
    def ratio(self) -> float | None:
        ours, theirs = self.median("switchboard"), self.median("pgbouncer")
        return ours / theirs if ours is not None and theirs else None

    @property
    def range(self) -> tuple[float, float] | None:
        pairs = [ours / theirs for ours, theirs in
                 zip(self.values.get("switchboard", []), self.values.get("pgbouncer", []), strict=False) if theirs]
        return (min(pairs), max(pairs)) if pairs else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal or a measurement."""
        value = self.median("switchboard") if self.absolute else self.ratio
        if self.goal is None or value is None:
            return None
        return value >= self.goal if self.more_is_better else value <= self.goal

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "range": self.range}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        return cls(**{key: value for key, value in data.items() if key not in ("ratio", "range")})


@dataclass(frozen=True)
class Sample:
    value: float
    operations: float = 0.0                   # that the CPU is shared among; 0: CPU is not told


def interleave(row: Row, peers: Sequence[Peer], rounds: int, measure: Callable[[Peer], Sample]) -> Row:
    """Fill the row, and tell it on standard error as it comes."""
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else reversed(peers):
            before = peer.cpu()
            sample = measure(peer)
            used = peer.cpu() - before
            row.values.setdefault(peer.name, []).append(sample.value)
            if peer.pid and sample.operations:
                row.cpu.setdefault(peer.name, []).append(used / sample.operations * 1e6)
    tell(row)
    return row


def tell(row: Row) -> None:
    medians = "  ".join(f"{name} {row.median(name):,.4g}" + (f" ({row.median_cpu(name):.1f} µs)" if row.cpu.get(name) else "")
                        for name in row.values)
    ratio = f"  ratio {row.ratio:.2f} ({row.range[0]:.2f}-{row.range[1]:.2f})" if row.ratio and row.range else ""
    print(f"{row.part}: {row.case} [{row.unit}]  {medians}{ratio}", file=sys.stderr, flush=True)
