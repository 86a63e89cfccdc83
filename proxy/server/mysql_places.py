"""What a MySQL client without a database may see and make: the plugins that its user may use, on the servers where they live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.config.target import Engine, Target
from proxy.errors import ProxyError
from proxy.wire.mysql_errors import DB_ACCESS_DENIED, Told

if TYPE_CHECKING:
    from proxy.server.mysql_client import Session
    from proxy.session.mysql_commands import Kill


class LobbyPlaces:
    """Places of gateway/mysql_lobby."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def databases(self) -> Sequence[str]:
        """Each server is asked once, by its first plugin's provisioning credential."""
        provision, found, asked = self.session.door.provision, set(), set()
        for target in self._targets():
            if target.server not in asked:
                asked.add(target.server)
                try:
                    found |= {name for name in await provision.names(target) if self._mine(name, target)}
                except ProxyError:
                    continue                  # its server is away: what is there cannot be told
        return sorted(found)

    def _targets(self) -> list[Target]:
        configuration = self.session.worker.configuration
        listed = [target for target in configuration.targets() if target.engine is Engine.MYSQL]
        try:
            base = configuration.target("base")
        except ProxyError:
            return listed
        return [*listed, base] if base.engine is Engine.MYSQL else listed

    def _mine(self, name: str, at: Target) -> bool:
        try:
            target = self.session.destination(name)
        except ProxyError:
            return False
        return target.database == name and target.server == at.server

    async def create(self, database: str) -> bool:
        account = self.session.client.account
        assert account is not None
        target = self.session.destination(database)
        if not account.maintenance:
            raise Told(DB_ACCESS_DENIED, "42000", f"Access denied for user '{self.session.client.user}' to database '{database}'",
                       hint=f"Set switchboard.users.{self.session.client.user}.maintenance: true")
        provision = self.session.door.provision
        if await provision.exists(target):
            return False
        await provision.create(target)
        return True

    def kill(self, command: Kill) -> None:
        self.session.kill(command)


