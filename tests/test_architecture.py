"""The architecture is a test: imports go down only, the dry half knows no sockets, generated files are fresh."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from proxy.config.generate import reference, schema

ROOT = Path(__file__).parent.parent
FLOORS = ["errors", "config", "wire", "auth", "tally", "session", "net", "tokens", "pool", "relay", "mysql", "gateway", "embedded",
          "server", "commands", "cli"]
DRY = {"errors", "wire", "auth", "session"}
WET = {"asyncio", "socket", "ssl", "threading", "select", "uvloop"}
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "proxy").rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def floor(name: str) -> int:
    parts = name.split(".")
    if name.startswith("proxy.pool.tally"):
        return FLOORS.index("tally")          # plain numbers: everybody may add to them
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else 0


def imports(path: Path) -> set[str]:
    """Imported at run time: what stands under TYPE_CHECKING or inside a function does not count."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nobody_reaches_up(path: Path) -> None:
    name = ".".join(path.with_suffix("").parts)
    up = [other for other in imports(path) if other.startswith("proxy.") and floor(other) > floor(name)]
    assert not up
    if path.parts[1].removesuffix(".py") in DRY:
        assert not {other.split(".")[0] for other in imports(path)} & WET


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_house_rules(path: Path) -> None:
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text))


def test_gateway_and_relay_never_meet() -> None:
    for path in MODULES:
        if path.parts[1] == "gateway":
            assert not any(name.startswith("proxy.relay") for name in imports(path))


def test_generated_files_are_fresh() -> None:
    assert (ROOT / "config/reference.yaml").read_text() == reference(), "run `make reference`"
    assert (ROOT / "config/schema.json").read_text() == schema(), "run `make reference`"
