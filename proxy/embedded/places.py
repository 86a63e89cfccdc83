"""Where things lie: the cluster's data, and its socket.

The name of a unix socket has at most 107 bytes on Linux and 103 on macOS (`sun_path` less its zero).  A state folder that is
deeper gets a folder for its socket elsewhere: made by mkdtemp, so that nobody's link can stand in its place, and remembered in
the state folder, so that a server left by a crash is found again.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from proxy.embedded.owner import Owner, write_private
from proxy.errors import OperatorFault

LONGEST = 107 if sys.platform.startswith("linux") else 103    # bytes


def state_dir(asked: str | None) -> Path:
    """Where the cluster lives: as asked, systemd's StateDirectory, or the user's state folder."""
    if asked:
        return Path(asked).expanduser()
    if os.environ.get("STATE_DIRECTORY"):
        return Path(os.environ["STATE_DIRECTORY"].split(":")[0]) / "postgres"
    if os.geteuid() == 0:
        return Path("/var/lib/switchboard/postgres")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "switchboard/postgres"


def fits(folder: Path, port: int) -> bool:
    """Is a socket in `folder` short enough?  PostgreSQL makes `.s.PGSQL.<port>` there."""
    return len(os.fsencode(folder / f".s.PGSQL.{port}")) <= LONGEST


def short_folder(state: Path, port: int, owner: Owner) -> Path:
    """A private folder for the socket of the cluster in `state`, the same one as long as it is there and the server's alone."""
    record = state / "socket_folder"
    uid = os.geteuid() if owner is None else owner.pw_uid
    if record.is_file() and not record.is_symlink():
        known = Path(record.read_text())
        if _private(known, uid) and fits(known, port):
            return known
    for base in _bases():
        try:
            made = Path(tempfile.mkdtemp(prefix="sb-", dir=base))      # 0700
        except OSError:
            continue
        if not fits(made, port):
            made.rmdir()
            continue
        if owner is not None:
            os.chown(made, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        write_private(record, str(made))
        return made
    raise OperatorFault(f"the path {state} is too long for a unix socket, and no shorter folder can be made for it",
                        hint="Set switchboard.embedded.state_dir to a shorter one, or XDG_RUNTIME_DIR to a folder of yours.")


def remove_short_folder(state: Path, folder: Path) -> None:
    """After a stop: the socket is gone, so the folder is empty; otherwise it stays."""
    try:
        folder.rmdir()
        (state / "socket_folder").unlink(missing_ok=True)
    except OSError:
        pass


def _bases() -> list[str]:
    mine = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    return [base for base in (mine, tempfile.gettempdir(), "/tmp") if base and os.path.isabs(base)]


def _private(folder: Path, uid: int) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700
