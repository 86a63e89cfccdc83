"""Logins that PAM judges: the machine's own libpam with services of the test's, asked through the daemon by real clients.

Nothing is written to /etc/pam.d: the daemon loads a copy of libpam whose folder of services is another one.
"""

from __future__ import annotations

import os
import random
import shutil
import string
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from proxy.config.rule import Rule
from tests import certificates
from tests.servers import Daemon, daemon

JUDGE = """#!/bin/sh
word=$(tr -d '\\0')
echo "$PAM_TYPE $PAM_SERVICE $PAM_USER $PAM_RHOST" >>"$(dirname "$0")/asked"
case "$PAM_TYPE $PAM_USER" in
  "account expired") exit 1 ;;
  "account "*) exit 0 ;;
  "auth slow") exec sleep 600 ;;
esac
[ "$word" = "pässwörd of $PAM_USER" ]
"""
SERVICES = {
    "exec": "auth required pam_exec.so quiet expose_authtok {0}/judge\naccount required pam_exec.so quiet {0}/judge\n",
    "permit": "auth required pam_permit.so\naccount required pam_permit.so\n",
    "deny": "auth required pam_deny.so\naccount required pam_permit.so\n",
    "broken": "auth required pam_no_such_module.so\naccount required pam_permit.so\n",
    "halfway": "auth required pam_permit.so\naccount required pam_deny.so\n"}


def libpam() -> Path | None:
    if sys.platform != "linux" or find_library("pam") is None:
        return None
    for folder in Path("/").glob("usr/lib*"):
        for found in (*folder.glob("libpam.so.0"), *folder.glob("*-linux-gnu/libpam.so.0")):
            modules = found.parent / "security"
            if all((modules / f"pam_{name}.so").exists() for name in ("exec", "permit", "deny")):
                return found
    return None


pytestmark = pytest.mark.skipif(libpam() is None, reason="no libpam with pam_exec on this machine")


@pytest.fixture(scope="module")
def services() -> Iterator[Path]:
    """A folder of services, and in it a libpam that looks there: its path is as long as that of /etc/pam.d."""
    whole = libpam()
    assert whole is not None
    folder = Path("/tmp/" + "".join(random.choices(string.ascii_lowercase, k=5)))
    folder.mkdir(mode=0o700)
    assert len(str(folder)) == len("/etc/pam.d")
    try:
        for name, text in SERVICES.items():
            (folder / name).write_text(text.format(folder))
        (folder / "judge").write_text(JUDGE)
        (folder / "judge").chmod(0o700)
        (folder / "lib").mkdir()
        (folder / "lib/libpam.so.0").write_bytes(whole.resolve().read_bytes().replace(b"/etc/pam.d", str(folder).encode()))
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def judged(services: Path, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("judged")
    certificates.make(folder)
    lines: list[dict[str, Any]] = [{"plugins": name, "method": "pam", "pamservice": name} for name in (*SERVICES, "missing")]
    users: dict[str, Any] = {"*": {"maintenance": False}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", f"{services}/lib:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"))
        with daemon(folder, base, listen=["127.0.0.1:0", str(folder)], users=users, tls={"certificate": str(folder / "server.pem")},
                    auth={"rules": lines, "throttle_failures": 0, "ask_timeout": "1s"}) as running:
            yield running
            assert "pässwörd" not in running.log
            assert "CANARY" not in running.log


def enter(running: Daemon, plugin: str, user: str, password: str, **more: str) -> None:
    words = {"host": "127.0.0.1", "port": str(running.port), "sslmode": "require", **more}
    with psycopg.connect(" ".join(f"{key}={value}" for key, value in words.items()), dbname=plugin, user=user,
                         password=password) as connection:
        assert connection.execute("select current_database()").fetchone() == (f"backstage_plugin_{plugin}",)


def refused(running: Daemon, plugin: str, user: str, password: str, words: str, **more: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=words):
        enter(running, plugin, user, password, **more)


def test_right_and_wrong(judged: Daemon, services: Path) -> None:
    for user in ("alice", "Bob", "o'brien $(id)"):
        enter(judged, "exec", user, f"pässwörd of {user}", require_auth="password")
        refused(judged, "exec", user, "CANARY", 'FATAL: +PAM authentication failed for user "')
    asked = (services / "asked").read_text().splitlines()
    assert asked[:3] == ["auth exec alice 127.0.0.1", "account exec alice 127.0.0.1", "auth exec alice 127.0.0.1"]
    enter(judged, "exec", "alice", "pässwörd of alice", host=str(judged.folder), port="6432", sslmode="disable")
    assert (services / "asked").read_text().splitlines()[-1] == "account exec alice [local]"


def test_accounts_count_too(judged: Daemon) -> None:
    refused(judged, "exec", "expired", "pässwörd of expired", "PAM authentication failed")
    refused(judged, "halfway", "alice", "anything", "PAM authentication failed")


def test_services(judged: Daemon) -> None:
    enter(judged, "permit", "alice", "anything")
    refused(judged, "deny", "alice", "anything", 'PAM authentication failed for user "alice"')


@pytest.mark.parametrize(("plugin", "user"), [("broken", "alice"), ("missing", "alice"), ("exec", "slow")])
def test_services_that_cannot_tell(judged: Daemon, plugin: str, user: str) -> None:
    """Whether PAM tells a missing module from a wrong password is its own business; nobody is let in, and the log knows."""
    refused(judged, plugin, user, "CANARY", "PAM could not be asked|PAM authentication failed")
    judged.logged("no answer in time.* method=pam" if user == "slow" else f"PAM.* service={plugin}")
    enter(judged, "exec", "alice", "pässwörd of alice")


def test_the_password_goes_over_tls_or_a_unix_socket_only(judged: Daemon) -> None:
    refused(judged, "permit", "alice", "CANARY", "over TLS or a unix socket only", sslmode="disable")


@pytest.mark.parametrize(("line", "words"), [
    ({"method": "pam", "type": "hostnossl"}, "would show passwords"), ({"method": "md5", "pamservice": "x"}, "pamservice is for"),
    ({"method": "pam", "pamservice": "../x"}, "pattern"), ({"method": "pam", "ldapserver": "x"}, "ldapserver is for method ldap")])
def test_mistakes(line: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Rule.model_validate(line)
