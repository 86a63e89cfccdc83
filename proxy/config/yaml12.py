"""YAML as Backstage reads it: 1.2 core schema, duplicate keys are errors, every value knows its line.

PyYAML resolves YAML 1.1 (`on` is true, `0777` is octal, `1:30` is 90).  The loader below replaces its implicit
resolvers by those of YAML 1.2, section 10.3.2 "Tag Resolution", and builds Marked nodes instead of plain values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(slots=True, eq=False)
class Node:
    """A value of the tree: a dict or list of Nodes, or a scalar, and where it came from.  `via` names `${A}` or a file."""

    value: Any
    file: str = ""
    line: int = 0
    column: int = 0
    via: str = ""
    key_marks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def plain(self) -> Any:
        """Nodes off, plain values out."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def get(self, *keys: str) -> Node | None:
        node: Node | None = self
        for key in keys:
            if node is None or not isinstance(node.value, dict):
                return None
            node = node.value.get(key)
        return node

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class YamlFault(Exception):
    """A broken document: (line, column, problem)."""

    def __init__(self, line: int, column: int, problem: str) -> None:
        super().__init__(problem)
        self.line, self.column, self.problem = line, column, problem


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute


for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+0123456789."),
    ("null", r"~|null|Null|NULL|", "~nN"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"),
                                  [*first, ""] if tag == "null" else list(first))


def parse(text: str, file: str) -> Node:
    """The first document of `text`.  Raises YamlFault."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:      # a control character
        before = text[:error.position]
        raise YamlFault(before.count("\n") + 1, error.position - before.rfind("\n"), str(error.reason)) from None
    try:
        node = loader.get_single_node()
        return _build(node, file, {}) if node is not None else Node(None, file, 1, 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlFault(mark.line + 1 if mark else 1, mark.column + 1 if mark else 1,
                        str(error.problem or error.context or "not YAML")) from None
    except yaml.YAMLError as error:
        raise YamlFault(1, 1, str(error).splitlines()[0]) from None
    finally:
        loader.dispose()


def _build(node: yaml.Node, file: str, seen: dict[int, Node | None]) -> Node:
    mark = node.start_mark
    if id(node) in seen:                      # an alias: the same value again
        again = seen[id(node)]
        if again is None:
            raise YamlFault(mark.line + 1, mark.column + 1, "an alias inside of what it stands for")
        return again
    seen[id(node)] = None
    built = Node(None, file, mark.line + 1, mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        built.value = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            place = key_node.start_mark
            if key in built.value:
                raise YamlFault(place.line + 1, place.column + 1, f"map keys must be unique: {key}")
            built.value[key] = _build(value_node, file, seen)
            built.key_marks[key] = (place.line + 1, place.column + 1)
    elif isinstance(node, yaml.SequenceNode):
        built.value = [_build(item, file, seen) for item in node.value]
    else:
        built.value = _scalar(node)
    seen[id(node)] = built
    return built


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlFault(node.start_mark.line + 1, node.start_mark.column + 1, "a key must be text")
    return str(node.value)


def _scalar(node: yaml.Node) -> Any:
    text, tag = str(node.value), node.tag.removeprefix("tag:yaml.org,2002:")
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "int":
        return int(text[2:], 8) if text.startswith("0o") else int(text, 16) if text.startswith("0x") else int(text)
    if tag == "float":
        number = float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").replace(".nan", "nan")
                       .replace(".NaN", "nan").replace(".NAN", "nan"))
        return int(number) if number.is_integer() else number     # JavaScript knows one kind of number
    return text
