"""What to ask a directory about one user: names in a bind and in a search, escaped.

A user's name is a stranger's text.  In a filter and in a distinguished name it is escaped (RFC 4515 section 3, RFC 4514
section 2.4), so it is never more than a value.  PostgreSQL refuses such names in a search and pastes them into a DN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.config.ldap import PLACEHOLDER, LdapOptions, LdapUrl


@dataclass(frozen=True, slots=True)
class Directory:
    """Where and how to ask.  `base` is None for a simple bind."""

    hosts: tuple[str, ...]
    port: int
    ldaps: bool
    start_tls: bool
    root_cert: str | None
    prefix: str = ""
    suffix: str = ""
    base: str | None = None
    scope: str = "sub"
    filter: str = ""
    bind_dn: str = ""
    bind_password: str = field(default="", repr=False)

    @classmethod
    def of(cls, options: LdapOptions) -> Directory:
        url = LdapUrl.parse(options.ldapurl) if options.ldapurl is not None else None
        ldaps = options.encrypted_anyway
        port = (url.port if url is not None else options.ldapport) or (636 if ldaps else 389)
        hosts = (url.host,) if url is not None else tuple((options.ldapserver or "").split())
        attribute = (url.attribute if url is not None else options.ldapsearchattribute) or "uid"
        word = options.ldapbindpasswd
        return cls(
            hosts, port, ldaps, options.ldaptls, options.ldaprootcert, options.ldapprefix or "", options.ldapsuffix or "",
            base=url.base if url is not None else options.ldapbasedn, scope=url.scope if url is not None else "sub",
            filter=(url.filter if url is not None else options.ldapsearchfilter) or f"({attribute}={PLACEHOLDER})",
            bind_dn=options.ldapbinddn or "", bind_password=word.get_secret_value() if word is not None else "")

    def name_of(self, user: str) -> str:
        """Simple bind: as whom.  Behind `cn=` a name is a value of a DN; behind `DOMAIN\\` or in front of `@domain` it is not."""
        return self.prefix + (escaped_in_dn(user) if self.prefix.rstrip().endswith("=") else user) + self.suffix

    def filter_of(self, user: str) -> str:
        """Search+bind: what finds this user."""
        return self.filter.replace(PLACEHOLDER, escaped_in_filter(user))


def escaped_in_filter(text: str) -> str:
    return "".join(f"\\{ord(char):02x}" if char in "\\*()\0" else char for char in text)


def escaped_in_dn(text: str) -> str:
    last = len(text) - 1
    return "".join(
        f"\\{ord(char):02x}" if char < " " or char in '\\,+"<>;=' or (char == "#" and at == 0) or (char == " " and at in (0, last))
        else char for at, char in enumerate(text))
