"""Who the server runs as.  PostgreSQL refuses to be root: then it becomes `nobody`, an account that is there, never a new one."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

Owner = pwd.struct_passwd | None
"""None: the server runs as we do."""


def as_owner(owner: Owner) -> dict[str, Any]:
    """Arguments of subprocess that drop root's rights."""
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def reachable(folder: Path, owner: pwd.struct_passwd) -> bool:
    """May `owner` enter the folder, and all above it?"""
    for part in [folder, *folder.parents]:
        found = part.stat()
        mine = found.st_uid == owner.pw_uid and found.st_mode & 0o100
        if not (mine or found.st_mode & 0o001):
            return False
    return True


def write_private(path: Path, text: str) -> None:
    """A new file that only we read; a link that stands in its place is not followed."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
