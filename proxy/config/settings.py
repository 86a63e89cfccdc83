"""Our own settings, the section `switchboard:`, each declared once: servers, pools and the daemon itself.

`clients` holds those towards clients, `declare` how a setting is declared and what is made from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, SecretStr, ValidationInfo, WithJsonSchema, field_validator, model_validator

from proxy.config.address import split_address
from proxy.config.clients import Auth, ClientTls, ProxyProtocol, User
from proxy.config.declare import Seconds, Section, Texts, every_field_optional, setting
from proxy.config.mode import Mode

LATER = {"contradictions": "later"}      # the context of a validation after which `contradictions` is asked
Octal = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]      # 0777 is a number in YAML


class Pool(Section):
    """Upstream connections of one plugin."""

    mode: Mode = setting(
        Mode.AUTO, "When a lease goes back: at the end of a transaction, whenever nothing of the client's would be lost (`auto`), when "
        "the client leaves (`session`), at the end of each transaction (`transaction`: what outlives one is the client's care), or of "
        "each statement (`statement`: BEGIN is refused). A user's own `mode` comes first.")
    size: int = setting(20, "Upstream connections per plugin at most.", unit="connections", ge=1)
    min_size: int = setting(0, "Upstream connections kept open per plugin that has been used.", unit="connections", ge=0)
    reserve: int = setting(
        0, "Connections beyond `size`, while a client has waited for longer than `reserve_after`.", unit="connections", ge=0)
    reserve_after: Seconds = setting(5.0, "See `reserve`.", unit="s")
    warm_for: Seconds = setting(
        0.0, "As many connections as were lately at work together are kept open, and dialled anew when they end; after this time "
        "without work, half as many; 0: min_size alone counts.", unit="s")
    guaranteed: int = setting(
        0, "Of the server's budget (upstream.budget) this many are this plugin's, whoever else wants them.", unit="connections", ge=0)
    weight: float = setting(1.0, "This plugin's share of a spent budget, beside the others that want something.", gt=0)
    lifetime: Seconds = setting(3600.0, "An upstream connection older than this is replaced; 0: never.", unit="s")
    lifetime_jitter: float = setting(
        0.1, "Lifetimes are shortened by up to this fraction, so that they do not end together.", ge=0, le=1)
    idle_timeout: Seconds = setting(600.0, "An upstream idle for longer is closed; 0: never.", unit="s")
    query_wait_timeout: Seconds = setting(
        120.0, "How long a client waits for an upstream connection; 0: without end.", unit="s")
    query_wait_notify: Seconds = setting(
        5.0, "A client that waits for longer is told so by a NOTICE, once; 0: never.", unit="s")
    client_idle_timeout: Seconds = setting(
        0.0, "A client that asks for nothing, outside a transaction, for longer is sent away; 0: never.", unit="s")
    idle_transaction_timeout: Seconds = setting(
        0.0, "A client idle in a transaction for longer is sent away (as idle_in_transaction_session_timeout); 0: never.", unit="s")
    transaction_timeout: Seconds = setting(0.0, "A transaction that takes longer ends, and its client with it; 0: never.", unit="s")
    query_timeout: Seconds = setting(
        0.0, "A query that takes longer is cancelled, and its client and server connection end; 0: never.", unit="s")
    check_delay: Seconds = setting(
        30.0, "An upstream idle for longer is asked whether it lives before it is leased; 0: always.", unit="s")
    keepalive_after: Seconds = setting(
        5.0, "Mode auto: `select 1` of a client that was quiet for longer is answered by the proxy while an upstream of the pool has "
        "been heard of within check_delay; 0: never.", unit="s")


if TYPE_CHECKING:
    PoolOverride = Section
else:
    PoolOverride = every_field_optional(
        Pool, "PoolOverride", "The same settings as `pool`, for one plugin; what is unset is inherited.")


class PluginSettings(Section):
    pool: PoolOverride = setting(PoolOverride, "Overrides of `switchboard.pool` for this plugin.")
    engine: Literal["embedded", "gateway", "reject"] | None = setting(
        None, "What answers for a plugin in SQLite: the PostgreSQL of our own (`embedded`), SQLite itself behind PostgreSQL's protocol "
              "(`gateway`), or nobody (`reject`); unset: `embedded` for :memory:, `gateway` for files.", reload=False)
    read_only: bool = setting(False, "A plugin in a SQLite file: clients may look and change nothing.", reload=False)


class Tcp(Section):
    """When a peer that says nothing is taken for gone: libpq's names."""

    keepalives_idle: Seconds = setting(60.0, "Idle time before TCP keepalive probes start.", unit="s")
    keepalives_interval: Seconds = setting(10.0, "Time between two TCP keepalive probes; 0: system default.", unit="s")
    keepalives_count: int = setting(5, "Lost TCP keepalive probes that end a connection; 0: system default.", ge=0, le=127)
    tcp_user_timeout: Seconds = setting(0.0, "Unacknowledged data closes the connection after this; 0: system default.",
                                        unit="s")


