"""app-config files, compared with the answers of Backstage's own loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config.configuration import read
from proxy.config.load import default_files, load
from proxy.errors import ConfigProblems

CASES = [json.loads(line) for line in (Path(__file__).parent / "golden/loader_golden.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_as_backstage_loads(case: dict[str, Any], tmp_path: Path) -> None:
    for name, text in case["files"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = case.get("env") or {}
    paths = [tmp_path / name for name in case.get("args") or ()] or default_files(tmp_path, environ)
    want = case["want"]
    if want.get("error"):
        # An empty file loads there too, and is refused when its first key is asked for; we ask in `read`.
        with pytest.raises(ConfigProblems, match="backend.database: is missing" if case["id"] == "file-empty" else None):
            read(paths, environ=environ)
        if case["id"] != "file-empty":
            with pytest.raises(ConfigProblems):
                load(paths, environ)
        return
    found = load(paths, environ).get("backend", "database")
    assert (found.plain() if found else None) == want.get("database")
