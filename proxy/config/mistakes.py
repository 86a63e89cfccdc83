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


# pydantic's kinds of mistakes -> ours; {} are filled from its context.
WORDS = {
    "dict_type": "expected keys and values", "model_type": "expected keys and values", "list_type": "expected a list",
    "string_type": "expected text", "int_type": "expected a whole number", "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number", "float_type": "expected a number", "float_parsing": "expected a number",
    "bool_type": "expected true or false", "bool_parsing": "expected true or false", "missing": "is missing",
    "greater_than_equal": "must be at least {ge}", "less_than_equal": "must be at most {le}", "finite_number": "must be finite",
    "string_pattern_mismatch": "does not match {pattern}"}


def worded(section: Node, item: Any) -> str:
    """A pydantic error as file:line:column: key: problem (origin)."""
    location = [str(part) for part in item["loc"]]
    node, parent, path = _walk(section, location)
    place = (node or parent).place
    via = f" (from {node.via})" if node is not None and node.via else ""
    last = location[-1] if location else ""
    if item["type"] == "extra_forbidden":
        if node is not None and last in parent.key_marks:
            line, column = parent.key_marks[last]
            place = f"{node.file}:{line}:{column}"
        return f"{place}: {path}: unknown key{suggest(last, keys_at(location[:-1]))}"
    # A password is easily written one level too high: nothing below these is ever shown.
    secret = location[:1] in (["users"], ["provisioning"]) or location[:2] == ["auth", "query"] or bool(SECRET_KEYS.search(last))
    # Of what has parts, who complains says which part.
    got = "" if node is None or (isinstance(node.value, (dict, list)) and item["type"] == "value_error") else ", got ***"
    if got and node is not None and not secret and (not isinstance(node.value, str) or HARMLESS.fullmatch(node.value)):
        got = f", got {shown(last, node.value)}"
    return f"{place}: {path}: {_message(item, node, secret)}{got}{via}"


def contradicted(section: Node, where: str, problem: str) -> str:
    """The same for what several settings say together; `where` is a path below `switchboard`."""
    node, parent, path = _walk(section, re.findall(r"[^.\[\]]+", where))
    return f"{(node or parent).place}: {path}: {problem}"


def _walk(section: Node, location: Sequence[str]) -> tuple[Node | None, Node, str]:
    """The value at `location` if there is one, the last that there is above it, and the path in words."""
    node: Node | None = section
    parent, path = section, "switchboard"
    for part in location:
        if node is not None:
            parent = node
        listed = part.isdigit() and (node is None or isinstance(node.value, list))
        path += f"[{part}]" if listed else f".{part}"
        if node is not None:
            node = (node.value[int(part)] if int(part) < len(node.value) else None) if listed else node.get(part)
    return node, parent, path


def _message(item: Any, node: Node | None, secret: bool) -> str:
    context = item.get("ctx", {})
    if item["type"] in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        value = str(node.value) if node is not None else ""
        close = [] if secret else difflib.get_close_matches(value, known, 1)
        return f"expected {', '.join(known)}" + (f' (did you mean "{close[0]}"?)' if close else "")
    if item["type"] in WORDS:
        plain = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
        return WORDS[item["type"]].format(**plain)
    message = str(item["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


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
