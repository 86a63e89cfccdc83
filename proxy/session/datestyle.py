"""DateStyle is a style and an order of day, month and year, and a value may name either: the other stays (check_datestyle in
variable.c).  What a session begins with goes together from several such values, and what none of them names is the server's."""

from __future__ import annotations

_STYLES = ("iso", "sql", "postgres", "german")
_ORDERS = ("ymd", "dmy", "mdy", "us", "euro", "noneuro")


def _parts(value: str) -> tuple[str, str] | None:
    """The words for style and order, empty where none is; None for what must be left as it is."""
    style = order = ""
    for word in value.lower().replace(" ", "").split(","):
        if word.startswith(_STYLES) and not style:
            style = word
        elif word.startswith(_ORDERS) and not order:
            order = word
        else:
            return None
    return style, order


def partial(value: str) -> bool:
    parts = _parts(value)
    return parts is not None and not (parts[0].startswith("german") or all(parts))


def joined(before: str, after: str) -> str:
    """The one, and then the other."""
    first, then = _parts(before), _parts(after)
    if first is None or then is None or not partial(after):
        return after
    return f"{then[0] or first[0]}, {then[1] or first[1]}".strip(", ") if any(first) else after
