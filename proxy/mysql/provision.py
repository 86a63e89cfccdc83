"""MySQL databases come to exist here, once, by the provisioning credential: CREATE DATABASE IF NOT EXISTS, as Backstage does it.

What differs from PostgreSQL (pool/provision) is here: how one asks, who gets rights on the new database, and which GRANT
helps.  A database has no owner in MySQL: where another account than the plugin's creates it, it grants the plugin all on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.config.target import Credential, Secret, Target
from proxy.errors import NotSupported, ProxyError, UpstreamFault
from proxy.mysql.reach import MysqlReach, goodbye, parameters_of
from proxy.mysql.rows import query
from proxy.net.stream import Stream
from proxy.pool.provision import Provision
from proxy.session.mysql_login import Wish
from proxy.wire.mysql_errors import DB_ACCESS_DENIED, MysqlRefused

Rows = Sequence[Sequence[str | None]]
NO_SUCH_ACCOUNT = {1133, 1410, 1227, DB_ACCESS_DENIED, 1045, 1142, 1044}      # the account is another host's, or not ours to grant to


class MysqlProvision(Provision):
    """Counts where `beside` counts."""

    def __init__(self, beside: Provision, reach: MysqlReach) -> None:
        super().__init__(beside.settings, beside.mint, beside.budget_of)
        self.reach = reach
        self.outcomes, self.time = beside.outcomes, beside.time

    async def _exists(self, target: Target) -> bool:
        name = literal(target.database)
        return bool(await self._ask(target, f"SELECT 1 FROM information_schema.schemata WHERE schema_name = {name}"))

    async def create(self, target: Target) -> None:
        """CREATE DATABASE asked for by a client, which looks itself whether it was there."""
        if not self.settings.provisioning.enabled:
            raise NotSupported("provisioning is switched off", hint="See switchboard.provisioning.enabled")
        async with self._in_time(target):
            await self._create_database(target)
        self.outcomes[target.plugin, "created"] += 1
        self.forget(target)

    async def names(self, target: Target) -> list[str]:
        """All databases that the provisioning credential sees on the target's server."""
        return [str(row[0]) for row in await self._ask(target, "SELECT schema_name FROM information_schema.schemata")]

    async def may_create(self, target: Target) -> bool:
        """Has the provisioning credential the right to create this database?"""
        grants = [str(row[0]) for row in await self._ask(target, "SHOW GRANTS")]
        return any(creates(grant, target.database) for grant in grants)

    async def _create_database(self, target: Target) -> bool:
        who = provisioner(target)
        try:
            await self._ask(target, f"CREATE DATABASE IF NOT EXISTS {quoted(target.database)}")
        except MysqlRefused as fault:
            if fault.errno == DB_ACCESS_DENIED:
                fault.hint = remedy(target, who)
            raise
        if target.credential is not None and who.user != target.credential.user:
            await self._grant(target, target.credential.user)
        return True

    async def _grant(self, target: Target, user: str) -> None:
        """To the plugin's account, whatever hosts it may come from; the login tells when this was not enough."""
        hosts: list[str] = []
        try:
            hosts = [str(row[0]) for row in await self._ask(target, f"SELECT Host FROM mysql.user WHERE User = {literal(user)}")]
        except MysqlRefused:
            pass
        for host in hosts or ["%"]:
            try:
                await self._ask(target, f"GRANT ALL PRIVILEGES ON {pattern(target.database)}.* TO {literal(user)}@{literal(host)}")
            except MysqlRefused as fault:
                if fault.errno not in NO_SUCH_ACCOUNT:
                    raise

    async def _seen_by_itself(self, target: Target) -> bool:
        """Does the plugin's own credential find its database?"""
        if target.credential is None:
            return False
        try:
            await self._ask(target, "SELECT 1", who=target.credential, database=target.database)
        except ProxyError:
            return False
        return True

    async def _ask(self, target: Target, text: str, *, who: Credential | None = None, database: str = "") -> Rows:
        assert target.server is not None
        reached = await self.reach.connect(target.server, who or provisioner(target), parameters_of(Wish(database=database)),
                                           self.settings.upstream)
        stream = Stream(reached.sock, fault=UpstreamFault)
        try:
            return await query(stream, text)
        except (OSError, EOFError):
            raise UpstreamFault("server closed the connection unexpectedly") from None
        finally:
            stream.unwatch()
            goodbye(reached.sock)


def provisioner(target: Target) -> Credential:
    return target.provisioner or target.credential or Credential(user="", password=Secret(""))


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def pattern(database: str) -> str:
    """A database in GRANT is a pattern: there `_` and `%` stand for others."""
    return quoted(database.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%"))


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def creates(grant: str, database: str) -> bool:
    """Does a line of SHOW GRANTS give the right to create this database?"""
    head, _, rest = grant.partition(" ON ")
    rights = {right.strip() for right in head.removeprefix("GRANT ").split(",")}
    places = ("*.*", f"{quoted(database)}.*", f"{pattern(database)}.*")
    return not rights.isdisjoint({"CREATE", "ALL PRIVILEGES", "ALL"}) and rest.partition(" TO ")[0] in places


def remedy(target: Target, who: Credential) -> str:
    """What an administrator runs."""
    user = target.credential.user if target.credential is not None else who.user
    return (f"As an administrator: CREATE DATABASE {quoted(target.database)}; "
            f"GRANT ALL ON {pattern(target.database)}.* TO {literal(user)}@'%';")


