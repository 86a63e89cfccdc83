"""Reaching MySQL servers: host by host and address by address as for PostgreSQL (pool/reach), then MySQL's own login."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

from proxy.config.settings import Upstream as UpstreamSettings
from proxy.config.target import Credential, Secret, Server, SslMode
from proxy.errors import ProxyError, UpstreamFault
from proxy.net.dial import Address, OutOfFiles, addresses, connected
from proxy.net.drive import drive
from proxy.net.stream import Stream
from proxy.net.upstream_tls import explained, server_name, upstream_context
from proxy.pool.hosts import Host
from proxy.pool.reach import Dial, Reach, Reached, Route, failed
from proxy.session.login import Way
from proxy.session.mysql_login import Wish, login
from proxy.tokens.mint import Mint
from proxy.wire.mysql import RELAYED, Can, packets

GOODBYE = packets(b"\x01")


class MysqlReach(Reach):
    """One for all pools of MySQL servers.  `version`: that of the first one met; `capabilities`: what all that were met can do."""

    def __init__(self, mint: Mint | None = None) -> None:
        super().__init__(mint)
        self.version: str | None = None
        self.capabilities = RELAYED

    async def connect(self, server: Server, credential: Credential, parameters: Mapping[str, str],
                      settings: UpstreamSettings) -> Reached:
        reached = await super().connect(server, credential, parameters, settings)
        said = reached.welcome.parameters
        self.version = self.version or said["server_version"]
        self.capabilities &= Can(int(said["capabilities"]))
        return reached

    @property
    def dial(self) -> type[Dial]:
        return MysqlDial


class MysqlDial(Dial):
    async def _places(self, host: Host) -> list[Address]:
        if host.host.startswith("/"):
            return [Address(socket.AF_UNIX, host.host)]
        return await addresses(host.host, host.port)

    async def _ways(self, host: Host, address: Address, who: Credential) -> Reached:
        """There is one way: what `ssl` says."""
        server = self.server
        encrypted = server.tls.mode is not SslMode.DISABLE and not address.local
        route = Route(server, host.host, host.port, address, Way.SURE if encrypted else Way.PLAIN)
        stream = Stream(await connected(address, self.settings), fault=UpstreamFault)
        try:
            welcome = await drive(
                login(who, wish_of(self.parameters), server.tls, local=address.local, cleartext=self.proof.cleartext), stream,
                context=upstream_context(server.tls) if encrypted else None, server_side=False,
                server_name=server_name(server.tls, host.host))
            stream.unwatch()
            return Reached(stream.sock, welcome, route)
        except EOFError:
            stream.close()
            raise UpstreamFault(failed(host, "server closed the connection unexpectedly", address)) from None
        except UpstreamFault as fault:
            stream.close()
            if isinstance(fault.__cause__, ssl.SSLError):
                raise explained(fault.__cause__, server.tls, host.host) from None
            raise
        except ssl.SSLError as error:
            stream.close()
            raise explained(error, server.tls, host.host) from None
        except (OutOfFiles, ProxyError, OSError):
            stream.close()
            raise
        except BaseException:
            stream.close()
            raise

    async def _logged_in(self, host: Host, share: float | None) -> Reached:
        if self.credential.password is None and self.credential.source is None:
            # No password is none: libpq's password file is not for MySQL.
            return await self._addresses(host, share, Credential(user=self.credential.user, password=Secret("")))
        return await super()._logged_in(host, share)


def parameters_of(wish: Wish) -> dict[str, str]:
    """As a pool's connections are kept apart by, and Reach passes on."""
    return {"capabilities": str(int(wish.capabilities)), "charset": str(wish.charset), "database": wish.database,
            **{f"attribute.{key}": value for key, value in wish.attributes.items()}}


def wish_of(parameters: Mapping[str, str]) -> Wish:
    usual = Wish()
    return Wish(capabilities=Can(int(parameters.get("capabilities", int(usual.capabilities)))),
                charset=int(parameters.get("charset", usual.charset)), database=parameters.get("database", ""),
                attributes={key.removeprefix("attribute."): value for key, value in parameters.items()
                            if key.startswith("attribute.")})


def goodbye(sock: socket.socket) -> None:
    """Take leave of a server, so that it counts no aborted connection."""
    try:
        sock.send(GOODBYE)
    except OSError:
        pass                                      # already gone: there is nobody to take leave of
    sock.close()
