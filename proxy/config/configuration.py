"""The whole configuration: read once, frozen, asked by everybody.  `read` collects every mistake before it raises."""

from __future__ import annotations

import getpass
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from proxy.config.dial import target as make_target
from proxy.config.doubts import doubts, missing_database
from proxy.config.load import default_files, load
from proxy.config.mistakes import contradicted, worded
from proxy.config.passed_over import passed_over
from proxy.config.resolve import resolve
from proxy.config.resolved import EMBEDDED, Resolved
from proxy.config.routing import Routing
from proxy.config.rule import Rule
from proxy.config.settings import LATER, Settings, contradictions
from proxy.config.target import Credential, Engine, Secret, Server, Target
from proxy.config.yaml12 import Node
from proxy.errors import ConfigProblems, ProxyError

OURS = ("backend.database.", "switchboard.")


@dataclass(frozen=True, kw_only=True)
class Configuration(Routing):
    settings: Settings
    root: Node = field(repr=False)              # backend.database
    tree: Node = field(repr=False)              # everything, with origins
    paths: tuple[Path, ...] = ()
    user: str = "postgres"                      # the OS user: what pg falls back to
    warnings: tuple[str, ...] = ()
    own: tuple[Server, Credential] | None = None

    @property
    def needs_embedded(self) -> bool:
        base = self.root.get("client")
        if base is not None and base.value == EMBEDDED:
            return True
        return any(self.target(plugin).engine in (Engine.EMBEDDED, Engine.MEMORY) for plugin in ("catalog", *self.listed))

    @property
    def has_files(self) -> bool:
        """Is there a plugin in a SQLite file, behind the gateway?"""
        return any(self.target(plugin).engine is Engine.SQLITE for plugin in ("catalog", *self.listed))

    @property
    def fingerprint(self) -> str:
        """Equal for equal content; says nothing of it."""
        return hashlib.sha256(repr((self.root.plain(), self.settings.model_dump_json())).encode()).hexdigest()[:12]

    def placed(self, server: Server, credential: Credential) -> Configuration:
        """The same, with our own PostgreSQL running there."""
        return replace(self, own=(server, credential))

    def resolved(self, plugin: str) -> Resolved:
        return resolve(self.root, plugin)

    def target(self, plugin: str) -> Target:
        """Raises OperatorFault for a plugin that cannot be resolved."""
        target = self._by_engine(make_target(resolve(self.root, plugin), self.user))
        if target.engine in (Engine.EMBEDDED, Engine.MEMORY):
            if self.own is not None:
                target = replace(target, server=self.own[0], credential=self.own[1], provisioner=self.own[1])
            return target
        if target.engine in (Engine.POSTGRES, Engine.MYSQL):
            return replace(target, provisioner=self._provisioner(target))
        return target

    def _by_engine(self, target: Target) -> Target:
        """What `switchboard.plugin.<id>.engine` says of a plugin in SQLite."""
        if target.engine not in (Engine.MEMORY, Engine.SQLITE):
            return target
        own = self.settings.plugin.get(target.plugin)
        engine = own.engine if own is not None else None
        if engine == "reject":
            return replace(target, engine=Engine.REJECTED)
        if engine == "embedded" and target.engine is Engine.SQLITE:
            return replace(target, engine=Engine.EMBEDDED, filename=None, database=f"backstage_plugin_{target.plugin}")
        if engine == "gateway" or target.engine is Engine.SQLITE:
            return replace(target, engine=Engine.SQLITE, database=target.plugin,
                           read_only=own is not None and own.read_only)
        return target

    def _provisioner(self, target: Target) -> Credential | None:
        """Who may create on the target's server: configured for it, else the base's credential there, else its own."""
        for entry in self.settings.provisioning.credentials:
            if entry.server == str(target.server):
                word = entry.password.get_secret_value() if entry.password is not None else None
                return Credential(user=entry.user, password=Secret(word) if word else None)
        try:
            base = make_target(resolve(_without_plugins(self.root), "base"), self.user)
        except ProxyError:
            return target.credential
        same = base.engine is target.engine and base.server is not None and str(base.server) == str(target.server)
        return base.credential if same and base.credential is not None else target.credential


