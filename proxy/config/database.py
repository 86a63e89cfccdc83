"""The tree `backend.database` read as Backstage's readers do: typed getters that name the key they complain about."""

from __future__ import annotations

import re
from typing import Any

from proxy.config.yaml12 import Node
from proxy.errors import OperatorFault

_PART = "[a-zA-Z][a-zA-Z0-9]*(?:[-_:][a-zA-Z0-9]+)*"
PLUGIN_ID = re.compile(rf"{_PART}(?:\.{_PART})*")
_TRUE, _FALSE = {"y", "yes", "true", "1", "on"}, {"n", "no", "false", "0", "off"}
SECRET_KEYS = re.compile(r"passw(or)?d|secret|token|key$|connection$", re.IGNORECASE)


class Misconfigured(OperatorFault):
    """One mistake at one place of the tree; `place` is file:line:column."""

    def __init__(self, place: str, path: str, problem: str, via: str = "") -> None:
        origin = f" (from {via})" if via else ""
        super().__init__(f"{place + ': ' if place else ''}{path}: {problem}{origin}")


class Reader:
    """Typed access to one object of the tree.  With `problems`, a getter notes a mistake there and answers None."""

    def __init__(self, node: Node | None, path: str, problems: list[str] | None = None) -> None:
        self.node = node if node is not None else Node({})
        self.path = path
        self.problems = problems

    def child(self, key: str) -> Node | None:
        return self.node.value.get(key) if isinstance(self.node.value, dict) else None

    def reader(self, key: str) -> Reader:
        node = self.child(key)
        if node is not None and not isinstance(node.value, dict):
            raise self.fault(key, "expected keys and values")
        return Reader(node, f"{self.path}.{key}", self.problems)

    def wrong(self, key: str, problem: str) -> None:
        """Note a mistake, or raise it."""
        fault = self.fault(key, problem)
        if self.problems is None:
            raise fault
        self.problems.append(str(fault))

    def fault(self, key: str, problem: str) -> Misconfigured:
        node = self.child(key)
        place = node.place if node is not None else self.node.place
        return Misconfigured(place, f"{self.path}.{key}", problem, node.via if node is not None else "")

    def text(self, key: str) -> str | None:
        """getOptionalString: not empty."""
        node = self.child(key)
        if node is None:
            return None
        if not isinstance(node.value, str):
            self.wrong(key, f"expected text, got {shown(key, node.value)}")
            return None
        if not node.value:
            self.wrong(key, 'must not be empty; leave the key out instead of writing ""')
            return None
        return node.value

    def boolean(self, key: str) -> bool | None:
        node = self.child(key)
        if node is None:
            return None
        if isinstance(node.value, bool):
            return node.value
        word = str(node.value).lower() if isinstance(node.value, (str, int)) else ""
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        self.wrong(key, f"expected true or false, got {shown(key, node.value)}")
        return None


def shown(key: str, value: Any) -> str:
    """A value for an error message; secrets are not for the eye."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "***" if SECRET_KEYS.search(key) else repr(value)
