"""The README's examples of shared connections: what they say is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, daemon

EXAMPLES = re.findall(r"^```sessions\n(.*?)^```", (Path(__file__).parent.parent / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def shared(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with daemon(tmp_path_factory.mktemp("readme"), base, auth={"method": "trust"}, users={"backstage": {}},
                pool={"mode": "auto", "size": 1, "query_wait_timeout": "20s"}) as running:
        yield running


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example(shared: Daemon, example: str) -> None:
    clients = {name: shared.connect("catalog", autocommit=True, cursor_factory=psycopg.ClientCursor) for name in "AB"}
    pids = {name: str(client.info.backend_pid) for name, client in clients.items()}
    for line in example.splitlines():
        if told := re.fullmatch(r"(.) is told of (\S+): (.*)", line):
            assert [(each.channel, each.payload) for each in clients[told[1]].notifies(timeout=20, stop_after=1)] == [told.groups()[1:]]
            continue
        name, _, rest = line.partition(": ")
        statement, _, expected = rest.partition("  →  ")
        for other, pid in pids.items():
            statement = statement.replace("{" + other + "}", pid)
        try:
            cursor = clients[name].execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            heard = "" if not row else str(row[0])[0].lower() if isinstance(row[0], bool) else str(row[0])
        except psycopg.Error as error:
            heard = f"ERROR {error.sqlstate}"
        if expected:
            assert heard == expected, line
        else:
            assert not heard.startswith("ERROR"), line
    for client in clients.values():
        client.close()
