"""Our own settings, the section `switchboard:`, each declared once.

From these declarations come `config/reference.yaml`, `config/schema.json`, `switchboard config --help`, the
checks at load and the answer to "is this applied by a reload?".  A duration is a number of seconds or text with
a PostgreSQL unit ("500ms", "30s", "5min", "2h", "1d"); 0 switches a timeout off.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*")


def seconds(value: object) -> object:
    """`"5min"` -> 300.0; numbers pass.  Units as in the PostgreSQL manual, "Parameter Names and Values"."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if not match:
            raise ValueError("expected a duration such as 30, 500ms, 30s, 5min, 2h or 1d")
        return float(match[1]) * UNITS[match[2] or "s"]
    return value


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0), WithJsonSchema({"anyOf": [
    {"type": "number", "minimum": 0}, {"type": "string", "pattern": rf"^{_DURATION.pattern}$"}]})]


class Mode(enum.StrEnum):
    SESSION = "session"
    TRANSACTION = "transaction"
    AUTO = "auto"


class Method(enum.StrEnum):
    TRUST = "trust"
    PASSWORD = "password"
    MD5 = "md5"
    SCRAM = "scram-sha-256"


def setting(default: Any, text: str, *, unit: str | None = None, reload: bool = True, **more: Any) -> Any:
    """One setting: its default, one sentence, its unit, and whether a reload applies it."""
    extra: dict[str, Any] = {"unit": unit, "reload": reload}
    if isinstance(default, (list, dict)) or callable(default):
        factory = default if callable(default) else (lambda: type(default)(default))
        return Field(default_factory=factory, description=text, json_schema_extra=extra, **more)
    return Field(default=default, description=text, json_schema_extra=extra, **more)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class User(Section):
    """One user who may log in at the proxy.  The name is the key."""

    password: SecretStr | None = setting(
        None, "The password, or a verifier made by `switchboard hash-password` (SCRAM-SHA-256$... or md5...).")
    method: Method | None = setting(None, "How this user proves itself; unset: as `switchboard.auth.method` says.")
    plugins: list[str] = setting(["*"], "Plugin ids that this user may reach; `*` is all.")
    max_clients: int | None = setting(
        None, "Clients of this user at most; 0: any number; unset: `max_clients_per_user`.", unit="connections", ge=0)
    maintenance: bool = setting(True, "May use the maintenance database `postgres` for its own plugins.")
    replication: bool = setting(False, "May start replication connections, physical ones included: those read whole servers.")


def several(value: object) -> object:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(several)]


class Rule(Section):
    """One line in the manner of pg_hba.conf.  The first that matches decides how a client proves itself."""

    type: Literal["all", "local", "host", "hostssl", "hostnossl"] = setting(
        "all", "`local` is unix sockets, `host` TCP, `hostssl` TCP with TLS and `hostnossl` TCP without.")
    address: Texts = setting(
        ["all"], "CIDR networks or addresses of the client; `samehost` is this machine.")
    users: Texts = setting(["all"], "Names; `/regex`; `all`.")
    plugins: Texts = setting(["all"], "Plugin ids; `postgres` is the maintenance database; `all`.")
    method: Literal["trust", "reject", "password", "md5", "scram-sha-256", "scram-sha-256-plus", "cert", "peer"] = setting(
        ..., "How the client proves itself; `password` only over TLS or a unix socket, `cert` by its certificate's common name, "
             "`peer` by the operating system's user of a unix socket.")
    map: str | None = setting(None, "For `cert` and `peer`: an entry of `auth.maps`; unset: the names must be equal.")
    clientcert: Literal["verify-ca", "verify-full"] | None = setting(
        None, "Wants a client certificate besides the method; `verify-full`: of the user's own name (`map` applies).")

    @field_validator("address")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for text in value:
            if text not in ("all", "samehost"):
                try:
                    ipaddress.ip_network(text)
                except ValueError as fault:
                    raise ValueError(f"expected a network such as 10.0.0.0/8, an address, samehost or all: {fault}") from None
        return value

    @field_validator("users")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for text in value:
            if text.startswith("/"):
                regex(text[1:])
        return value

    @model_validator(mode="after")
    def _possible(self) -> Rule:
        if self.method == "peer" and self.type != "local":
            raise ValueError("method peer needs type: local")
        for asked, wanted in (("method cert", self.method == "cert"), ("method scram-sha-256-plus", self.method.endswith("plus")),
                              ("clientcert", self.clientcert)):
            if wanted and self.type != "hostssl":
                raise ValueError(f"{asked} needs type: hostssl")
        if self.method == "password" and self.type == "hostnossl":
            raise ValueError("method password over plain TCP would show passwords to everybody; use scram-sha-256")
        if self.map is not None and self.method not in ("cert", "peer") and self.clientcert != "verify-full":
            raise ValueError("map is for method cert, method peer and clientcert: verify-full")
        return self


def regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as fault:
        raise ValueError(f"not a regular expression: {fault}") from None


class MapLine(Section):
    """One line in the manner of pg_ident.conf."""

    system: str = setting(..., "The name that the certificate or the operating system tells; `/regex` may have a group.")
    user: str = setting(..., "The user that it may be; `\\1` is the group; `all`; `/regex`.")

    @field_validator("system", "user")
    @classmethod
    def _regex(cls, value: str) -> str:
        if value.startswith("/"):
            regex(value[1:])
        return value


class AuthQuery(Section):
    """Users that a database knows.  Those under `users` come first and are not asked for."""

    connection: SecretStr | None = setting(
        None, "Where the query runs: a libpq connection string with a credential of its own; unset: no query.")
    query: str = setting(
        "SELECT rolname::text, CASE WHEN rolvaliduntil <= now() THEN NULL ELSE rolpassword END "
        "FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin",
        "`$1` is the name; two columns, the name and the stored password; no row or NULL: no login.")
    cache: Seconds = setting(30.0, "How long an answer is kept; a failed proof has it asked again.", unit="s")
    timeout: Seconds = setting(5.0, "Time for one question.", unit="s")

    @field_validator("connection")
    @classmethod
    def _conninfo(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                conninfo_to_dict(value.get_secret_value())
            except ProgrammingError:
                raise ValueError("not a libpq connection string") from None      # its words may hold the password
        return value

    @field_validator("query")
    @classmethod
    def _parameter(cls, value: str) -> str:
        if "$1" not in value:
            raise ValueError("the query has no $1 for the name of the user")
        return value


class Auth(Section):
    method: Method = setting(Method.SCRAM, "How clients prove themselves, unless their user says otherwise.")
    rules: list[Rule] = setting(
        [], "Who may log in from where and how; the first match decides, none refuses. Empty: everybody by `method`.")
    query: AuthQuery = setting(AuthQuery, "Users that a database knows.")
    maps: dict[str, list[MapLine]] = setting({}, "Names of certificates and of the operating system -> users, for rules.")
    scram_iterations: int = setting(
        4096, "PBKDF2 rounds of verifiers made from plain passwords (RFC 7677 section 4).", ge=4096, le=10_000_000)
    login_timeout: Seconds = setting(60.0, "Time for the whole login of a client.", unit="s")
    throttle_failures: int = setting(
        10, "Failed logins of one address in `throttle_window` that are answered at once; more are answered late. 0: any number.",
        ge=0)
    throttle_window: Seconds = setting(60.0, "See `throttle_failures`.", unit="s")


class ProxyProtocol(Section):
    """Load balancers in front of us."""

    trusted: Texts = setting(
        [], "Networks of load balancers, or `unix`: these, and only these, must begin each connection with a PROXY header "
            "(version 1 or 2), and the client that it names counts in logs, rules and limits.", alias="from")

    @field_validator("trusted")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            if text != "unix":
                ipaddress.ip_network(text)
        return value


class ClientTls(Section):
    """TLS towards clients."""

    mode: Literal["disable", "allow", "require"] = setting(
        "allow", "`allow` takes TLS when the client asks and a certificate is set; `require` refuses plain TCP.")
    certificate: str | None = setting(None, "Path of the PEM file with the certificate chain.")
    key: str | None = setting(None, "Path of the PEM file with the private key; unset: in `certificate`.")
    minimum_version: Literal["TLSv1.2", "TLSv1.3"] = setting("TLSv1.2", "The oldest protocol version accepted.")
    maximum_version: Literal["TLSv1.2", "TLSv1.3"] | None = setting(None, "The newest protocol version accepted; unset: any.")
    ciphers: str | None = setting(None, "OpenSSL's cipher list for TLSv1.2; unset: its own good choice.")
    client_ca: str | None = setting(
        None, "Path of the PEM file with the authorities of client certificates; unset: none are asked for.")
    client_crl: str | None = setting(None, "Path of the PEM file with revoked client certificates.")

    @model_validator(mode="after")
    def _together(self) -> ClientTls:
        if self.maximum_version is not None and self.maximum_version < self.minimum_version:
            raise ValueError("maximum_version is below minimum_version")
        if self.client_crl is not None and self.client_ca is None:
            raise ValueError("client_crl needs client_ca")
        return self


class Pool(Section):
    """Upstream connections of one plugin."""

    mode: Mode = setting(
        Mode.SESSION, "When a lease goes back: when the client leaves (`session`), at the end of each transaction (`transaction`: what "
        "outlives one is the client's care), or there whenever nothing of the client's would be lost (`auto`).")
    size: int = setting(20, "Upstream connections per plugin at most.", unit="connections", ge=1)
    min_size: int = setting(0, "Upstream connections kept open per plugin that has been used.", unit="connections", ge=0)
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


def _every_field_optional(model: type[Section], name: str, text: str) -> type[Section]:
    """The same settings once more, unset: each stays declared once."""
    fields: dict[str, Any] = {}
    for key, info in model.model_fields.items():
        kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        fields[key] = (kind | None, Field(default=None, description=info.description, json_schema_extra=info.json_schema_extra))
    return create_model(name, __base__=Section, __doc__=text, **fields)


if TYPE_CHECKING:
    PoolOverride = Section
else:
    PoolOverride = _every_field_optional(
        Pool, "PoolOverride", "The same settings as `pool`, for one plugin; what is unset is inherited.")


class PluginSettings(Section):
    pool: PoolOverride = setting(PoolOverride, "Overrides of `switchboard.pool` for this plugin.")


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
    cleartext_passwords: bool = setting(
        False, "Send a password in clear to a server that asks for it so, even without TLS (a unix socket needs none).")


class Provisioner(Section):
    """A credential for creating databases and schemas on one server."""

    server: str = setting(..., "`host:port` as the plugins' connections name it.")
    user: str = setting(..., "A role with CREATEDB, or a superuser.")
    password: SecretStr | None = setting(None, "Its password.")


class Provisioning(Section):
    enabled: bool = setting(True, "Create missing databases and schemas (`backend.database.ensureExists` permitting).")
    maintenance_database: str = setting("postgres", "Database that provisioning connects to on each server.")
    credentials: list[Provisioner] = setting(
        [], "Credentials by server; unset: the base connection's on its own server, else the plugin's.")
    timeout: Seconds = setting(60.0, "Time for creating one database.", unit="s")


class Metrics(Section):
    # Not null: in app-config files null means "as if the key were not there".
    listen: str = setting(
        "127.0.0.1:9632", "`host:port` for /metrics, /healthz, /readyz and the status page; `off`: none.", reload=False,
        pattern=r"^off$|:\d+$")


class Log(Section):
    format: Literal["auto", "logfmt", "json", "journal"] = setting(
        "auto", "`auto` is journal lines with priorities under systemd and logfmt elsewhere.", reload=False)
    level: Literal["debug", "info", "warning", "error"] = setting("info", "The least level that is written.")
    connections: bool = setting(True, "One line when a client is let in and one when it leaves, with the reason.")


class Embedded(Section):
    """The PostgreSQL of our own, for `client: embedded-postgres` and `better-sqlite3` in memory."""

    state_dir: str | None = setting(
        None, "Folder for its data; unset: $STATE_DIRECTORY, else a folder in the user's state directory.", reload=False)
    binaries: str | None = setting(
        None, "Folder with initdb and postgres; unset: the embedded-postgres package, else found on the machine.",
        reload=False)


class Settings(Section):
    """The section `switchboard:`."""

    listen: list[str] = setting(
        ["127.0.0.1:6432"],
        "Addresses to listen on: `host:port`, `[v6]:port`, or a folder for a unix socket `.s.PGSQL.<port>`.",
        reload=False)
    port: int = setting(6432, "The port of addresses that name none, and of unix sockets.", reload=False, ge=1, le=65535)
    unix_socket_mode: str = setting("0777", "Permissions of unix sockets, octal.", reload=False, pattern="^0?[0-7]{3}$")
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
    embedded: Embedded = setting(Embedded, "The PostgreSQL of our own.")

    @model_validator(mode="after")
    def _together(self) -> Settings:
        for number, rule in enumerate(self.auth.rules):
            where = f"auth.rules[{number}]"
            if rule.type == "hostssl" and (self.tls.certificate is None or self.tls.mode == "disable"):
                raise ValueError(f"{where}: type hostssl never matches without tls.certificate")
            if (rule.method == "cert" or rule.clientcert) and self.tls.client_ca is None:
                raise ValueError(f"{where}: client certificates need tls.client_ca")
            if rule.map is not None and rule.map not in self.auth.maps:
                raise ValueError(f"{where}: there is no map {rule.map!r} in auth.maps")
        return self

    def pool_for(self, plugin: str) -> Pool:
        """`pool` with the plugin's overrides."""
        override = self.plugin.get(plugin)
        if override is None:
            return self.pool
        return self.pool.model_copy(update=override.pool.model_dump(exclude_none=True))
