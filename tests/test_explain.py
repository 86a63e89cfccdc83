"""`switchboard explain`, and that the README tells the truth about it."""

from __future__ import annotations

import json
import re

import pytest

from tests.servers import ROOT
from tests.test_cli import switchboard

CHAPTER = (ROOT / "README.md").read_text().split("### What a statement does to a session")[1].split("###")[0]
EXAMPLES = re.findall(r'^\$ switchboard explain "(.*)"\n((?:(?!\$|```).*\n)+)', CHAPTER, re.MULTILINE)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize(("sql", "shown"), EXAMPLES)
def test_as_the_readme_says(sql: str, shown: str) -> None:
    told = switchboard("explain", sql)
    assert told.returncode == 0
    assert told.stdout == shown


def test_for_machines() -> None:
    told = json.loads(switchboard("explain", "--json", "-", stdin="set a.b = 'ü'; listen c").stdout)
    assert told == {"glance": False, "statements": [
        {"statement": "set a.b = 'ü'", "effect": "replayed", "why": "a.b = 'ü'"},
        {"statement": "listen c", "effect": "served", "why": "channel c"}]}
    assert json.loads(switchboard("explain", "--json", "select 1").stdout)["glance"]


def test_strings_of_old() -> None:
    assert "listen x" in switchboard("explain", r"select 'a\'; listen x; --'").stdout
    assert "served" not in switchboard("explain", "--old-strings", r"select 'a\'; listen x; --'").stdout


def test_arguments() -> None:
    assert switchboard("explain").returncode == 2
    assert "standard input" in switchboard("explain", "--help").stdout
