"""Google Cloud SQL IAM authentication: the password is an OAuth token that may only log in to databases.

By google-auth (extra `[cloudsql]`), with the application default credentials of this process.  Google manual, "Log in
using IAM database authentication".
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import time
from typing import Any

from proxy.config.target import CloudSqlToken, Secret
from proxy.errors import NoCredential
from proxy.tokens.token import Place, Token

SCOPE = "https://www.googleapis.com/auth/sqlservice.login"


async def provide(source: CloudSqlToken, place: Place) -> Token:
    """Raises NoCredential.  In a thread: the library waits for the network."""
    return await asyncio.to_thread(_fetch, place.user)


def _fetch(user: str) -> Token:
    try:
        import google.auth.exceptions
        from google.auth.transport.requests import Request
    except ImportError:
        raise NoCredential("connection.type cloudsql needs the library google-auth, which is not installed",
                           hint="pip install 'pg-switchboard[cloudsql]'") from None
    try:
        credentials = _credentials()
        credentials.refresh(Request())
    except google.auth.exceptions.GoogleAuthError as error:
        # The class tells what is wrong; its text may quote what it was given.
        raise NoCredential(f"a Google token for {user} cannot be had: {type(error).__name__}",
                           hint="Give the proxy application default credentials (GOOGLE_APPLICATION_CREDENTIALS, or the "
                                "machine's service account) with the role cloudsql.instanceUser.") from None
    expiry = credentials.expiry                   # naive, in UTC
    ends = expiry.replace(tzinfo=datetime.UTC).timestamp() if expiry is not None else time.time() + 300
    return Token(Secret(credentials.token), ends)


@functools.lru_cache(maxsize=1)
def _credentials() -> Any:
    import google.auth

    return google.auth.default(scopes=[SCOPE])[0]
