"""Mode `auto`: a client's bytes come in any pieces, also where its next connection has other settings than its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.raw import Raw, bind, execute, parse
from tests.servers import Daemon, daemon, until

DESCRIBE, SYNC = b"D\0\0\0\6P\0", b"S\0\0\0\4"
BATCH = parse("select 42") + bind() + DESCRIBE + execute() + SYNC


@pytest.fixture(scope="module")
def running(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with daemon(tmp_path_factory.mktemp("pieces"), base, auth={"method": "trust"}, users={"backstage": {}},
                pool={"mode": "auto", "size": 1}) as one:
        yield one


@pytest.mark.parametrize("cut", range(1, len(BATCH)))
def test_a_cut_anywhere(running: Daemon, cut: int) -> None:
    with Raw(running.port) as first, Raw(running.port) as second:
        first.enter()
        second.enter()
        second.ask("set work_mem to '9MB'")
        first.ask("set work_mem to '8MB'")
        second.ask("select 1")
        first.send(BATCH[:cut])
        if cut >= len(parse("select 42")):        # there is something to ask a server: wait until it has been boarded
            until(lambda: running.metric("switchboard_upstreams", plugin="catalog", state="active") == 1, "the lease")
        first.send(BATCH[cut:])
        assert [tag for tag, _ in first.until(b"Z")] == [b"1", b"2", b"T", b"D", b"C", b"Z"]
        assert first.shown("show work_mem") == "8MB"


def test_the_rest_is_a_goodbye(running: Daemon) -> None:
    with Raw(running.port) as first:
        first.enter()
        first.send(b"X\0\0")
        first.send(b"\0\4")
        assert first.closed()
