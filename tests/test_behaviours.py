"""The table of behaviours is whole, and the tests that it names exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.behaviours import BEHAVIOURS, Without

HERE = Path(__file__).parent


def functions(module: str) -> set[str]:
    tree = ast.parse((HERE / f"test_{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_none_is_left_out() -> None:
    assert list(BEHAVIOURS) == list(range(1, 93))


@pytest.mark.parametrize("number", BEHAVIOURS)
def test_each_is_held_by_a_test_or_says_why_not(number: int) -> None:
    _, held = BEHAVIOURS[number]
    if isinstance(held, Without):
        assert held.reason
        return
    for name in [held] if isinstance(held, str) else held:
        module, _, function = name.partition("::")
        assert function in functions(module), name
