"""What systemd sees: notifications on a real socket, sockets handed over, a watchdog; and what it says of the units."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.servers import ROOT, until

UNITS = ROOT / "systemd"


class Manager:
    """The service manager's side: a datagram socket and a listening socket."""

    def __init__(self, folder: Path) -> None:
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": str(folder / "notify")}
        self.said: list[str] = []

    def heard(self, word: str) -> bool:
        while True:
            try:
                self.said += self.notify.recv(4096).decode().splitlines()
            except BlockingIOError:
                return any(line.startswith(word) for line in self.said)


@contextmanager
def service(folder: Path, base: dict[str, Any], manager: Manager, *command: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / "app-config.yaml"
    config.write_text(yaml.safe_dump({"backend": {"database": base}, "switchboard": {
        "listen": ["127.0.0.1:0"], "metrics": {"listen": "off"}, "users": {"backstage": {"password": "s3cret"}}}}))
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen([*command, sys.executable, "-m", "proxy", "run", "--config", str(config)], cwd=ROOT, stdout=out,
                                   stderr=out, env={**os.environ, **manager.environment}, **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        manager.notify.close()


def test_notifications(base: dict[str, Any], tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    manager.environment["WATCHDOG_USEC"] = "200000"
    with service(tmp_path, base, manager) as process:
        until(lambda: manager.heard("READY=1"), "READY=1")
        assert any(line.startswith("STATUS=Serving ") for line in manager.said)
        until(lambda: manager.said.count("WATCHDOG=1") + manager.heard("WATCHDOG") >= 3, "the watchdog to be fed")
        manager.said.clear()
        process.send_signal(signal.SIGHUP)
        until(lambda: manager.heard("RELOADING=1") and manager.heard("READY=1"), "a reload")
        assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in manager.said)
        process.send_signal(signal.SIGTERM)
        until(lambda: manager.heard("STOPPING=1"), "STOPPING=1")
        assert process.wait(30) == 0


def test_sockets_are_taken_over(base: dict[str, Any], tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    # LISTEN_PID is the pid of the one who is meant: a shell says its own and becomes the daemon.
    os.set_inheritable(listening.fileno(), True)
    shell = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{listening.fileno()}'
    with service(tmp_path, base, manager, "bash", "-c", shell, "--", pass_fds=[listening.fileno()]):
        listening.close()
        until(lambda: manager.heard("READY=1"), "READY=1")
        with psycopg.connect(f"postgresql://backstage:s3cret@127.0.0.1:{port}/catalog") as connection:
            assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_units_verify(tmp_path: Path) -> None:
    """As installed: with the program where ExecStart says."""
    program = tmp_path / "switchboard"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS.glob("switchboard.so*"):
        (tmp_path / unit.name).write_text(unit.read_text())
    text = (UNITS / "switchboard.service").read_text().replace("/opt/switchboard/bin/switchboard", str(program))
    (tmp_path / "switchboard.service").write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / "switchboard.service"),
                           str(tmp_path / "switchboard.socket")], capture_output=True, text=True, check=False, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "switchboard" in line and "Failed to prepare" not in line]
    assert ours == [], done.stderr
