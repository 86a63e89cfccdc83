"""Google Cloud SQL IAM authentication: the password is an OAuth token that may only log in to databases.

By google-auth (extra `[cloudsql]`), with the application default credentials of this process (Google manual, "Log in using
IAM database authentication").  Where an instance is, and whose certificate it has, its connectSettings say (Cloud SQL Admin
API).  The connection is direct and encrypted: the address must be one that the proxy's network reaches.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from proxy.config.target import CloudSqlToken, Secret, Server, SslMode
from proxy.errors import NoCredential
from proxy.tokens.token import Place, Token

LOGIN = "https://www.googleapis.com/auth/sqlservice.login"
ADMIN = "https://www.googleapis.com/auth/sqlservice.admin"
API = "https://sqladmin.googleapis.com"
TIMEOUT = 10.0
KINDS = {"PUBLIC": "PRIMARY", "PRIVATE": "PRIVATE"}        # Backstage's words, and the API's
HINT = ("Give the proxy application default credentials (GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account) "
        "with the roles cloudsql.client and cloudsql.instanceUser.")
T = TypeVar("T")


async def provide(source: CloudSqlToken, place: Place) -> Token:
    """Raises NoCredential.  In a thread: the library waits for the network."""
    return await asyncio.to_thread(_asked, _token, f"a Google token for {place.user}")


async def locate(source: CloudSqlToken, server: Server) -> Server:
    """`server` with the instance's address and authority.  Raises NoCredential."""
    settings = await asyncio.to_thread(_asked, lambda: _settings(source.instance), f"the address of {source.instance}")
    return settled(source, server, settings)


def settled(source: CloudSqlToken, server: Server, settings: dict[str, Any]) -> Server:
    """What connectSettings say, in our words."""
    name = str(settings.get("dnsName") or "").rstrip(".")
    if source.locate == "PSC":
        host = name
    else:
        found = {entry.get("type"): entry.get("ipAddress") for entry in settings.get("ipAddresses", ())}
        host = str(found.get(KINDS[source.locate or "PUBLIC"]) or "")
    if not host:
        raise NoCredential(f"Cloud SQL instance {source.instance} has no {source.locate} address",
                           hint="Set connection.ipAddressType to one that the instance has.")
    if server.tls.mode is not SslMode.DISABLE:
        return replace(server, host=host)                  # the operator's own TLS settings count
    authority = settings.get("serverCaCert", {}).get("cert")
    # An instance has an authority of its own, which vouches for nothing else; a shared one needs the name besides.
    shared = "CAS" in str(settings.get("serverCaMode", ""))
    return replace(server, host=host, tls=replace(
        server.tls, mode=SslMode.VERIFY_FULL if shared else SslMode.VERIFY_CA, ca=authority, server_name=name if shared else None))


def _asked(function: Callable[[], T], what: str) -> T:
    try:
        import google.auth.exceptions
        import requests
    except ImportError:
        raise NoCredential("connection.type cloudsql needs the library google-auth, which is not installed",
                           hint="pip install 'pg-switchboard[cloudsql]'") from None
    try:
        return function()
    except (google.auth.exceptions.GoogleAuthError, requests.RequestException, ValueError) as error:
        # The class tells what is wrong; its text may quote what it was given.
        raise NoCredential(f"{what} cannot be had: {type(error).__name__}", hint=HINT) from None


def _token() -> Token:
    from google.auth.transport.requests import Request

    credentials = _credentials(LOGIN)
    credentials.refresh(Request())
    expiry = credentials.expiry                            # naive, in UTC
    ends = expiry.replace(tzinfo=datetime.UTC).timestamp() if expiry is not None else time.time() + 300
    return Token(Secret(credentials.token), ends)


def _settings(instance: str) -> dict[str, Any]:
    from google.auth.transport.requests import AuthorizedSession

    project, _, rest = instance.rpartition(":")[0].rpartition(":")
    del rest                                               # the region
    name = instance.rpartition(":")[2]
    with AuthorizedSession(_credentials(ADMIN)) as session:  # type: ignore[no-untyped-call]
        answer = session.get(f"{API}/sql/v1beta4/projects/{project}/instances/{name}/connectSettings", timeout=TIMEOUT)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


@functools.lru_cache(maxsize=2)
def _credentials(scope: str) -> Any:
    import google.auth

    return google.auth.default(scopes=[scope])[0]
