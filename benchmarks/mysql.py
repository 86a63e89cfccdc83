"""The MySQL relay: capacity and CPU on one core, a C client and a C server on the other; beside it the PostgreSQL relay of the
same daemon in session mode, on the same machine in the same minutes.

There is no other MySQL proxy to compare with in Debian (ProxySQL and MaxScale are not packaged): the bar is our own relay.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.native import fake_server, load, program
from benchmarks.peers import OTHER_CORE, PROXY_CORE, ROOT, Behind, Peer, Setup, switchboard
from benchmarks.plan import Plan
from benchmarks.processes import output, pinned, running, until
from benchmarks.rounds import Row, Sample, interleave


def run(plan: Plan) -> Iterator[Row]:
    clients = plan.clients_or(16, 64)
    with (_server() as mysql, _proxy(plan.folder / "mysql", mysql) as ours, fake_server() as postgres,
          switchboard(plan.folder / "postgres", postgres, Setup(mode="session", size=max(clients))) as other):
        for count in clients:
            row = Row("mysql", f"{count} clients", "queries/s")
            yield interleave(row, [ours, other], plan.rounds, lambda peer, count=count: _measure(peer, plan, count))


def _measure(peer: Peer, plan: Plan, clients: int) -> Sample:
    if peer.name == "mysql":
        command = [program("mysql_pair"), "load", "--port", str(peer.port), "--clients", str(clients), "--seconds", str(plan.seconds),
                   "--warmup", "0.3"]
        told = json.loads(output(pinned(OTHER_CORE, command)))
    else:
        told = load(peer, shape="simple", clients=clients, seconds=plan.seconds, warmup=0.3)
    return Sample(told["per_second"], told["queries"] * (told["seconds"] + 0.3) / told["seconds"])


@contextlib.contextmanager
def _server() -> Iterator[Behind]:
    process = subprocess.Popen(pinned(OTHER_CORE, [program("mysql_pair"), "serve"]), stdout=subprocess.PIPE)
    try:
        assert process.stdout
        yield Behind(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def _proxy(folder: Path, behind: Behind) -> Iterator[Peer]:
    folder.mkdir(parents=True)
    connection = {"host": "127.0.0.1", "port": behind.port, "user": behind.user, "password": behind.password}
    settings = {"listen": ["127.0.0.1:0"], "mysql": {"listen": ["127.0.0.1:0"]}, "metrics": {"listen": "off"},
                "provisioning": {"enabled": False}, "users": {"bench": {"method": "trust"}}, "pool": {"size": 64}}
    config = folder / "app-config.yaml"      # JSON is YAML
    config.write_text(json.dumps({"backend": {"database": {"client": "mysql2", "connection": connection}}, "switchboard": settings}))
    log = folder / "log"
    command = [sys.executable, "-m", "proxy", "run", "--config", str(config)]
    with contextlib.chdir(ROOT), running(command, log, PROXY_CORE) as process:
        until(lambda: "msg=ready" in log.read_text() or process.poll() is not None, "Switchboard")
        ready = re.search(r"msg=ready .*? mysql=\S*?127\.0\.0\.1:(\d+)", log.read_text())
        if not ready:
            raise SystemExit(f"Switchboard did not start:\n{log.read_text()}")
        yield Peer("mysql", int(ready[1]), process.pid)
