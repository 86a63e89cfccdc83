"""AWS RDS IAM authentication: the password is a signed URL (SigV4), made here and valid for 15 minutes.

By botocore (extra `[rds]`), which finds AWS credentials as every AWS program does: environment, profile, container,
instance, web identity.  Backstage does the same with @aws-sdk/rds-signer.  AWS manual, "IAM database authentication".
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from typing import Any

from proxy.config.target import RdsToken, Secret
from proxy.errors import NoCredential
from proxy.tokens.token import Place, Token

LIFETIME = 15 * 60.0


async def provide(source: RdsToken, place: Place) -> Token:
    """Raises NoCredential.  In a thread: finding AWS credentials may ask the network."""
    now = time.time()
    secret = await asyncio.to_thread(sign, source.region, place.host, place.port, place.user)
    return Token(secret, now + LIFETIME)


def sign(region: str | None, host: str, port: int, user: str) -> Secret:
    """The token itself."""
    try:
        import botocore.exceptions
    except ImportError:
        raise NoCredential("connection.type rds needs the library botocore, which is not installed",
                           hint="pip install 'pg-switchboard[rds]'") from None
    # AWS_REGION counts first, as in Backstage; botocore itself only looks at AWS_DEFAULT_REGION and the profile.
    try:
        client = _client(region or os.environ.get("AWS_REGION"))
        return Secret(client.generate_db_auth_token(DBHostname=host, Port=port, DBUsername=user))
    except botocore.exceptions.NoRegionError:
        raise NoCredential("the AWS region of the RDS token is not known",
                           hint="Set connection.region or the environment variable AWS_REGION.") from None
    except botocore.exceptions.BotoCoreError as error:
        # The class tells what is wrong, and its text may quote what it was given.
        raise NoCredential(f"AWS credentials for the RDS token of {user} cannot be had: {type(error).__name__}",
                           hint="Give the proxy an AWS identity (AWS_PROFILE, AWS_ACCESS_KEY_ID, an instance or container role) "
                                "that may rds-db:connect as this user.") from None


@functools.lru_cache(maxsize=16)
def _client(region: str | None) -> Any:
    """One per region: making it reads megabytes of service descriptions."""
    import botocore.session

    return botocore.session.get_session().create_client("rds", region_name=region)
