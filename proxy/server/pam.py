"""Asking PAM whether a password is a user's, by python-pam (extra `[pam]`).  Blocking: to be run in a thread.

As PostgreSQL's CheckPAMAuth (auth.c): pam_authenticate and pam_acct_mgmt of the rule's service, with the client's address
as PAM_RHOST.  No session is opened and no credentials are made: nobody logs in to this machine.
"""

from __future__ import annotations

import logging
from typing import Any

from proxy.errors import OperatorFault, ProxyError

log = logging.getLogger(__name__)
# Surely the service, not the password: it or a module cannot be opened, its own source is away (pam(3)).  PAM_SYSTEM_ERR
# and PAM_SERVICE_ERR are a plain no of some modules (pam_exec).
TROUBLE = frozenset({1, 2, 5, 9, 26, 28})
USUAL = frozenset({7, 10})   # PAM_AUTH_ERR, PAM_USER_UNKNOWN


def knows(service: str, user: str, password: str, address: str) -> bool:
    """Is this the user's password?  Raises ProxyError when PAM cannot tell."""
    import pam

    try:
        asked = pam.PamAuthenticator()
    except (OSError, AttributeError, TypeError) as error:
        raise _trouble(service, f"libpam cannot be used: {error}") from None
    asked.pam_start = _started_for(asked, address)
    if asked.authenticate(user, password, service, resetcreds=False):
        return True
    if asked.code in TROUBLE:
        raise _trouble(service, str(asked.reason))
    log.log(logging.DEBUG if asked.code in USUAL else logging.WARNING, "PAM said no",
            extra={"fields": {"service": service, "user": user, "reason": str(asked.reason)}})
    return False


def _started_for(asked: Any, address: str) -> Any:
    """pam_start, and where the user comes from: the library itself does not tell."""
    from pam import PAM_RHOST

    start, set_item = asked.pam_start, asked.pam_set_item

    def started(service: bytes, user: bytes, conversation: Any, handle: Any) -> int:
        code = int(start(service, user, conversation, handle))
        return code or int(set_item(handle._obj, PAM_RHOST, address.encode()))

    return started


def _trouble(service: str, reason: str) -> ProxyError:
    """The log is told why, the client only that: it is a stranger yet."""
    log.error("PAM authentication cannot be done", extra={"fields": {"service": service, "error": reason}})
    return OperatorFault("PAM could not be asked")
