"""Databases and schemas come to exist here, once, by the provisioning credential.

`ensure` is asked before every dial and answers at once for a target that was seen to exist.  Within the process it is
single flight; between processes the server decides: 42P04, and 23505 on pg_database_datname_index, mean that another was
faster (PostgreSQL has no CREATE DATABASE IF NOT EXISTS), 55006 that a template is busy.  Always from template0: nobody is
ever connected to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql

from proxy.config.settings import Settings
from proxy.config.target import Credential, Engine, Server, Target
from proxy.errors import NotSupported, ProxyError, UpstreamFault, UpstreamRefused
from proxy.net.tasks import keep
from proxy.pool.administer import administer, to_its_end
from proxy.pool.budget import Budget
from proxy.pool.reach import Reach, goodbye
from proxy.pool.remedies import fault_of, membership, quoted, with_remedy
from proxy.pool.tally import Histogram
from proxy.tokens.mint import Mint

log = logging.getLogger(__name__)
EXISTS = {"42P04", "23505", "42P06"}
TURNED_AWAY = {"28P01", "28000", "42501", "3D000"}       # no such login, no right, no maintenance database
TRIES = 5
Place = tuple[str, str, str | None]


class Provision:
    """`budget_of`: of a target's server.  What clients ask for is an errand there; a dial's own questions have the dial's place."""

    def __init__(self, settings: Settings, mint: Mint | None = None,
                 budget_of: Callable[[Target], Budget | None] = lambda target: None) -> None:
        self.settings = settings
        self.budget_of = budget_of
        self.mint = mint or Mint()
        self.outcomes: Counter[tuple[str, str]] = Counter()      # (plugin, outcome)
        self.time = Histogram()
        self._known: set[Place] = set()
        self._flights: dict[Place, asyncio.Task[None]] = {}

    async def ensure(self, target: Target) -> None:
        """Return when the target's database (and schema) exists, or raise what its client is to be told."""
        place = _place(target)
        if place in self._known:
            return
        if target.server is None or not self.settings.provisioning.enabled or not (
                target.ensure_exists or (target.schema and target.ensure_schema_exists)):
            self._known.add(place)            # it is the operator's: a missing one is the server's to tell (3D000)
            return
        flight = self._flights.get(place)
        if flight is None:
            flight = self._flights[place] = keep(self._ensure(target), name=f"provision {target.plugin}")
            flight.add_done_callback(lambda _: self._flights.pop(place, None))
        await asyncio.shield(flight)

    def forget(self, target: Target) -> None:
        """It was dropped behind our back: look again next time."""
        self._known.discard(_place(target))

    async def _ensure(self, target: Target) -> None:
        began = asyncio.get_running_loop().time()
        outcome = "failed"
        try:
            async with asyncio.timeout(self.settings.provisioning.timeout or None):
                made = False
                try:
                    if target.ensure_exists and not await self._exists(target):
                        made = await self._create_database(target)
                    if target.schema and target.ensure_schema_exists:
                        made |= await self._create_schema(target)
                except ProxyError as fault:
                    if fault.sqlstate not in TURNED_AWAY or not await self._seen_by_itself(target):
                        raise
            outcome = "created" if made else "existed"
            self._known.add(_place(target))
            if made:
                log.info("provisioned", extra={"fields": {"plugin": target.plugin, "target": str(target)}})
        except TimeoutError:
            raise UpstreamFault(f'provisioning of database "{target.database}" took too long') from None
        except ProxyError as fault:
            outcome = "refused" if fault.sqlstate == "42501" else "failed"
            log.warning("provisioning failed", extra={"fields": {
                "plugin": target.plugin, "target": str(target), "sqlstate": fault.sqlstate, "error": fault.message}})
            raise
        finally:
            self.outcomes[target.plugin, outcome] += 1
            self.time.observe(asyncio.get_running_loop().time() - began)

    async def _seen_by_itself(self, target: Target) -> bool:
        """Where the provisioning credential is turned away, the plugin's own may still find all that it needs: who may not create
        databases makes sure that they are there, says Backstage's guide."""
        if target.server is None or target.credential is None:
            return False
        try:
            async with to_its_end(await administer(target.server, target.credential, target.database, self.settings.upstream,
                                                   self.mint)) as connection:
                return target.schema is None or not target.ensure_schema_exists or await _schema_exists(connection, target)
        except (psycopg.Error, ProxyError):
            return False

    async def exists(self, target: Target) -> bool:
        """Is the target's database there?  True answers come from the server that the target names."""
        async with self._in_time(target):
            return await self._exists(target)

    async def _exists(self, target: Target) -> bool:
        async with self._admin(target) as connection:
            found = await (await connection.execute(
                "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (target.database,))).fetchone()
            return found is not None

    async def may_create(self, target: Target) -> bool:
        """Has the provisioning credential the right to create databases?"""
        async with self._admin(target) as connection:
            found = await (await connection.execute(
                "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")).fetchone()
            return bool(found and found[0])

    async def create(self, target: Target) -> None:
        """CREATE DATABASE asked for by a client: an existing one is an error (42P04), as it is in PostgreSQL."""
        if not self.settings.provisioning.enabled:
            raise NotSupported("provisioning is switched off", hint="See switchboard.provisioning.enabled.")
        async with self._in_time(target):
            if await self._exists(target) or not await self._create_database(target):
                raise UpstreamRefused({"S": "ERROR", "C": "42P04", "M": f'database "{target.database}" already exists'})
        self.outcomes[target.plugin, "created"] += 1
        self._known.discard(_place(target))

    async def has_schema(self, target: Target) -> bool:
        """Is the target's schema there?  A missing database holds none."""
        async with self._in_time(target):
            if not await self._exists(target):
                return False
            async with self._admin(target, target.database) as connection:
                return await _schema_exists(connection, target)

    async def create_schema(self, target: Target) -> bool:
        """CREATE SCHEMA IF NOT EXISTS asked for by a client, in a database that is made if need be; was it us?"""
        if not self.settings.provisioning.enabled:
            raise NotSupported("provisioning is switched off", hint="See switchboard.provisioning.enabled.")
        async with self._in_time(target):
            if not await self._exists(target):
                await self._create_database(target)
            if not await self._create_schema(target):
                return False
        self.outcomes[target.plugin, "created"] += 1
        return True

    @asynccontextmanager
    async def _in_time(self, target: Target) -> AsyncIterator[None]:
        budget = self.budget_of(target)
        try:
            async with asyncio.timeout(self.settings.provisioning.timeout or None), AsyncExitStack() as stack:
                if budget is not None:
                    await stack.enter_async_context(budget.errand())
                yield
        except TimeoutError:
            raise UpstreamFault(f'provisioning of database "{target.database}" took too long') from None

    async def _create_database(self, target: Target) -> bool:
        """True if it was us."""
        who = _provisioner(target)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(target.database))
        owner = _owner(target, who)
        if owner is not None:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        for attempt in range(TRIES):
            try:
                async with self._admin(target) as connection:
                    await connection.execute(statement)
                    if target.engine is Engine.MEMORY:      # it is emptied at the next start: nobody waits for its disk
                        await connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(
                            sql.Identifier(target.database)))
                return True
            except UpstreamRefused as fault:
                if fault.sqlstate in EXISTS:
                    return False
                if fault.sqlstate != "55006" or attempt == TRIES - 1:
                    raise with_remedy(fault, who, owner, target) from None
                await asyncio.sleep(0.1 * (attempt + 1))
        return False

    async def _create_schema(self, target: Target) -> bool:
        who = _provisioner(target)
        assert target.schema is not None
        name = sql.Identifier(target.schema)
        owner = _owner(target, who)
        try:
            async with self._admin(target, target.database) as connection:
                if await _schema_exists(connection, target):
                    return False
                statement = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name)
                if owner is not None:
                    statement += sql.SQL(" AUTHORIZATION {}").format(sql.Identifier(owner))
                await connection.execute(statement)
                return True
        except UpstreamRefused as fault:
            if fault.sqlstate in EXISTS:
                return False
            if fault.sqlstate == "42501":
                remedy = membership(fault, who, owner) or (
                    f"GRANT CREATE ON DATABASE {quoted(target.database)} TO {quoted(who.user)};")
                fault.fields["H"] = f"As an administrator: {remedy}"
            raise

    @asynccontextmanager
    async def _admin(self, target: Target, database: str | None = None) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        assert target.server is not None
        who = _provisioner(target)
        name = database or self.settings.provisioning.maintenance_database
        try:
            connecting = await administer(target.server, who, name, self.settings.upstream, self.mint)
        except psycopg.Error as error:
            raise await self._refusal(fault_of(error, target, who), target.server, who, name) from None
        try:
            async with to_its_end(connecting) as connection:
                yield connection
        except psycopg.Error as error:
            raise fault_of(error, target, who) from None

    async def _refusal(self, fault: ProxyError, server: Server, who: Credential, database: str) -> ProxyError:
        """libpq tells no SQLSTATE of a connection that failed, and the server's text may be in any language: whether it is away or
        will not have us, our own login asks."""
        try:
            reached = await Reach(self.mint).connect(server, who, {"database": database}, self.settings.upstream)
        except ProxyError as own:
            own.detail = own.detail or fault.detail
            if isinstance(own, UpstreamRefused):
                own.fields["D"] = own.detail or ""
            return own
        goodbye(reached.sock)
        return fault


async def _schema_exists(connection: psycopg.AsyncConnection[Any], target: Target) -> bool:
    found = await connection.execute("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s", (target.schema,))
    return await found.fetchone() is not None


def _place(target: Target) -> Place:
    return str(target.server), target.database, target.schema


def _provisioner(target: Target) -> Credential:
    who = target.provisioner or target.credential
    assert who is not None
    return who


def _owner(target: Target, who: Credential) -> str | None:
    """Whose the new thing is: the plugin's role or user, when that is not the one who creates."""
    owner = target.role or (target.credential.user if target.credential is not None else None)
    return owner if owner != who.user else None
