"""Who may log in how, in the manner of pg_hba.conf and pg_ident.conf.

    rules:
    - {type: local, users: [backup], method: peer, map: staff}
    - {type: hostssl, address: 10.0.0.0/8, users: [/^bs_], plugins: [catalog, search], method: scram-sha-256}
    - {address: [127.0.0.1, '::1'], method: md5}
    - {method: reject}                        # what no rule matches is refused too, in other words

    - {address: .plugins.example.org, method: scram-sha-256}

The first rule that matches decides; there is no falling through to the next when the proof fails.  The plugin is the
one that the client asks for; an unknown one matches `all` only.  A name that a certificate or the operating system
vouches for is a user's when it is the same, or when a line of the rule's map says so.

A host name matches when it is the name of the client's address and leads back to it, which takes a resolver: whoever
asks for a decision looks first whether it `hinges_on_a_name`.  One that begins with a dot matches what ends in it.

PostgreSQL manual, "The pg_hba.conf File" and "User Name Maps".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from proxy.config.rule import HOSTS, MapLine, Rule, is_host_name
from proxy.errors import AuthorizationFailed

ALL = frozenset({"all", "*"})
Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks for what from where.

    `address` is None on a unix socket; `near`: it comes from this machine, `neighbour`: from a network that this machine
    is in; `host`: the name of `address` that leads back to it, empty for none, None while nobody has looked.
    """

    user: str
    database: str
    plugin: str | None = None
    address: Address | None = None
    near: bool = False
    neighbour: bool = False
    host: str | None = None
    tls: bool = False

    @property
    def shown(self) -> str:
        """As PostgreSQL words it."""
        host = "[local]" if self.address is None else self.address
        encryption = "SSL encryption" if self.tls else "no encryption"
        return f'host "{host}", user "{self.user}", database "{self.database}", {encryption}'


class Rules:
    """The rules of one configuration, with what is slow done once."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [(rule, _Words(rule.users), frozenset(rule.plugins), _Places(rule.address)) for rule in rules]
        self.neighbourly = any(HOSTS & places.words for _, _, _, places in self._rules)      # `near` and `neighbour` matter

    def decide(self, caller: Caller) -> Rule:
        """The rule for this caller; AuthorizationFailed where there is none, or where it rejects."""
        for rule, places in self._fitting(caller):
            if places.match(caller):
                if rule.method == "reject":
                    raise AuthorizationFailed(f"pg_hba.conf rejects connection for {caller.shown}",
                                              hint="A rule of switchboard.auth.rules says so.")
                return rule
        raise AuthorizationFailed(f"no pg_hba.conf entry for {caller.shown}",
                                  hint="No rule of switchboard.auth.rules matches.")

    def hinges_on_a_name(self, caller: Caller) -> bool:
        """Must the name of the caller's address be known before `decide`?"""
        for _, places in self._fitting(caller):
            if places.match(caller):
                return False
            if places.names and caller.host is None and caller.address is not None:
                return True
        return False

    def speak_of(self, host: str) -> bool:
        """Does any rule match this host name?"""
        return any(places.named(host) for _, _, _, places in self._rules)

    def _fitting(self, caller: Caller) -> Iterator[tuple[Rule, _Places]]:
        """What matches but for the address."""
        for rule, users, plugins, places in self._rules:
            if (_type(rule.type, caller) and users.match(caller.user)
                    and (caller.plugin in plugins or not plugins.isdisjoint(ALL))):
                yield rule, places


class _Places:
    """Where a rule's callers come from."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = frozenset(words)
        self.names = tuple(word.lower() for word in words if is_host_name(word))
        self.networks = networks([word for word in words if not is_host_name(word)])

    def match(self, caller: Caller) -> bool:
        return ("all" in self.words or (caller.near and "samehost" in self.words) or (caller.neighbour and "samenet" in self.words)
                or among(caller.address, self.networks) or (bool(caller.host) and self.named(caller.host or "")))

    def named(self, host: str) -> bool:
        """hostname_match in PostgreSQL's hba.c; `host` is in lower case."""
        return any(host.endswith(name) if name.startswith(".") else host == name for name in self.names)


class _Words:
    def __init__(self, words: Sequence[str]) -> None:
        self._all = not ALL.isdisjoint(words)
        self._names = frozenset(word for word in words if not word.startswith("/"))
        self._expressions = [re.compile(word[1:]) for word in words if word.startswith("/")]

    def match(self, name: str) -> bool:
        return self._all or name in self._names or any(expression.search(name) for expression in self._expressions)


def _type(wanted: str, caller: Caller) -> bool:
    match wanted:
        case "all":
            return True
        case "local":
            return caller.address is None
        case "hostssl":
            return caller.address is not None and caller.tls
        case "hostnossl":
            return caller.address is not None and not caller.tls
        case _:
            return caller.address is not None


def networks(words: Sequence[str]) -> Networks:
    """Without the words that are no networks; None stands for `unix`."""
    return tuple(None if word == "unix" else ip_network(word) for word in words if word != "all" and word not in HOSTS)


def among(address: Address | None, places: Networks) -> bool:
    if address is None:
        return None in places
    return any(address in place for place in places if place is not None)


def may_be(system: str, user: str, lines: Sequence[MapLine] | None) -> bool:
    """May who is `system` to the certificate authority or the operating system log in as `user`?  None: no map."""
    if lines is None:
        return system == user
    return any(_maps(line, system, user) for line in lines)


def _maps(line: MapLine, system: str, user: str) -> bool:
    wanted = line.user
    if line.system.startswith("/"):
        found = re.search(line.system[1:], system)
        if found is None:
            return False
        if not wanted.startswith("/") and "\\1" in wanted:
            wanted = wanted.replace("\\1", (found[1] or "") if found.re.groups else "")
            return wanted == user             # what came out of a name is a name, never a word with a meaning
    elif line.system != system:
        return False
    if wanted == "all":
        return True
    return re.search(wanted[1:], user) is not None if wanted.startswith("/") else wanted == user
