"""Connection strings, compared with what pg-connection-string makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.config.connection_string import BadConnectionString, parse

LINES = [line for line in (Path(__file__).parent / "golden/pg_connection_string_golden.txt").read_text().splitlines()
         if line.startswith('"')]


@pytest.mark.parametrize("line", LINES)
def test_as_javascript_reads_it(line: str) -> None:
    text, length = json.JSONDecoder().raw_decode(line)
    rest = line[length:].strip()
    if rest.startswith("!!"):
        with pytest.raises(BadConnectionString):
            parse(text)
        return
    want = json.loads(rest.removeprefix("->"))
    assert {key: value for key, value in parse(text).items() if value is not None} == {
        key: value for key, value in want.items() if value is not None}
