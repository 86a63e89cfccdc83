"""The statements of a real Backstage, recorded with pg, on the files that the same Backstage left with better-sqlite3."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.recorded import Player, Verdict, by_itself, counts, through_daemon
from tests.recording import HERE, Answer, Itself, restore

REASONS = {f"0A000 {what}" for what in (
    "FOR UPDATE and FOR SHARE", "function ts_rank_cd()", "a change inside of a query", "ANY of what is no parameter", "SHA2DIGEST",
    "LATERAL", "NOTIFY")}


def told(verdicts: Sequence[Verdict], what: str) -> str:
    return "\n".join(f"{one.plugin}: {' '.join(one.sql.split())}\n    {one.why}" for one in verdicts if one.what == what)


def test_the_gateway_answers_as_sqlite_does_or_refuses() -> None:
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:       # PostgreSQL's own user must get there
        Path(name).chmod(0o711)
        verdicts = through_daemon(Path(name))
    found = counts(verdicts)
    assert not told(verdicts, "differing")
    assert (found["statements"], found["differing"]) == (379, 0)
    assert found["equal"] + found["failed alike"] >= 353, found
    assert (f"{found['equal']} give what SQLite itself gives, {found['failed alike']} fail as they do there, {found['ran']} ask for"
            in (HERE.parent.parent / "README.md").read_text()), found
    assert found["equal with rows"] >= 266, found
    assert sum(found["reasons"].values()) <= 13, found["reasons"]
    assert {reason.removesuffix(" is not supported on a SQLite file") for reason in found["reasons"]} <= REASONS


def test_the_player_finds_sqlite_equal_to_itself(tmp_path: Path) -> None:
    """Two statements tell a time as text, to PostgreSQL alone: SQLite holds no text for later than a number."""
    verdicts = by_itself(tmp_path)
    found = counts(verdicts)
    assert all('"created" >= $' in one.sql for one in verdicts if one.what == "differing"), told(verdicts, "differing")
    assert (found["differing"], found["equal"] + found["failed alike"] > 320) == (2, True)


@pytest.mark.parametrize("lie", ["a row less", "another value", "another name", "a write that is not done"])
def test_the_player_finds_a_lie(tmp_path: Path, lie: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        restore(tmp_path / name)
    itself, liar = Itself(tmp_path / "a"), Itself(tmp_path / "b")

    def ask(plugin: str, sql: str, parameters: Sequence[Any]) -> Answer:
        if lie == "a write that is not done" and sql.startswith("update"):
            return Answer([], [], liar(plugin, sql, parameters).written if plugin == "auth" else -1)
        answer = liar(plugin, sql, parameters)
        if not sql.startswith("select \"name\""):
            return answer
        columns = ["nom" for _ in answer.columns] if lie == "another name" else answer.columns
        rows = answer.rows[1:] if lie == "a row less" else [("other",) for _ in answer.rows] if lie == "another value" else answer.rows
        return Answer(columns, rows, answer.written)

    try:
        assert counts(Player(ask, itself).play())["differing"] > 0
    finally:
        itself.close()
        liar.close()


def test_nothing_private_is_recorded() -> None:
    for path in (*HERE.glob("*.jsonl"), *(HERE / "files").glob("*.sql")):
        text = path.read_text()
        assert not any(word in text for word in ("eyJ", '"d":"', str(HERE), "/home/", "/root/", "/tmp/")), path
