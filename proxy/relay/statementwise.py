"""Mode `statement`: the lease goes back at the end of each statement, and who begins a transaction is refused.

As PgBouncer has it, for autocommit clients alone; each answer is looked at, so the compiled twin does not do its events.
"""

from __future__ import annotations

from typing import Any

from proxy.errors import NotSupported
from proxy.pool.upstream import Upstream
from proxy.relay.relay import Relay
from proxy.session.link import I


class Statementwise(Relay):
    __slots__ = ()

    def __init__(self, *everything: Any) -> None:
        super().__init__(*everything)
        self.swift = False

    def on_upstream(self) -> None:
        super().on_upstream()
        if self.status != I and not self._done.done():
            self.finish("a transaction in statement mode", NotSupported(
                "transaction blocks not allowed in statement pooling mode",
                hint="Set pool.mode, or the user's mode, to auto or transaction."))

    def _mount(self, upstream: Upstream) -> None:
        super()._mount(upstream)
        self.swift = False

    def _dismount(self) -> Upstream | None:
        upstream = super()._dismount()
        self.swift = False
        return upstream

    def _release(self) -> None:
        super()._release()
        self.swift = False
