"""Why provisioning did not work, in the server's words with their SQLSTATE, and the exact GRANT that would help."""

from __future__ import annotations

import psycopg

from proxy.config.target import Credential, Target
from proxy.errors import ProxyError, UpstreamFault, UpstreamRefused


def fault_of(error: psycopg.Error, target: Target, who: Credential) -> ProxyError:
    """The server's own words; a connection that failed has only text."""
    found = error.diag
    if found.sqlstate and found.message_primary:
        return UpstreamRefused({"S": "ERROR", "C": found.sqlstate, "M": found.message_primary,
                                "D": found.message_detail or "", "H": found.message_hint or ""})
    # libpq's advice stands on lines of its own, behind a tab.
    text = [line for line in str(error).strip().splitlines() if not line.startswith("\t")]
    message = text[-1] if text else "unknown error"
    if "FATAL:" in message:
        message = message.split("FATAL:", 1)[1].strip()
    return UpstreamFault(message.removeprefix("connection failed: "),
                         detail=f'While provisioning database "{target.database}" as user "{who.user}".')


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def membership(fault: UpstreamRefused, who: Credential, owner: str | None) -> str | None:
    """The right that is missing is to make things for another role."""
    asked = "must be able to SET ROLE" in fault.message or "must be member of role" in fault.message
    return f"GRANT {quoted(owner)} TO {quoted(who.user)};" if owner is not None and asked else None


def with_remedy(fault: UpstreamRefused, who: Credential, owner: str | None, target: Target) -> UpstreamRefused:
    if fault.sqlstate == "42501":
        remedy = membership(fault, who, owner) or f"ALTER ROLE {quoted(who.user)} CREATEDB;"
        fault.fields["D"] = f'Database "{target.database}" is missing and user "{who.user}" may not create it.'
        fault.fields["H"] = (f"As an administrator: {remedy} Or create the database yourself, or set "
                             "switchboard.provisioning.credentials.")
    return fault
