"""Backstage's app-config files as one tree, each value with its origin.

Sources from lowest to highest: the files (all `--config`, or the default list with BACKSTAGE_ENV), then APP_CONFIG_*
variables.  In each file, first `${NAME}` in string values is replaced, then `$env`, `$file` and `$include` objects.
Objects merge, everything else replaces; null deletes.  The rules are those of @backstage/config-loader; the golden
files in tests/golden hold its answers.  Mistakes raise ConfigProblems with file:line:column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config.yaml12 import Node, YamlFault, parse
from proxy.errors import ConfigProblems

_VARIABLE = re.compile(r"(\$?\$\{[^{}]*\})")
_KEY_PART = re.compile(r"[a-z][a-z0-9]*(?:[-_:][a-z0-9]+)*", re.IGNORECASE)
_MAX_DEPTH = 16
_DROP = object()


def default_files(folder: Path, environ: Mapping[str, str]) -> list[Path]:
    """What Backstage reads without `--config`."""
    names = [name.strip() for name in environ.get("BACKSTAGE_ENV", "").split(",") if name.strip()]
    base = folder / "app-config.yaml"
    rest = [*(folder / f"app-config.{name}.yaml" for name in names), folder / "app-config.local.yaml",
            *(folder / f"app-config.{name}.local.yaml" for name in names)]
    return [base, *(path for path in rest if path.exists())]


@dataclass(frozen=True, slots=True)
class _Reading:
    """What goes with us down the tree: the environment, the mistakes found so far, and keys that are left out (path -> why)."""

    environ: Mapping[str, str]
    problems: list[str]
    left_out: dict[str, str]

    def leave_out(self, node: Node, path: str, name: str) -> object:
        path = path.lstrip(".")
        self.left_out[path] = f"{node.place}: {path}: is left out, because ${{{name}}} is not set"
        return _DROP


def load(paths: Sequence[Path], environ: Mapping[str, str], problems: list[str] | None = None,
         left_out: dict[str, str] | None = None) -> Node:
    """Read, substitute, include and merge.  Mistakes are added to `problems`, or raised together without one; to `left_out`, by
    path, what is not there because a variable is not set."""
    found: list[str] = []
    tree = Node({})
    for path in paths:
        try:
            tree = _merge(tree, read_file(path, environ, found, left_out))
        except ConfigProblems as fault:
            found += fault.problems
    tree = _merge(tree, _from_environment(environ, found))
    if problems is not None:
        problems += found
    elif found:
        raise ConfigProblems(found)
    return _without_nulls(tree)


def read_file(path: Path, environ: Mapping[str, str], problems: list[str] | None = None,
              left_out: dict[str, str] | None = None) -> Node:
    """One file.  Raises ConfigProblems for a file that cannot be read at all, and for all else without `problems`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigProblems([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigProblems([f"{path}: is not UTF-8 text"]) from None
    root = _parse(text, str(path))
    if root.value is None:
        return Node({}, str(path), 1, 1)
    if not isinstance(root.value, dict):
        raise ConfigProblems([f"{path}:1:1: expected keys and values, got {_kind(root.value)}"])
    found: list[str] = []
    done = _transform(root, path.parent, _Reading(environ, found, {} if left_out is None else left_out), "", 0)
    if problems is not None:
        problems += found
    elif found:
        raise ConfigProblems(found)
    return done if isinstance(done, Node) else Node({}, str(path), 1, 1)


def _parse(text: str, file: str) -> Node:
    try:
        return parse(text, file)
    except YamlFault as fault:
        raise ConfigProblems([f"{file}:{fault.line}:{fault.column}: {fault.problem}"]) from None


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number")


def _fail(node: Node, path: str, problem: str) -> ConfigProblems:
    return ConfigProblems([f"{node.place}: {path.lstrip('.')}: {problem}"])


def _transform(node: Node, folder: Path, reading: _Reading, path: str, depth: int) -> Node | object:
    if depth > 200:
        raise _fail(node, path, "nested too deeply")
    value = node.value
    if isinstance(value, str):
        return _substitute(node, reading, path)
    if isinstance(value, list):
        items = [_tolerant(item, folder, reading, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
        return _copy(node, [item for item in items if isinstance(item, Node)])
    if isinstance(value, dict):
        # Any key that looks like an include makes the object one; a key beside it is a mistake.
        special = [key for key in value if key in ("$env", "$file", "$include")]
        if special:
            if len(value) > 1:
                raise _fail(node, path, f"include key {special[0]} should not have adjacent keys")
            return _include(node, special[0], folder, reading, path, depth)
        done = {key: _tolerant(item, folder, reading, f"{path}.{key}", depth + 1) for key, item in value.items()}
        return _copy(node, {key: item for key, item in done.items() if isinstance(item, Node)})
    return node


def _tolerant(node: Node, folder: Path, reading: _Reading, path: str, depth: int) -> Node | object:
    """A mistake is noted and the key left out, so that the next one is found too."""
    try:
        return _transform(node, folder, reading, path, depth)
    except ConfigProblems as fault:
        reading.problems.extend(fault.problems)
        return _DROP


def _copy(node: Node, value: Any, via: str = "") -> Node:
    return Node(value, node.file, node.line, node.column, via or node.via, node.key_marks)


def _substitute(node: Node, reading: _Reading, path: str) -> Node | object:
    parts = _VARIABLE.split(node.value)
    if len(parts) == 1:
        return node
    seen: list[str] = []
    for at in range(1, len(parts), 2):
        part = parts[at]
        if part.startswith("$$"):
            parts[at] = part[1:]
            continue
        name, found, fallback = part[2:-1].partition(":-")
        name = name.strip()
        value = reading.environ.get(name)
        if value is not None:
            value = value.strip()
        if found and not value:
            value = fallback.strip() or (None if name not in reading.environ else "")
        if value is None:
            return reading.leave_out(node, path, name)         # one that is unset drops the whole key
        parts[at] = value
        seen.append("${" + name + "}")
    return _copy(node, "".join(parts), ", ".join(seen))


def _include(node: Node, kind: str, folder: Path, reading: _Reading, path: str, depth: int) -> Node | object:
    inner = node.value[kind]
    argument = _transform(inner, folder, reading, path, depth + 1)
    if not isinstance(argument, Node):
        return _DROP
    if not isinstance(argument.value, str):
        raise _fail(node, path, f"{kind} include value is not a string")
    text = argument.value
    if kind == "$env":
        found = reading.environ.get(text)
        return _copy(node, found.strip(), "${" + text + "}") if found is not None else reading.leave_out(node, path, text)
    name, _, fragment = text.partition("#") if kind == "$include" else (text, "", "")
    file = folder / name
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise _fail(node, path, f"cannot read file {name}: {reason}") from None
    if kind == "$file":
        return _copy(node, content.rstrip(), f"file {name}")
    if depth > _MAX_DEPTH * 4:
        raise _fail(node, path, "includes go round in circles")
    if file.suffix not in (".json", ".yaml", ".yml"):
        raise _fail(node, path, f"no configuration parser available for included file {name}")
    root = _parse(content, str(file))
    for at, step in enumerate(fragment.split(".") if fragment else ()):
        walked = ".".join(fragment.split(".")[:at + 1])
        if not isinstance(root.value, dict):
            raise _fail(node, path, f"value at '{'.'.join(fragment.split('.')[:at])}' in included file {name} is not an object")
        if step not in root.value:
            raise _fail(node, path, f"value at '{walked}' in included file {name} does not exist")
        root = root.value[step]
    return _transform(root, file.parent, reading, path, depth + 8)


def _merge(low: Node, high: Node) -> Node:
    if isinstance(low.value, dict) and isinstance(high.value, dict):
        merged = dict(low.value)
        for key, node in high.value.items():
            merged[key] = _merge(merged[key], node) if key in merged else node
        return Node(merged, high.file, high.line, high.column, high.via, low.key_marks | high.key_marks)
    return high


def _without_nulls(node: Node) -> Node:
    if isinstance(node.value, dict):
        return _copy(node, {key: _without_nulls(item) for key, item in node.value.items() if item.value is not None})
    if isinstance(node.value, list):
        return _copy(node, [_without_nulls(item) for item in node.value])
    return node


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Node:
    tree = Node({}, "environment")
    for name, text in sorted(environ.items()):
        if not name.startswith("APP_CONFIG_"):
            continue
        parts = name.removeprefix("APP_CONFIG_").split("_")
        if not all(_KEY_PART.fullmatch(part) for part in parts):
            problems.append(f"{name}: not a configuration key")
            continue
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if value is None:
            problems.append(f"{name}: value may not be null")
            continue
        leaf = _nodes(value, name)
        for part in reversed(parts):
            leaf = Node({part: leaf}, name, via=name)
        tree = _merge(tree, leaf)
    return tree


def _nodes(value: Any, name: str) -> Node:
    if isinstance(value, dict):
        return Node({str(key): _nodes(item, name) for key, item in value.items()}, name, via=name)
    if isinstance(value, list):
        return Node([_nodes(item, name) for item in value], name, via=name)
    return Node(value, name, via=name)
