"""`->` and `->>` of PostgreSQL: SQLite's own tell booleans as 0 and 1."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from proxy.gateway.engine import Value
from proxy.gateway.sqlite.faults import refused


def _read(text: Value) -> Any:
    try:
        return json.loads(str(text), parse_float=Decimal)
    except (ValueError, RecursionError):
        raise refused("22P02", "invalid input syntax for type json") from None


def checked(text: Value) -> Value:
    if text is not None:
        _read(text)
    return text


def _step(text: Value, key: Value) -> Any:
    found = _read(text)
    if isinstance(found, dict) and isinstance(key, str):
        return found.get(key, ...)
    if isinstance(found, list) and isinstance(key, int):
        return found[key] if -len(found) <= key < len(found) else ...
    return ...


def get(text: Value, key: Value) -> Value:
    found = ... if text is None or key is None else _step(text, key)
    return None if found is ... else _written(found)


def get_text(text: Value, key: Value) -> Value:
    found = ... if text is None or key is None else _step(text, key)
    return None if found is ... or found is None else found if isinstance(found, str) else _written(found)


def _written(value: Any) -> str:
    """As jsonb is told: a space behind commas and colons."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {_written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