class Upstream(Tcp):
    """Connections to database servers."""

    connect_timeout: Seconds = setting(15.0, "Time for connecting and logging in to a server.", unit="s")
    retry_delay: Seconds = setting(
        1.0, "After a failed connect, clients are told the cached reason for this long before the next try.", unit="s")
    hold_timeout: Seconds = setting(
        30.0, "When a server that has been there goes away, clients wait this long for it (a restart, a failover); 0: they "
              "are told at once.", unit="s")
    budget: int = setting(
        0, "Connections to one server at most, over all plugins and users; 0: each pool's size alone counts.", unit="connections", ge=0)
    cleartext_passwords: bool = setting(
        False, "Send a password in clear to a server that asks for it so, even without TLS (a unix socket needs none).")


class Provisioner(Section):
    """A credential for creating databases and schemas on one server."""

    server: str = setting(..., "`host:port` as the plugins' connections name it.")
    user: str = setting(..., "A role with CREATEDB, or a superuser.")
    password: SecretStr | None = setting(None, "Its password.")

    @field_validator("server")
    @classmethod
    def _place(cls, value: str) -> str:
        if not all(re.fullmatch(r".+:\d{1,5}", place) for place in value.split(",")):
            raise ValueError("expected host:port, as `switchboard routes` shows it")
        return value


class Provisioning(Section):
    enabled: bool = setting(True, "Create missing databases and schemas (`backend.database.ensureExists` permitting).")
    maintenance_database: str = setting("postgres", "Database that provisioning connects to on each server.")
    credentials: list[Provisioner] = setting(
        [], "Credentials by server; unset: the base connection's on its own server, else the plugin's.")
    timeout: Seconds = setting(60.0, "Time for creating one database.", unit="s")


def checked_addresses(value: list[str]) -> list[str]:
    """Addresses to listen on.  Raises ValueError with all that are none."""
    wrong = []
    for address in value:
        try:
            if not address.startswith("/"):
                split_address(address, 0)
        except ValueError as fault:
            wrong.append(f'{fault}, got "{address}"')
    if wrong:
        raise ValueError("; ".join(wrong))
    return value


class Metrics(Section):
    # Not null: in app-config files null means "as if the key were not there".
    listen: Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^off$|:\d+$"})] = setting(
        "127.0.0.1:9632", "`host:port` for /metrics, /healthz, /readyz and the status page; `off`: none.", reload=False)

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        if value != "off" and not (":" in value and split_address(value, 0)[1] >= 0):
            raise ValueError("expected host:port, or off")
        return value


class Log(Section):
    format: Literal["auto", "logfmt", "json", "journal"] = setting(
        "auto", "`auto` is journal lines with priorities under systemd and logfmt elsewhere.", reload=False)
    level: Literal["debug", "info", "warning", "error"] = setting("info", "The least level that is written.")
    connections: bool = setting(True, "One line when a client is let in and one when it leaves, with the reason.")


class Mysql(Section):
    """The second wire: for plugins with `client: mysql2` or `mysql`."""

    listen: Texts = setting(
        ["127.0.0.1:3307"],
        "Addresses for MySQL clients: `host:port`, `[v6]:port`, or the path of a unix socket (in a folder: `mysql.sock`). They are "
        "bound when the base or a listed plugin lives in MySQL; []: never.", reload=False)
    port: int = setting(3307, "The port of addresses that name none.", reload=False, ge=1, le=65535)
    server_version: str | None = setting(
        None, "The version that clients are greeted with, before it is known where they want to go; unset: that of the first MySQL "
              "server.", pattern=r"^[\x21-\x7e]{1,60}$")
    native_password: bool = setting(
        True, "Accept mysql_native_password (SHA-1) too, which is all that npm's mysql and other old drivers know; else "
              "caching_sha2_password alone.")
    rsa_key: str | None = setting(
        None, "Path of the PEM file with the RSA key under which a client without TLS may send its password; unset: one made at each "
              "start.", reload=False)

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        return checked_addresses(value)


class Sqlite(Section):
    """Plugins in SQLite files, served by a gateway."""

    busy_timeout: Seconds = setting(
        5.0, "A statement that finds the file locked by another program or client tries for this long, then fails (55P03).", unit="s",
        reload=False)
    catalog: bool = setting(
        True, "Questions about PostgreSQL's catalog (\\d, BI tools, reflection) are answered by the PostgreSQL of our own, in which "
              "empty tables stand for those of the files; it runs if its package is there. false: they are refused.", reload=False)


