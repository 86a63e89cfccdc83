"""Settings towards clients: who may log in, from where, with which proof, and under which TLS."""

from __future__ import annotations

import enum
import ipaddress
from typing import Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr, field_validator, model_validator

from proxy.config.declare import Seconds, Section, Texts, setting
from proxy.config.mode import Mode
from proxy.config.rule import MapLine, Rule


class Method(enum.StrEnum):
    TRUST = "trust"
    PASSWORD = "password"
    MD5 = "md5"
    SCRAM = "scram-sha-256"


class User(Section):
    """One user who may log in at the proxy.  The name is the key."""

    password: SecretStr | None = setting(
        None, "The password, or a verifier made by `switchboard hash-password` (SCRAM-SHA-256$... or md5...).")
    method: Method | None = setting(None, "How this user proves itself; unset: as `switchboard.auth.method` says.")
    plugins: Texts = setting(["*"], "Plugin ids that this user may reach; `*` is all.")
    max_clients: int | None = setting(
        None, "Clients of this user at most; 0: any number; unset: `max_clients_per_user`.", unit="connections", ge=0)
    mode: Mode | None = setting(
        None, "Pool mode of this user's clients, who then share connections of their own, as many again as the plugin's at most; "
              "unset: as the plugin's pool says.")
    maintenance: bool = setting(True, "May use the maintenance database `postgres` for its own plugins.")
    console: Literal["none", "stats", "admin"] = setting(
        "none", "What this user may do in the console, the database `switchboard` (or `pgbouncer`): nothing, look, or command too.")
    replication: bool = setting(False, "May start replication connections, physical ones included: those read whole servers.")


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
    ask_timeout: Seconds = setting(10.0, "Time for an LDAP server or PAM to judge one password.", unit="s")
    name_timeout: Seconds = setting(
        5.0, "Time for the resolver to name a client's address, where rules speak of host names; then it has no name.", unit="s")
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
                try:
                    ipaddress.ip_network(text)
                except ValueError as fault:
                    raise ValueError(f"expected a network such as 10.0.0.0/8, an address, or unix: {fault}") from None
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
