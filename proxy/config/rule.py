"""Lines in the manner of pg_hba.conf and pg_ident.conf, as they are written; auth/rules.py says what they mean."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

from pydantic import field_validator, model_validator

from proxy.config.declare import Section, Texts, setting
from proxy.config.ldap import LdapOptions


def regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as fault:
        raise ValueError(f"not a regular expression: {fault}") from None



CLEARTEXT = frozenset({"password", "ldap", "pam"})
HOSTS = frozenset({"samehost", "samenet"})
_HOST_NAME = re.compile(r"\.?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE | re.ASCII)


def is_host_name(text: str) -> bool:
    """And not an address, a network or a word with a meaning.  A last part of digits makes it a mistyped address."""
    return (_HOST_NAME.fullmatch(text) is not None and not text.rpartition(".")[2].isdigit()
            and text != "all" and text not in HOSTS)


class _Line(Section):
    """What stands first in a rule."""

    type: Literal["all", "local", "host", "hostssl", "hostnossl"] = setting(
        "all", "`local` is unix sockets, `host` TCP, `hostssl` TCP with TLS and `hostnossl` TCP without.")
    address: Texts = setting(
        ["all"], "CIDR networks or addresses of the client; `samehost` is this machine, `samenet` the networks that it is in; a host "
                 "name is that of an address whose reverse record leads back to it, `.example.org` any name that ends so.")
    users: Texts = setting(["all"], "Names; `/regex`; `all`.")
    plugins: Texts = setting(["all"], "Plugin ids; `postgres` is the maintenance database; `all`.")
    method: Literal["trust", "reject", "password", "md5", "scram-sha-256", "scram-sha-256-plus", "cert", "peer", "ldap",
                    "pam"] = setting(
        ..., "How the client proves itself; `password` only over TLS or a unix socket, `cert` by its certificate's common name, "
             "`peer` by the operating system's user of a unix socket; `ldap` and `pam` judge a password, asked for as by `password`.")
    map: str | None = setting(None, "For `cert` and `peer`: an entry of `auth.maps`; unset: the names must be equal.")
    clientcert: Literal["verify-ca", "verify-full"] | None = setting(
        None, "Wants a client certificate besides the method; `verify-full`: of the user's own name (`map` applies).")

    pamservice: str = setting("postgresql", "For `pam`: the service, a file in /etc/pam.d.", min_length=1, pattern="^[^/\\x00]+$")


class Rule(LdapOptions, _Line):
    """One line in the manner of pg_hba.conf.  The first that matches decides how a client proves itself."""

    @field_validator("address")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for text in value:
            if text != "all" and text not in HOSTS and not is_host_name(text):
                try:
                    ipaddress.ip_network(text)
                except ValueError as fault:
                    raise ValueError("expected a network such as 10.0.0.0/8, an address, a host name, samehost, samenet or all: "
                                     f"{fault}") from None
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
        if self.method in CLEARTEXT and self.type == "hostnossl":
            raise ValueError(f"method {self.method} over plain TCP would show passwords to everybody; use scram-sha-256")
        if self.method != "pam" and "pamservice" in self.model_fields_set:
            raise ValueError("pamservice is for method pam")
        if (mistake := self.ldap_mistake(self.method == "ldap")) is not None:
            raise ValueError(mistake)
        if self.map is not None and self.method not in ("cert", "peer") and self.clientcert != "verify-full":
            raise ValueError("map is for method cert, method peer and clientcert: verify-full")
        return self


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