class Embedded(Section):
    """The PostgreSQL of our own, for `client: embedded-postgres` and `better-sqlite3` in memory."""

    state_dir: str | None = setting(
        None, "Folder for its data; unset: $STATE_DIRECTORY, else a folder in the user's state directory.", reload=False)
    binaries: str | None = setting(
        None, "Folder with initdb and postgres; unset: the embedded-postgres package, else found on the machine.",
        reload=False)


class Settings(Section):
    """The section `switchboard:`."""

    listen: Texts = setting(
        ["127.0.0.1:6432"],
        "Addresses to listen on: `host:port`, `[v6]:port`, or a folder for a unix socket `.s.PGSQL.<port>`.",
        reload=False)
    port: int = setting(6432, "The port of addresses that name none, and of unix sockets.", reload=False, ge=1, le=65535)
    unix_socket_mode: Octal = setting("0777", "Permissions of unix sockets, octal.", reload=False, pattern="^0?[0-7]{3}$")
    plugins: Literal["any", "listed"] = setting(
        "any", "`any` valid plugin id has a database by the prefix; `listed`: only those under backend.database.plugin.")
    max_clients: int = setting(10_000, "Clients at most, logged in or not.", unit="connections", ge=1)
    max_clients_per_user: int = setting(0, "Clients of one user at most; 0: any number.", unit="connections", ge=0)
    max_clients_per_plugin: int = setting(0, "Clients of one plugin at most; 0: any number.", unit="connections", ge=0)
    max_clients_per_address: int = setting(
        0, "Clients of one address at most, logged in or not; 0: any number.", unit="connections", ge=0)
    drain_timeout: Seconds = setting(30.0, "How long a stop waits for transactions to end.", unit="s")
    users: dict[str, User] = setting(
        {}, "Who may log in, by name. The name `*` stands for users whom `auth.query` finds, or whom a rule with another proof than a "
            "password lets in.")
    auth: Auth = setting(Auth, "Login of clients.")
    tls: ClientTls = setting(ClientTls, "TLS towards clients.")
    client_tcp: Tcp = setting(
        Tcp, "When a client whose machine or network went away is taken for gone; a restart is needed.", reload=False)
    proxy_protocol: ProxyProtocol = setting(ProxyProtocol, "The PROXY protocol of load balancers.")
    pool: Pool = setting(Pool, "Upstream connections, per plugin.")
    plugin: dict[str, PluginSettings] = setting({}, "Settings of single plugins, by id.")
    upstream: Upstream = setting(Upstream, "Connections to database servers.")
    provisioning: Provisioning = setting(Provisioning, "Creation of missing databases and schemas.")
    metrics: Metrics = setting(Metrics, "What is shown over HTTP.")
    log: Log = setting(Log, "Logging.")
    mysql: Mysql = setting(Mysql, "The listener for MySQL's own protocol.")
    sqlite: Sqlite = setting(Sqlite, "Plugins in SQLite files.")
    embedded: Embedded = setting(Embedded, "The PostgreSQL of our own.")

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        return checked_addresses(value)

    @model_validator(mode="after")
    def _together(self, info: ValidationInfo) -> Settings:
        """One mistake is enough, but for who asks for all (`contradictions`)."""
        for location, problem in () if info.context is LATER else contradictions(self):
            raise ValueError(f"{location}: {problem}")
        return self

    def pool_for(self, plugin: str) -> Pool:
        """`pool` with the plugin's overrides."""
        override = self.plugin.get(plugin)
        if override is None:
            return self.pool
        return self.pool.model_copy(update=override.pool.model_dump(exclude_none=True))


def contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """What settings say together that cannot be: (key below `switchboard`, problem)."""
    tls = settings.tls
    if tls.mode == "require" and tls.certificate is None:
        yield "tls.mode", "require needs tls.certificate"
    for number, rule in enumerate(settings.auth.rules):
        where = f"auth.rules[{number}]"
        if rule.type == "hostssl" and (tls.certificate is None or tls.mode == "disable"):
            yield where, "type hostssl never matches without tls.certificate"
        if (rule.method == "cert" or rule.clientcert) and tls.client_ca is None:
            yield where, "client certificates need tls.client_ca"
        if rule.map is not None and rule.map not in settings.auth.maps:
            yield where, f"there is no map {rule.map!r} in auth.maps"
    for where, pool in (("pool", settings.pool), *((f"plugin.{name}.pool", settings.pool_for(name)) for name in settings.plugin)):
        if pool.min_size > pool.size and (where == "pool" or settings.pool.min_size <= settings.pool.size):
            yield where, f"min_size {pool.min_size} is above size {pool.size}"