def _without_plugins(root: Node) -> Node:
    return Node({key: node for key, node in root.value.items() if key != "plugin"}, root.file, root.line, root.column)


def read(paths: Sequence[str | Path] | None = None, *, environ: Mapping[str, str] | None = None,
         cwd: Path | None = None) -> Configuration:
    """Read and check everything.  Raises ConfigProblems with all mistakes."""
    environ = os.environ if environ is None else environ
    folder = cwd or Path.cwd()
    files = [folder / path for path in paths] if paths else default_files(folder, environ)
    problems: list[str] = []
    left_out: dict[str, str] = {}
    tree = load(files, environ, problems, left_out)
    whole = not problems                      # else what is missing may stand where it could not be read
    section = tree.get("switchboard") or Node({})
    settings = Settings()
    try:
        settings = Settings.model_validate(section.plain(), context=LATER)
        problems += [contradicted(section, where, problem) for where, problem in contradictions(settings)]
    except ValidationError as error:
        problems += [worded(section, item) for item in error.errors() if whole or item["type"] != "missing"]
    root = tree.get("backend", "database")
    if root is None or not isinstance(root.value, dict):
        if whole:
            problems.append(missing_database(tree, str(files[0])))
        raise ConfigProblems(problems)
    configuration = Configuration(settings=settings, root=root, tree=tree, paths=tuple(files), user=_os_user(environ))
    odd = list(passed_over(root))
    problems += [one.text for one in odd if one.unsafe]
    warnings = [text for path, text in left_out.items() if path.startswith(OURS) and tree.get(*path.split(".")) is None]
    warnings += [one.text for one in odd if not one.unsafe]
    for plugin in ("base", *configuration.listed):
        found: list[str] = []
        try:
            make_target(resolve(root, plugin, found), configuration.user, found)
        except ProxyError as fault:
            found.append(str(fault))
        # Behind a connection string that says nothing, everything would be missing.
        unread = not whole or any("connection: the connection string" in problem for problem in found)
        problems += [problem for problem in dict.fromkeys(found)
                     if problem not in problems and not (unread and "is missing" in problem)]
    if not problems:
        warnings += doubts(tree, configuration)
    for number, rule in enumerate(settings.auth.rules):
        warnings += [f"switchboard.auth.rules[{number}]: {text}" for text in _doubtful(rule)]
    for name, user in settings.users.items():
        if user.password is None and (user.method or settings.auth.method) != "trust" and not settings.auth.rules and name != "*":
            node = section.get("users", name)
            unset = left_out.get(f"switchboard.users.{name}.password", "").partition("because ")[2]
            problems.append(f"{node.place if node else ''}: switchboard.users.{name}: has no password{unset and f' ({unset})'}; "
                            "set one, or a verifier made by `switchboard hash-password`, or method: trust")
    if problems:
        raise ConfigProblems(problems)
    return replace(configuration, warnings=tuple(warnings))


def _doubtful(rule: Rule) -> Iterator[str]:
    """What may be meant so, but should not."""
    if rule.method == "ldap" and rule.read_by_others:
        yield f"passwords go in clear to {rule.read_by_others}; set ldaptls: true or ldapscheme: ldaps"
    library = {"ldap": "ldap3", "pam": "pam"}.get(rule.method)
    if library is not None and find_spec(library) is None:
        yield f"method {rule.method} lets nobody in without its library: pip install 'pg-switchboard[{rule.method}]'"


def _os_user(environ: Mapping[str, str]) -> str:
    if environ.get("PGUSER"):
        return environ["PGUSER"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "postgres"
