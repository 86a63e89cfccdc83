"""Rows of a PostgreSQL driver beside SQLite's: the same values, in the types that the columns were declared with.

SQLite keeps 0 and 1 for booleans, milliseconds since 1970 or text for times, and text for JSON.  The driver's value says what the
other is to be read as.  Two times of one clock, each of its own statement, are the same when both are of these minutes.
"""

from __future__ import annotations

import datetime
import decimal
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

MINUTES = 30 * 60.0
"""Seconds about now in which two times are two readings of the clock, the longest delay that a statement adds."""


def _time(value: Any) -> float | None:
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    if isinstance(value, (int, float)):
        return value / 1000
    try:
        found = datetime.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


def plain(value: Any) -> Any:
    """A value that can be compared with `==` and sorted as text."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 9)
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return str(value) if isinstance(value, uuid.UUID) else value


def as_the_other(ours: Any, its: Any) -> tuple[Any, Any]:
    """Both in one form."""
    if ours is None or its is None:
        return ours, its
    if isinstance(ours, datetime.date) or (isinstance(ours, str) and isinstance(its, str)
                                           and _time(ours) is not None and _time(its) is not None):
        mine, other, now = _time(ours), _time(its), time.time()
        if mine is None or other is None:
            return ours, its
        if abs(mine - now) < MINUTES and abs(other - now) < MINUTES and abs(mine - other) < 60:
            return "now", "now"
        return round(mine, 3), round(other, 3)
    if isinstance(ours, (dict, list)) and isinstance(its, str):
        try:
            return plain(ours), plain(json.loads(its))
        except ValueError:
            return plain(ours), its
    if isinstance(ours, str) and isinstance(its, (int, float)):
        return ours, str(plain(its))
    return plain(ours), plain(its)


def rows_alike(ours: Sequence[Sequence[Any]], its: Sequence[Sequence[Any]], *, ordered: bool) -> str:
    """What differs, or nothing.  Rows that nobody ordered are paired one by one."""
    if len(ours) != len(its):
        return f"{len(ours)} rows, SQLite {len(its)}"
    rest = [tuple(row) for row in its]
    for number, row in enumerate(ours):
        at = next((at for at, other in enumerate(rest) if _same(row, other)), None)
        if at is None or (ordered and at and not _same(row, rest[0])):
            found = next((pair for pair in zip(row, rest[0], strict=False) if not _same(pair[:1], pair[1:])), (row, rest[0]))
            return f"row {number}: {found[0]!r}, SQLite {found[1]!r}"
        del rest[at]
    return ""


def _same(row: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(row) == len(other) and all(mine == its for mine, its in map(as_the_other, row, other))
