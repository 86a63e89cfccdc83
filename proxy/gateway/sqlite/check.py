"""`switchboard check` of a plugin in a SQLite file: is it there, may we read and write it and its folder, is it sound?"""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from proxy.config.target import Engine, Target
from proxy.pool.check import Finding


def check(target: Target) -> Finding:
    """Creating nothing."""
    shared = {"plugin": target.plugin, "target": str(target)}
    if target.engine is Engine.REJECTED:
        return Finding(ok=True, step="engine", note="not served, as switchboard.plugin.<id>.engine says", **shared)
    if target.filename is None:
        return Finding(ok=True, step="memory", note=f"in memory, SQLite {apsw.sqlite_lib_version()}", **shared)
    path = Path(target.filename).absolute()
    folder = next((each for each in path.parents if each.exists()), Path("/"))
    if not path.exists():
        return _missing(target, path, folder, shared)
    if not path.is_file():
        return Finding(ok=False, step="file", problem=f"{path} is no file", remedy="Correct `connection.filename` or `directory`.",
                       **shared)
    if not os.access(path, os.R_OK):
        return Finding(ok=False, step="rights", problem=f"{path} cannot be read", remedy=f"chmod u+r {path}, for the daemon's user.",
                       **shared)
    if not target.read_only and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)):
        what = path if not os.access(path, os.W_OK) else path.parent
        return Finding(ok=False, step="rights", problem=f"{what} cannot be written, nor the journal beside the file",
                       remedy=f"Give the daemon's user the right to write to it, or set switchboard.plugin.{target.plugin}.read_only.",
                       **shared)
    return _opened(target, path, shared)


def _missing(target: Target, path: Path, folder: Path, shared: dict[str, str]) -> Finding:
    if target.read_only or not target.ensure_exists:
        return Finding(ok=False, step="file", problem=f"{path} is not there",
                       remedy="Start the plugin, which makes it; or set ensureExists, and read_only to false.", **shared)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(ok=False, step="rights", problem=f"{path} is not there and cannot be made: {folder} cannot be written",
                       remedy="Give the daemon's user the right to write to it.", **shared)
    return Finding(ok=True, step="file", note="missing; it will be created on first use", **shared)


def _opened(target: Target, path: Path, shared: dict[str, str]) -> Finding:
    try:
        connection = apsw.Connection(f"file:{path.as_posix().replace('?', '%3f').replace('#', '%23')}?mode=ro",
                                     flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            tables = connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'").get
            mode = connection.pragma("journal_mode")
        finally:
            connection.close()
    except apsw.Error as error:
        return Finding(ok=False, step="open", problem=f"{path}: {error}", remedy="Is it a SQLite database, and whole?", **shared)
    rights = "read only, " if target.read_only else ""
    return Finding(ok=True, step="open", note=f"{rights}SQLite {apsw.sqlite_lib_version()}, {tables} tables, journal {mode}", **shared)
