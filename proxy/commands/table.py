"""Lists for people: aligned columns, no dependency; plain text, but for bold heads on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their longest cell; nothing trails."""
    lines = [list(heads), *([str(cell) if cell is not None else "" for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    if _bold():
        text[0] = f"\033[1m{text[0]}\033[0m"
    return "\n".join(text)


def _bold() -> bool:
    """A terminal that has it, and nobody objects (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
