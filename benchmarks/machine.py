"""Where it ran: machine, kernel, versions, date."""

from __future__ import annotations

import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.peers import ROOT
from benchmarks.processes import found, output
from proxy import __version__
from proxy.embedded.cluster import find_binaries


def described() -> dict[str, str]:
    try:
        uvloop = version("uvloop")
    except PackageNotFoundError:
        uvloop = "none"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {_memory_gb()} GB, {_system()}, kernel {platform.release()}",
        "Switchboard": f"{__version__} ({_commit()}), Python {platform.python_version()}, uvloop {uvloop}",
        "PgBouncer": _first(output([found("pgbouncer", "PGBOUNCER"), "--version"])).removeprefix("PgBouncer "),
        "PostgreSQL": _first(output([str(find_binaries() / "postgres"), "--version"])).removeprefix("postgres (PostgreSQL) "),
        "pgbench": _first(output([found("pgbench"), "--version"])).removeprefix("pgbench (PostgreSQL) "),
    }


def _first(text: str) -> str:
    return text.splitlines()[0].strip()


def _cpu() -> str:
    found_name = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found_name[1] if found_name else platform.machine()


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _commit() -> str:
    try:
        return output([found("git"), "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]).strip()
    except SystemExit:
        return "no commit"
