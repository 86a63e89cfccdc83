"""What to run: the command line as a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    folder: Path                              # for what the run leaves behind; removed at its end
    rounds: int
    seconds: float                            # of one round
    clients: tuple[int, ...]                  # empty: as each part thinks best
    modes: tuple[str, ...]
    shapes: tuple[str, ...]
    peers: tuple[str, ...]
    quick: bool

    def clients_or(self, *usual: int) -> tuple[int, ...]:
        return self.clients or usual

    @property
    def megabytes(self) -> int:
        """Of a bulk transfer."""
        return 60 if self.quick else 300
