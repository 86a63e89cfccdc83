"""Mistakes in words: file:line:column, the key, the problem, where the value came from, what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from proxy.config.database import SECRET_KEYS, shown
from proxy.config.declare import Section
from proxy.config.settings import Settings
from proxy.config.yaml12 import Node

# What may be shown of a value that is wrong: a number with a unit, or a short word.  Anything else could be a password.
HARMLESS = re.compile(r"-?[\d.]+ ?[a-zA-Z]{0,12}|[a-zA-Z_-]{1,12}")


def worded(section: Node, item: Any) -> str:
    """A pydantic error as file:line:column: key: problem (origin)."""
    location = [str(part) for part in item["loc"]]
    node: Node | None = section
    parent = section
    for at, part in enumerate(location):
        if node is None:
            break
        if isinstance(node.value, list) and part.isdigit() and int(part) < len(node.value):
            parent, node = node, node.value[int(part)]
        else:
            parent, node = node, node.get(part)
        if node is None and at < len(location) - 1:
            break
    path = ".".join(["switchboard", *location])
    place = (node or parent).place
    via = f" (from {node.via})" if node is not None and node.via else ""
    if item["type"] == "extra_forbidden":
        if node is not None and location[-1] in parent.key_marks:
            line, column = parent.key_marks[location[-1]]
            place = f"{node.file}:{line}:{column}"
        return f"{place}: {path}: unknown key{suggest(location[-1], keys_at(location[:-1]))}"
    got = ""
    # A password is easily written one level too high: nothing below these is ever shown.
    secret = location[0] in ("users", "provisioning") or location[:2] == ["auth", "query"] or bool(SECRET_KEYS.search(location[-1]))
    if node is not None and not secret and (not isinstance(node.value, str) or HARMLESS.fullmatch(node.value)):
        got = f", got {shown(location[-1], node.value)}"
    elif node is not None:
        got = ", got ***"
    message = item["msg"].removeprefix("Value error, ")
    return f"{place}: {path}: {message[:1].lower()}{message[1:]}{got}{via}"


def suggest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(sorted(known))}" if known else ""


def keys_at(location: Sequence[str]) -> list[str]:
    """The keys of the section at `location`."""
    model: Any = Settings
    for part in location:
        if not (isinstance(model, type) and issubclass(model, Section)):
            return []
        entry = model.model_fields.get(part)
        if entry is None:
            continue                          # the name of a user or plugin
        model = entry.annotation
        inner = [item for item in getattr(model, "__args__", ()) if isinstance(item, type) and issubclass(item, Section)]
        if inner:
            model = inner[0]
    if not (isinstance(model, type) and issubclass(model, Section)):
        return []
    return [info.alias or name for name, info in model.model_fields.items()]
