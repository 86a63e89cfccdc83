"""Single words of a plugin's `connection`, and how a wrong one is told.

A mistake is a BadKey.  Whoever reads a connection takes a `note`: with `refuse` the first mistake is raised, with
`list.append` each is noted, a default stands in for what is wrong, and reading goes on to the next.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

E = TypeVar("E", bound=enum.StrEnum)
_BOOLEANS = {True: "1", False: "0"}


class BadKey(ValueError):
    """A key of `connection` that cannot mean what it says.  The text never quotes a secret."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


Note = Callable[[BadKey], None]


def refuse(fault: BadKey) -> None:
    """The `note` of who wants to know of one mistake only."""
    raise fault


def got(value: object, known: Sequence[str] = ()) -> str:
    """What was written, if it could be meant for one of the words known: a password in the wrong variable is not shown."""
    if isinstance(value, (dict, list)):
        return f", got {'an object' if isinstance(value, dict) else 'a list'}"
    if isinstance(value, bool):
        return f", got {str(value).lower()}"
    text = str(value)
    meant = len(text) <= 3 or difflib.get_close_matches(text.lower(), [one.lower() for one in known], 1, 0.5)
    return f', got "{text}"' if meant and re.fullmatch(r"[\w.,! -]{1,30}", text) else ", and this is none of them"


def word(connection: Mapping[str, Any], key: str, default: str) -> str:
    """The text of a key; what is missing or empty is the default, a boolean is 1 or 0."""
    value = connection.get(key)
    if value in (None, ""):
        return default
    return _BOOLEANS[value] if isinstance(value, bool) else str(value)


def choice(connection: Mapping[str, Any], key: str, known: Sequence[str], default: str, note: Note) -> str:
    """One of the known words."""
    found = word(connection, key, default)
    if found in known or not found:
        return found
    listed = " or ".join(known) if len(known) == 2 else ", ".join(known)
    note(BadKey(key, f"expected {listed}{got(connection.get(key), known)}"))
    return default


def member(kind: type[E], connection: Mapping[str, Any], key: str, default: E, note: Note) -> E:
    """The same for an enumeration."""
    return kind(choice(connection, key, [str(one) for one in kind], str(default), note))


def texts(connection: Mapping[str, Any], keys: Sequence[str], note: Note) -> None:
    """These must be text; numbers are taken for it."""
    for key in keys:
        if isinstance(connection.get(key), (dict, list, bool)):
            note(BadKey(key, f"expected text{got(connection[key])}"))
