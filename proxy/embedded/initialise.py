"""initdb: a cluster with SCRAM and a random password for its superuser.

Into a folder of another name first: a kill in the middle must not leave something that looks like a cluster.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from proxy.embedded.owner import Owner, as_owner, write_private
from proxy.errors import OperatorFault


def initialise(state: Path, initdb: str, owner: Owner, environment: Mapping[str, str]) -> None:
    """Make `state`/data, and `state`/password for the user `postgres`.  Raises OperatorFault with initdb's last words."""
    fresh, hand = state / "data.new", state / "init"
    for folder in (fresh, hand):
        shutil.rmtree(folder, ignore_errors=True)
    word = secrets.token_urlsafe(24) + "\n"
    write_private(state / "password", word)
    hand.mkdir(mode=0o700)
    write_private(hand / "password", word)       # initdb reads it as the account that it runs as
    fresh.mkdir(mode=0o700)
    if owner is not None:
        for path in (fresh, hand / "password", hand):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    done = subprocess.run(
        [initdb, "-D", str(fresh), "-U", "postgres", "-E", "UTF8", "--locale=C",
         "--auth=scram-sha-256", f"--pwfile={hand / 'password'}", "--no-instructions"],
        capture_output=True, text=True, cwd="/", env=environment, check=False, **as_owner(owner))
    shutil.rmtree(hand, ignore_errors=True)
    if done.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise OperatorFault(f"initdb failed: {said[-1]}")
    fresh.rename(state / "data")
