"""Where a plugin's data lives: the frozen answer that everything behind `config/` works with.

A Target is a value.  Two plugins that share a database (schema mode) have two Targets; two loads of the same
files give equal Targets, which is how a reload knows which pools to leave alone.  Secrets are wrapped: no repr,
log line or JSON of these records shows one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Secret:
    """Text that must not be seen.  Only `reveal` gives it; equality works, repr and str do not show it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")


class Engine(enum.StrEnum):
    """What answers for a plugin."""

    POSTGRES = "postgres"
    EMBEDDED = "embedded"      # client: embedded-postgres, a PostgreSQL of our own that keeps its data
    MEMORY = "memory"          # better-sqlite3 with :memory:, a database of our own that is empty at each start
    SQLITE = "sqlite"          # a SQLite file, or one in memory, behind a gateway
    REJECTED = "rejected"      # SQLite that is not to be served
    MYSQL = "mysql"

    @property
    def speaks_postgres(self) -> bool:
        return self in (Engine.POSTGRES, Engine.EMBEDDED, Engine.MEMORY)


class SslMode(enum.StrEnum):
    """libpq's sslmode values, with libpq's meanings."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class Session(enum.StrEnum):
    """libpq's target_session_attrs values."""

    ANY = "any"
    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    PRIMARY = "primary"
    STANDBY = "standby"
    PREFER_STANDBY = "prefer-standby"


class ChannelBinding(enum.StrEnum):
    """libpq's channel_binding values."""

    DISABLE = "disable"
    PREFER = "prefer"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How an upstream is spoken to under TLS.  PEM text (not a path) in `ca`, `cert`, `key`; None: system CAs, no
    client certificate.  `direct`: libpq's sslnegotiation=direct; `sni`: libpq's sslsni; `minimum` and `maximum`:
    ssl_min_protocol_version and ssl_max_protocol_version."""

    mode: SslMode = SslMode.PREFER
    ca: str | None = None
    cert: str | None = None
    key: Secret | None = None
    server_name: str | None = None
    direct: bool = False
    sni: bool = True
    minimum: str | None = None
    maximum: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How we let a server ask who we are.  `methods` is libpq's require_auth: None is any; `none` in it is a server
    that asks for nothing.  `cleartext`: a password may go over a connection that anybody on the way can read."""

    channel_binding: ChannelBinding = ChannelBinding.PREFER
    methods: frozenset[str] | None = None
    cleartext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One database server, or several of one cluster of which `session` says which will do.

    `host` and `port` are the first; `others` the rest, in order.  A host that starts with "/" is the folder of a unix
    socket.  `shuffle` is libpq's load_balance_hosts=random.
    """

    host: str
    port: int = 5432
    tls: Tls = field(default_factory=Tls)
    proof: Proof = field(default_factory=Proof)
    others: tuple[tuple[str, int], ...] = ()
    session: Session = Session.ANY
    shuffle: bool = False

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Every (host, port)."""
        return ((self.host, self.port), *self.others)

    def __str__(self) -> str:
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordCommand:
    """A program that prints the password.  `lifetime` and `timeout` in seconds; lifetime 0: run for every dial."""

    arguments: tuple[str, ...] = field(repr=False)
    lifetime: float = 0.0
    timeout: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RdsToken:
    """AWS RDS IAM authentication: a signature, made with the AWS credentials of this process.  Without `region`: the one
    of the process (AWS_REGION)."""

    region: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureToken:
    """Microsoft Entra ID.  With all three a client secret; with `client_id` alone a managed identity; else what the
    machine offers.  `ahead`: seconds before its end at which a token is replaced."""

    client_id: str | None = None
    tenant_id: str | None = None
    client_secret: Secret | None = None
    ahead: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSqlToken:
    """Google Cloud SQL IAM authentication with the credentials of this process.  `instance` is project:region:name;
    `locate`: where it is must be asked of Google (`PUBLIC`, `PRIVATE` or `PSC`), None: the Server says it."""

    instance: str
    locate: str | None = None


TokenSource = PasswordCommand | RdsToken | AzureToken | CloudSqlToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """With neither password nor source the password file is asked (config/pgpass)."""

    user: str
    password: Secret | None = None
    source: TokenSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One plugin's place.  `server` and `credential` are None for engines that are files.

    `startup`: server settings that the plugin's connection asks for (statement_timeout, options, ...), sent in
    the upstream's startup packet, beside `search_path` for `schema`.  `role`: SET ROLE after login.
    `provisioner`: who may create `database` or `schema` on `server`; None when it must exist already.
    `configured_database`: the plugin (or the schema-mode base) names the database explicitly.  `read_only` and `filename` (None:
    in memory) are SQLite's.
    """

    plugin: str
    engine: Engine
    database: str
    server: Server | None = None
    credential: Credential | None = None
    schema: str | None = None
    role: str | None = None
    startup: Mapping[str, str] = field(default_factory=dict)
    ensure_exists: bool = True
    ensure_schema_exists: bool = False
    provisioner: Credential | None = None
    configured_database: bool = False
    read_only: bool = False
    filename: str | None = None

    def __str__(self) -> str:
        where = f"{self.server}/" if self.server else f"{self.engine}:"
        return f"{where}{self.filename or self.database}" + (f"#{self.schema}" if self.schema else "")
