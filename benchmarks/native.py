"""The C half: compiled on demand, run on the core that the proxy does not use."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import OTHER_CORE, Behind, Peer
from benchmarks.processes import found, output, pinned

HERE = Path(__file__).parent
BIN = HERE / "bin"

Answer = dict[str, float]         # what load.c prints: see `report` there


def program(name: str) -> str:
    """The path of a compiled program, newer than its sources."""
    sources = [HERE / f"{name}.c", HERE / "pgwire.h"]
    binary = BIN / name
    if not binary.exists() or binary.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        BIN.mkdir(exist_ok=True)
        output([os.environ.get("CC") or found("cc"), "-O2", "-Wall", "-Wextra", "-o", str(binary), str(sources[0])])
    return str(binary)


@contextlib.contextmanager
def fake_server(login_delay_ms: int = 0) -> Iterator[Behind]:
    command = pinned(OTHER_CORE, [program("fake_server"), "--login-delay", str(login_delay_ms)])
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        yield Behind(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _command(peer: Peer, **options: object) -> list[str]:
    command = [program("load"), "--port", str(peer.port)]
    for name, value in options.items():
        command += [f"--{name.rstrip('_')}", str(value)]
    return pinned(OTHER_CORE, command)


def load(peer: Peer, **options: object) -> Answer:
    """One run of the load client; options as in load.c."""
    answer: Answer = json.loads(output(_command(peer, **options)))
    return answer


@contextlib.contextmanager
def idle_clients(peer: Peer, clients: int) -> Iterator[Answer]:
    """Clients that have asked once and stay until the end of the block."""
    process = subprocess.Popen(_command(peer, do="idle", clients=clients), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the idle clients could not log in at {peer.name}")
        yield json.loads(line)
    finally:
        process.communicate()
