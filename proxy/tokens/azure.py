"""Microsoft Entra ID: the password is an access token for Azure Database for PostgreSQL.

By azure-identity (extra `[azure]`), with the same three kinds of credential that Backstage chooses between.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from proxy.config.target import AzureToken, Secret
from proxy.errors import NoCredential
from proxy.tokens.token import Place, Token

SCOPE = "https://ossrdbms-aad.database.windows.net/.default"


async def provide(source: AzureToken, place: Place) -> Token:
    """Raises NoCredential.  In a thread: the library's own client waits for the network."""
    return await asyncio.to_thread(_fetch, source, place.user)


def _fetch(source: AzureToken, user: str) -> Token:
    try:
        from azure.core.exceptions import AzureError
    except ImportError:
        raise NoCredential("connection.type azure needs the library azure-identity, which is not installed",
                           hint="pip install 'pg-switchboard[azure]'") from None
    try:
        found = _credential(source).get_token(SCOPE)
    except (AzureError, ValueError) as error:
        # The class tells what is wrong; its text may quote what it was given.
        raise NoCredential(f"an Azure token for {user} cannot be had: {type(error).__name__}",
                           hint="Check connection.tokenCredential, or give the machine a managed identity that is a "
                                "Microsoft Entra administrator or role of the server.") from None
    return Token(Secret(found.token), float(found.expires_on))


@functools.lru_cache(maxsize=64)
def _credential(source: AzureToken) -> Any:
    """One per source: it keeps tokens and connections of its own."""
    from azure.identity import ClientSecretCredential, DefaultAzureCredential, ManagedIdentityCredential

    if source.client_id and source.tenant_id and source.client_secret:
        return ClientSecretCredential(source.tenant_id, source.client_id, source.client_secret.reveal())
    if source.client_id:
        return ManagedIdentityCredential(client_id=source.client_id)
    return DefaultAzureCredential()
