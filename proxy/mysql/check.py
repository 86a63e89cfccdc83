"""`switchboard check` of a MySQL target: reachable, TLS as asked, login, database, rights; by our own login, without a driver."""

from __future__ import annotations

import ssl

from proxy.config.settings import Settings
from proxy.config.target import Target
from proxy.errors import NoCredential, OperatorFault, ProxyError
from proxy.mysql.pool import attributes
from proxy.mysql.provision import MysqlProvision, provisioner, remedy
from proxy.mysql.reach import MysqlReach, goodbye, parameters_of
from proxy.pool.check import Finding
from proxy.pool.provision import Provision
from proxy.pool.reach import Reached
from proxy.session.mysql_login import Wish

REMEDIES = {
    "28P01": "Correct the user or password under `connection`; the account must be allowed from this host.",
    "28000": "Allow this host and user at the server.",
    "3D000": "Create the database, or set ensureExists and a provisioning credential.",
    "53300": "The server is full: raise max_connections or lower switchboard.pool.size.",
    "08006": "Is the server up, and are host and port right?",
}
STEPS = {"28P01": "login", "28000": "login", "3D000": "database", "42501": "database"}


async def check(target: Target, settings: Settings) -> Finding:
    """Walk the steps of a first connection, creating nothing."""
    shared = {"plugin": target.plugin, "target": str(target)}
    assert target.server is not None
    assert target.credential is not None
    reach = MysqlReach()
    wish = Wish(database=target.database, attributes=attributes(target))
    try:
        reached = await reach.connect(target.server, target.credential, parameters_of(wish), settings.upstream)
        goodbye(reached.sock)
        return Finding(ok=True, step="login", note=_met(reached), **shared)
    except ProxyError as fault:
        if fault.sqlstate in ("3D000", "42501") and target.ensure_exists and settings.provisioning.enabled:
            return await _could_be_created(target, settings, fault, shared)
        step = "password" if isinstance(fault, NoCredential) else "TLS" if isinstance(fault, OperatorFault) and "TLS" in fault.message \
            else STEPS.get(fault.sqlstate, "connect")
        hint = fault.hint or (remedy(target, provisioner(target)) if fault.sqlstate == "42501" else None)
        return Finding(ok=False, step=step, problem=fault.message, remedy=hint or REMEDIES.get(fault.sqlstate, "See the server's log."),
                       **shared)


def _met(reached: Reached) -> str:
    version = reached.welcome.parameters["server_version"].removeprefix("5.5.5-")
    words = [version if "MariaDB" in version else f"MySQL {version}"]
    if isinstance(reached.sock, ssl.SSLSocket):
        words.append(reached.sock.version() or "TLS")
    return ", ".join(words)


async def _could_be_created(target: Target, settings: Settings, missing: ProxyError, shared: dict[str, str]) -> Finding:
    work = MysqlProvision(Provision(settings), MysqlReach())
    try:
        able = await work.may_create(target)
        there = await work.exists(target)
    except ProxyError as fault:
        return Finding(ok=False, step="provisioning", problem=fault.message,
                       remedy=fault.hint or REMEDIES.get(fault.sqlstate, ""), **shared)
    if able and not there:
        return Finding(ok=True, step="database", note="missing; it will be created on first use", **shared)
    return Finding(ok=False, step="provisioning", problem=missing.message, remedy=remedy(target, provisioner(target)), **shared)
