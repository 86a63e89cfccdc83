"""Is a target as it should be: reachable, TLS as asked, login, database, rights?  And if not, what to do about it."""

from __future__ import annotations

import dataclasses
import ssl
from dataclasses import dataclass

from proxy.config.settings import Settings
from proxy.config.target import Target
from proxy.errors import NoCredential, OperatorFault, ProxyError
from proxy.pool.provision import Provision
from proxy.pool.reach import Reach, Reached, goodbye
from proxy.pool.upstream import startup_parameters, take_role


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The first step that failed, or none.  `remedy` is what an operator does next."""

    plugin: str
    target: str
    ok: bool
    step: str
    problem: str = ""
    remedy: str = ""
    note: str = ""

    def as_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


REMEDIES = {
    "28P01": "Correct the user or password under `connection`.",
    "28000": "Allow this host and user in the server's pg_hba.conf, with TLS if it asks for it.",
    "3D000": "Create the database, or set ensureExists and a provisioning credential.",
    "42501": "Grant the right that is missing.",
    "53300": "The server is full: raise max_connections or lower switchboard.pool.size.",
    "08006": "Is the server up, and are host and port right?",
    "22023": "The role must exist, and the user be its member: GRANT role TO user;",
}


async def check(target: Target, settings: Settings) -> Finding:
    """Walk the steps of a first connection, creating nothing."""
    shared = {"plugin": target.plugin, "target": str(target)}
    if target.server is None or target.credential is None:
        return Finding(ok=True, step="embedded", note="served by our own PostgreSQL when the daemon runs", **shared)
    step = "connect"
    try:
        reached = await Reach().connect(target.server, target.credential, startup_parameters(target, frozenset()),
                                        settings.upstream)
        try:
            step = "role"
            if target.role:
                await take_role(reached.sock, target.role)
        finally:
            goodbye(reached.sock)
        return Finding(ok=True, step="login", note=_met(reached), **shared)
    except ProxyError as fault:
        if fault.sqlstate == "3D000" and target.ensure_exists and settings.provisioning.enabled:
            return await _could_be_created(target, settings, fault, shared)
        step = {"28P01": "login", "28000": "login", "3D000": "database"}.get(fault.sqlstate, step)
        if isinstance(fault, NoCredential):
            step = "password"
        elif isinstance(fault, OperatorFault):
            step = "login" if "password" in fault.message or "auth" in fault.message else "TLS"
        return Finding(ok=False, step=step, problem=fault.message,
                       remedy=fault.hint or REMEDIES.get(fault.sqlstate, "See the server's log."), **shared)


def _met(reached: Reached) -> str:
    """Whom we reached, and how."""
    words = [f"PostgreSQL {reached.welcome.parameters.get('server_version', '?')}"]
    if isinstance(reached.sock, ssl.SSLSocket):
        words.append(reached.sock.version() or "TLS")
    if reached.route.server.others:
        role = "" if reached.role is None else " (standby)" if reached.role.standby else " (primary)"
        words.append(f"{reached.route.host}:{reached.route.port}{role}")
    return ", ".join(words)


async def _could_be_created(target: Target, settings: Settings, missing: ProxyError, shared: dict[str, str]) -> Finding:
    work = Provision(settings)
    try:
        able = await work.may_create(target)
    except ProxyError as fault:
        return Finding(ok=False, step="provisioning", problem=fault.message,
                       remedy=fault.hint or REMEDIES.get(fault.sqlstate, ""), **shared)
    who = target.provisioner or target.credential
    if able:
        return Finding(ok=True, step="database", note="missing; it will be created on first use", **shared)
    return Finding(ok=False, step="provisioning", problem=missing.message,
                   remedy=f'ALTER ROLE "{who.user if who else ""}" CREATEDB;', **shared)
