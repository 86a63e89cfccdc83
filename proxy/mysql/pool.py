"""A plugin's connections to its MySQL server: the pool of PostgreSQL's, with MySQL's words.

A connection is kept apart by what a client has agreed on with us (capabilities and character set): those cannot be changed
behind a login.  Between two clients it is reset (COM_RESET_CONNECTION: transactions, variables, temporary tables, locks,
prepared statements) and led back to its database, which a reset leaves alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.mysql.reach import GOODBYE, parameters_of, wish_of
from proxy.pool.lane import Place, Waiter
from proxy.pool.pool import Pool
from proxy.pool.reach import Reached
from proxy.pool.upstream import MAX_CHORE, Key, Upstream
from proxy.session.mysql_login import Wish
from proxy.wire.mysql import ERR, OK, UTF8MB4, Can, Command, packets
from proxy.wire.mysql_errors import refused

if TYPE_CHECKING:
    from proxy.config.target import Target

RESET = "reset"
_PING = packets(bytes((Command.PING,)))


def key_of(capabilities: Can, charset: int) -> Key:
    return frozenset({("capabilities", str(int(capabilities))), ("charset", str(charset))})


class MysqlUpstream(Upstream):
    """One connection.  `pid` is the server's own id of it."""

    __slots__ = ()
    goodbye = GOODBYE
    pool: MysqlPool

    def worded(self, statement: str) -> bytes:
        if not statement:
            return _PING
        if statement != RESET:
            return packets(bytes((Command.QUERY,)) + statement.encode())
        return packets(bytes((Command.RESET_CONNECTION,))) + packets(bytes((Command.INIT_DB,)) + self.pool.target.database.encode())

    def replies(self, statements: Sequence[str]) -> int:
        return sum(2 if statement == RESET else 1 for statement in statements)

    def _read_answers(self) -> None:
        data, at, bad = self._answers, 0, False
        while len(data) - at >= 4:
            size = int.from_bytes(data[at:at + 3], "little")
            if not 0 < size <= MAX_CHORE or not self._chore_left:
                bad = True                    # its last words, or what nobody asked for
                break
            if len(data) - at < size + 4:
                break
            payload = bytes(data[at + 4:at + 4 + size])
            at += size + 4
            if payload[0] == ERR:
                self.refusal = refused(payload)
            if payload[0] != OK:
                bad = True
                break
            self._chore_left -= 1
        del data[:at]
        if bad:
            self._lost()
        elif self._then is not None and not self._chore_left:
            self._chore_done(True)


class MysqlPool(Pool):
    usual: Key = key_of(Wish().capabilities, UTF8MB4)         # as the last client that had to ask wanted it

    def request(self, waiter: Waiter) -> Place:
        self.usual = waiter.key
        return super().request(waiter)

    def _dial(self, key: Key) -> None:
        """`min_size` dials for nobody in particular: for one like the last."""
        super()._dial(key or self.usual)

    def _parameters(self, key: Key) -> dict[str, str]:
        target = self.target
        found = wish_of(dict(key))
        return parameters_of(Wish(capabilities=found.capabilities, charset=found.charset, database=target.database,
                                  attributes=attributes(target)))

    async def _prepared(self, reached: Reached) -> None:
        return

    def _upstream(self, reached: Reached, key: Key, now: float) -> Upstream:
        return MysqlUpstream(self, reached, key, now)

    def reset(self) -> list[str]:
        return [RESET]


def attributes(target: Target) -> dict[str, str]:
    """How we are named in the server's performance_schema.session_connect_attrs."""
    return {"_client_name": "switchboard", "program_name": f"backstage_plugin_{target.plugin}"}
