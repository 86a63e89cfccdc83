"""Who may come in how: the rules of one configuration, and what is needed to apply them to a caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.auth.rules import Rules
from proxy.net.interfaces import Interfaces
from proxy.net.names import HostNames
from proxy.server.judge import Judge

if TYPE_CHECKING:
    from proxy.config.clients import Auth


class Gate:
    def __init__(self, settings: Auth) -> None:
        self.interfaces = Interfaces()
        self.judge = Judge()
        self.apply(settings)

    def apply(self, settings: Auth) -> None:
        """`rules` is None where everybody logs in by `auth.method`."""
        self.rules = rules = Rules(settings.rules) if settings.rules else None
        self.names = HostNames(lambda name: rules is not None and rules.speak_of(name), settings.name_timeout)
