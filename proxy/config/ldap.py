"""The options of `method: ldap`, by pg_hba.conf's names.

Two ways, as in PostgreSQL's manual, "LDAP Authentication": a **simple bind** as `ldapprefix` + the user's name + `ldapsuffix`, or
**search+bind**: find the one entry below `ldapbasedn` whose `ldapsearchattribute` is the name (or that `ldapsearchfilter`
finds), and bind as that.  `ldapurl` says server, base, attribute, scope and filter in one line (RFC 4516).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from proxy.config.declare import Section, setting

SCOPES = {"base": "base", "one": "one", "onelevel": "one", "sub": "sub", "subtree": "sub"}
PLACEHOLDER = "$username"


@dataclass(frozen=True, slots=True)
class LdapUrl:
    """`ldap[s]://host[:port]/basedn[?[attribute][?[scope][?[filter]]]]`, taken apart."""

    scheme: str
    host: str
    port: int | None
    base: str
    attribute: str
    scope: str
    filter: str

    @classmethod
    def parse(cls, text: str) -> LdapUrl:
        """Raises ValueError."""
        split = urlsplit(text)
        if split.scheme not in ("ldap", "ldaps"):
            raise ValueError("expected an LDAP URL such as ldap://ldap.example.org/dc=example,dc=org?uid?sub")
        if not split.hostname or split.username is not None or split.fragment:
            raise ValueError("ldapurl must name a host, and nothing else in front of the path")
        attributes, scope, filter, *rest = [unquote(part) for part in (split.query + "???").split("?")[:4]]
        if scope.lower() not in ("", *SCOPES):
            raise ValueError("the scope in ldapurl must be base, one or sub")
        if any(rest):
            raise ValueError("ldapurl has extensions, which are not understood here")
        return cls(split.scheme, split.hostname, split.port, unquote(split.path.removeprefix("/")), attributes.partition(",")[0],
                   SCOPES[scope.lower() or "base"], filter)


class LdapOptions(Section):
    """What a rule says about its directory."""

    ldapserver: str | None = setting(None, "LDAP servers, by blanks: the first that answers is asked.")
    ldapport: int | None = setting(None, "Port of the LDAP servers; unset: 389, with `ldapscheme: ldaps` 636.", ge=1, le=65535)
    ldapscheme: Literal["ldap", "ldaps"] = setting("ldap", "`ldaps` is LDAP inside TLS.")
    ldaptls: bool = setting(False, "Start TLS on the LDAP connection (RFC 4513).")
    ldaprootcert: str | None = setting(None, "Path of the PEM file with the authorities of LDAP servers; unset: the system's.")
    ldapprefix: str | None = setting(None, "Simple bind: what stands in front of the user's name.")
    ldapsuffix: str | None = setting(None, "Simple bind: what stands behind the user's name.")
    ldapbasedn: str | None = setting(None, "Search+bind: where the search for the user begins.")
    ldapbinddn: str | None = setting(None, "Search+bind: as whom to search; unset: anonymously.")
    ldapbindpasswd: SecretStr | None = setting(None, "Search+bind: the password of `ldapbinddn`.")
    ldapsearchattribute: str | None = setting(None, "Search+bind: the attribute that holds the user's name; unset: uid.")
    ldapsearchfilter: str | None = setting(None, "Search+bind: a filter instead; `$username` stands for the name.")
    ldapurl: str | None = setting(None, "Search+bind: server, base, attribute, scope and filter as an LDAP URL (RFC 4516).")

    def ldap_mistake(self, wanted: bool) -> str | None:
        """What is wrong with these options, in words; `wanted`: is the method ldap?"""
        given = {name for name in LdapOptions.model_fields if name in self.model_fields_set}
        if not wanted:
            return f"{min(given)} is for method ldap" if given else None
        simple = sorted(given & {"ldapprefix", "ldapsuffix"})
        search = sorted(given & {"ldapbasedn", "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute", "ldapsearchfilter", "ldapurl"})
        if simple and search:
            return f"{simple[0]} is for a simple bind, {search[0]} for search+bind: method ldap does one of them"
        filter, attribute = self.ldapsearchfilter, self.ldapsearchattribute
        if self.ldapurl is not None:
            twice = sorted(given & {"ldapserver", "ldapport", "ldapscheme", "ldapbasedn", "ldapsearchattribute", "ldapsearchfilter"})
            if twice:
                return f"{twice[0]} stands in ldapurl"
            url = LdapUrl.parse(self.ldapurl)
            filter, attribute = url.filter or None, url.attribute or None
        elif not self.ldapserver:
            return "method ldap needs ldapserver or ldapurl"
        elif not given & {"ldapprefix", "ldapsuffix", "ldapbasedn"}:
            return "method ldap needs ldapprefix, ldapsuffix, ldapbasedn or ldapurl"
        elif search and self.ldapbasedn is None:
            return f"{search[0]} needs ldapbasedn"
        if filter is not None and attribute is not None:
            return "ldapsearchattribute and ldapsearchfilter exclude each other"
        if filter is not None and PLACEHOLDER not in filter:
            return f"the LDAP filter has no {PLACEHOLDER}: it would find the same entry for everybody"
        if self.ldaptls and self.encrypted_anyway:
            return "ldaptls is for ldapscheme: ldap; ldaps is inside TLS anyway"
        return None

    @property
    def read_by_others(self) -> str:
        """The servers that passwords are sent to in clear, over a network; empty for none."""
        if self.ldaptls or self.encrypted_anyway:
            return ""
        hosts = [LdapUrl.parse(self.ldapurl).host] if self.ldapurl is not None else (self.ldapserver or "").split()
        return " ".join(host for host in hosts if host not in ("localhost", "::1") and not host.startswith("127."))

    @property
    def encrypted_anyway(self) -> bool:
        return (LdapUrl.parse(self.ldapurl).scheme if self.ldapurl is not None else self.ldapscheme) == "ldaps"
