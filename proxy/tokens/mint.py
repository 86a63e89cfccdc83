"""What to log in with: the configured password, a fresh token, or the password file.

Tokens are kept until they end and replaced **ahead** of that, in the background, while the old one still works; whoever
asks first makes one and the others wait for it (single flight).  A provider that fails is left alone for a moment, and what
it said is told to everybody meanwhile.  A token that a server refused is thrown away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from proxy.config import pgpass
from proxy.config.target import AzureToken, CloudSqlToken, Credential, PasswordCommand, RdsToken, Server, TokenSource
from proxy.errors import NoCredential
from proxy.net.tasks import keep
from proxy.tokens import azure, cloudsql, command, rds
from proxy.tokens.token import Place, Token

log = logging.getLogger(__name__)
AHEAD = 300.0               # seconds before its end; half its life for a token that lives shorter
LOCATED = 300.0             # seconds for which the address of an instance is believed
PATIENCE = 1.0              # seconds before a provider that failed is asked again
MAX_KEPT = 1000
KINDS = {PasswordCommand: "command", RdsToken: "rds", AzureToken: "azure", CloudSqlToken: "cloudsql"}
# What these write at level debug holds signatures and answers, and so the tokens themselves.
for talkative in ("botocore", "azure", "msal", "google", "urllib3"):
    logging.getLogger(talkative).setLevel(logging.WARNING)
Provider = Callable[[TokenSource, Place], Awaitable[Token]]
Key = tuple[TokenSource, Place]


async def provide(source: TokenSource, place: Place) -> Token:
    """Ask whoever makes this kind.  Raises NoCredential."""
    match source:
        case PasswordCommand():
            return await command.provide(source, place)
        case RdsToken():
            return await rds.provide(source, place)
        case AzureToken():
            return await azure.provide(source, place)
        case CloudSqlToken():
            return await cloudsql.provide(source, place)


@dataclass(slots=True)
class _Kept:
    token: Token | None = None
    renew_at: float = 0.0
    flight: asyncio.Task[Token] | None = None
    fault: NoCredential | None = None
    patience: float = 0.0


class Mint:
    def __init__(self, provider: Provider = provide, clock: Callable[[], float] = time.time,
                 locator: Callable[[CloudSqlToken, Server], Awaitable[Server]] = cloudsql.locate) -> None:
        self.provider = provider
        self.clock = clock
        self.locator = locator
        self.outcomes: Counter[tuple[str, str]] = Counter()     # (kind, made or failed)
        self._kept: dict[Key, _Kept] = {}
        self._located: dict[tuple[CloudSqlToken, Server], tuple[float, Server]] = {}

    async def fill(self, who: Credential, host: str, port: int, database: str) -> Credential:
        """`who` with a password, if there is one to be had.  Raises NoCredential."""
        if who.source is not None:
            token = await self.token(who.source, Place(host, port, database, who.user))
            return replace(who, password=token.secret)
        if who.password is None:
            return replace(who, password=pgpass.lookup(host, port, database, who.user))
        return who

    async def locate(self, server: Server, who: Credential) -> Server:
        """Where a server that has only a name with its cloud really is, asked anew every LOCATED seconds."""
        source = who.source
        if not isinstance(source, CloudSqlToken) or source.locate is None:
            return server
        until, found = self._located.get((source, server), (0.0, server))
        if self.clock() >= until:
            found = await self.locator(source, server)
            self._located[source, server] = (self.clock() + LOCATED, found)
        return found

    async def token(self, source: TokenSource, place: Place) -> Token:
        """One that works now."""
        now = self.clock()
        kept = self._find(source, place)
        token = kept.token
        if token is not None and now < token.expires:
            if now >= kept.renew_at and kept.flight is None and now >= kept.patience:
                self._fly(kept, source, place)        # the old one serves meanwhile
            token.reused = True
            return token
        if kept.flight is None:
            if kept.fault is not None and now < kept.patience:
                raise NoCredential(kept.fault.message, detail=kept.fault.detail, hint=kept.fault.hint)
            self._fly(kept, source, place)
        assert kept.flight is not None
        return await asyncio.shield(kept.flight)

    def spoil(self, who: Credential, host: str, port: int, database: str) -> bool:
        """A server refused the token that `who` was filled with.  Is a newer one to be had?"""
        if who.source is None:
            return False
        kept = self._find(who.source, Place(host, port, database, who.user))
        token = kept.token
        if token is None or token.secret != who.password:
            return True                       # somebody else has thrown it away already
        kept.token = None
        return token.reused                   # a new one would be refused for the same reason as this new one

    def _find(self, source: TokenSource, place: Place) -> _Kept:
        key = (source, replace(place, database="") if isinstance(source, RdsToken | AzureToken | CloudSqlToken) else place)
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept = {key: kept for key, kept in self._kept.items() if kept.flight is not None}
            kept = self._kept[key] = _Kept()
        return kept

    def _fly(self, kept: _Kept, source: TokenSource, place: Place) -> None:
        kept.flight = keep(self._make(kept, source, place), name="token")

    async def _make(self, kept: _Kept, source: TokenSource, place: Place) -> Token:
        try:
            token = await self.provider(source, place)
        except NoCredential as fault:
            kept.fault, kept.patience = fault, self.clock() + PATIENCE
            self.outcomes[KINDS[type(source)], "failed"] += 1
            log.warning("no token", extra={"fields": {"user": place.user, "server": f"{place.host}:{place.port}",
                                                      "error": fault.message}})
            raise
        finally:
            kept.flight = None
        now = self.clock()
        self.outcomes[KINDS[type(source)], "made"] += 1
        ahead = source.ahead if isinstance(source, AzureToken) else AHEAD
        kept.token, kept.fault = token, None
        kept.renew_at = token.expires - min(ahead, (token.expires - now) / 2)
        return token
