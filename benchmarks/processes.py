"""Processes: started on a core, watched through /proc, stopped by their id.

CPU is user plus system time in clock ticks of 10 ms: a round must last seconds for it to say something.  Linux only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
DEADLINE = 30.0                   # seconds until a server must be ready


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has used, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """The command, confined to one core; on a machine with one core as it is."""
    if core is None or (os.cpu_count() or 1) <= core:
        return list(command)
    return ["taskset", "-c", str(core), *command]


def found(name: str, override: str | None = None) -> str:
    """A program's path: the environment's override, else PATH with the sbin folders.  Raises SystemExit with what to install."""
    path = override and os.environ.get(override)
    path = path or shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise SystemExit(f"no {name} found: install it" + (f" or set {override}=" if override else ""))
    return path


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.01)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, core: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child with its output in a file; ended, by its id, on the way out."""
    with log.open("wb") as out:
        process = subprocess.Popen(pinned(core, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def output(command: Sequence[str], **environment: str) -> str:
    """What a program prints.  Raises SystemExit with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
