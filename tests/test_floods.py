"""Too much of everything: no file left, sockets that say half a word, queues that nobody leaves."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

from proxy.wire.messages import query
from tests.raw import Raw
from tests.servers import Daemon, daemon, until

TRUST: dict[str, Any] = {"auth": {"method": "trust"}, "users": {"backstage": {}}}


def seconds_of_cpu(running: Daemon) -> float:
    words = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_without_files_accepting_pauses_and_nothing_spins(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, **TRUST) as running, Raw(running.port) as early:
        early.enter()
        early.ask("select 1")
        pid = running.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 5, hard))
        began = seconds_of_cpu(running)
        crowd = [Raw(running.port) for _ in range(40)]
        running.logged("level=error msg=\"cannot accept a connection\" error=\"Too many open files\"")
        until(lambda: running.log.count("cannot accept a connection") >= 3, "three tries")
        assert running.log.count("cannot accept a connection") < 10
        assert seconds_of_cpu(running) - began < 0.5
        assert early.shown("select 'served'") == "served"
        for raw in crowd:
            raw.sock.close()
        with Raw(running.port) as late:
            late.enter()                      # in the listening queue until there is room
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert late.shown("select 1") == "1"


def test_half_a_message_holds_no_upstream(base: dict[str, Any], tmp_path: Path) -> None:
    """Slow senders, transaction mode: one connection serves those who have something to say."""
    with daemon(tmp_path, base, **TRUST, pool={"mode": "transaction", "size": 1}) as running:
        slow = [Raw(running.port) for _ in range(20)]
        for number, raw in enumerate(slow):
            raw.enter()
            raw.send(query("select 'slow'")[:1 + number % 10])
        with Raw(running.port) as quick:
            quick.enter()
            assert quick.shown("select 'quick'") == "quick"
        for number, raw in enumerate(slow):
            raw.send(query("select 'slow'")[1 + number % 10:])
            assert dict(raw.until(b"Z"))[b"D"][6:] == b"slow"
            raw.sock.close()


def test_a_flood_of_connects_that_say_nothing(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, **TRUST, max_clients=200) as running, Raw(running.port) as early:
        early.enter()
        for _ in range(3):
            crowd = [Raw(running.port) for _ in range(150)]
            assert early.shown("select 'served'") == "served"
            for raw in crowd:
                raw.sock.close()
        with Raw(running.port) as late:
            late.enter()
        until(lambda: running.metric("switchboard_clients") == 1, "the flood to be over")
        assert len(running.log.splitlines()) < 20
