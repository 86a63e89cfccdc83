"""Our attention to a client of mode `auto`: its messages and the server's, one by one, through its Account.

Bytes of the client's wait in `inbox` until they are a message; what only has to pass (CopyData, the parameters of a Bind)
passes as it comes.  The Link goes on accounting for what is sent and received, so that all else that a relay does is done
as ever.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.errors import ClientFault, ProxyError, UpstreamFault, UpstreamRefused
from proxy.pool.listener import Ear
from proxy.pool.pool import Pool
from proxy.pool.tally import Tally
from proxy.pool.upstream import Key, Settings, Upstream
from proxy.relay.boarding import HELD_LIMIT
from proxy.relay.pump import BUF, BULK, VIEW, WOULD_BLOCK
from proxy.relay.relay import Relay
from proxy.relay.standin import StandIn
from proxy.session.account import Account
from proxy.session.consequences import Effect, Reason
from proxy.session.link import CONCERNS_DATABASES
from proxy.session.parameters import State
from proxy.session.queued import CANCELED, UpToSync, first_request, flushed
from proxy.wire import messages

MOST_WHOLE = 4 << 20               # bytes of a message that is read whole
MOST_WAITING = MOST_WHOLE + 65_536 # bytes of a client's that wait here, before it is no longer read
FLUSH = b"H\0\0\0\4"
_STREAMED = frozenset(b"dcf")
_Q, _P, _B, _X = b"QPBX"
_LOOKED_AT = frozenset(b"123nTCIsEZSGDA")
_WHOLE = 65_536                    # bytes of a server's message that is read whole


class Attention(Relay):
    """The half of an Attentive that reads messages."""

    __slots__ = ("ahead", "attention", "entering", "inbox", "judged", "judging", "passing", "standing", "struck",
                 "u_inbox", "u_passing", "withheld")
    if TYPE_CHECKING:
        @property
        def account(self) -> Account: ...
        def _enter(self) -> bool: ...
        def _rest(self) -> bool: ...
        def _ask_for_one(self) -> None: ...
        def _stands(self, tag: int, body: bytes) -> bool: ...
        def _strikes_are_over(self) -> None: ...
        def _attend(self, rest: bytes) -> None: ...
        ear: Ear | None
        def _put(self, out: bytearray, told: bytes | bytearray) -> None: ...
        def _stays_plain(self, tag: int, effects: tuple[Effect, ...]) -> bool: ...
        stub: bytes

    def __init__(self, sock: socket.socket, pool: Pool, tally: Tally, key: Key, settings: Settings | None,
                 concerns_databases: Callable[[bytes], None]) -> None:
        super().__init__(sock, pool, tally, key, settings, concerns_databases)
        self.attention = self.entering = False
        self.inbox = bytearray()              # of the client, not looked at
        self.ahead = b""                      # goes to the server with what follows
        self.passing = 0                      # bytes of a long message of the client's
        self.u_inbox = bytearray()            # of the server
        self.u_passing = 0
        self.struck: list[Upstream] = []      # by what we have sent
        self.standing: dict[Relay, StandIn] = {}   # for clients without a server, who are struck
        self.judging = 0                      # of these, how many may have died: until that is known
        self.judged = False                   # somebody waits for it
        self.withheld = bytearray()           # what the client is told then

    # -- from the client ----------------------------------------------------------------------------------

    def _ride(self, upstream: Upstream) -> None:
        has = upstream.settings
        assert isinstance(has, State)
        self.account.ride(has, upstream.prepared)

    def _advance(self) -> None:
        """Do what can be done for the client's bytes that are here."""
        try:
            while self.attention and not self._done.done() and self._one_step():
                continue
            if self.ahead:
                self._send(b"")
        except ProxyError as fault:
            self._client_fault(fault)
            return
        if len(self.inbox) >= MOST_WAITING or (len(self.inbox) >= HELD_LIMIT and len(self.inbox) > int.from_bytes(self.inbox[1:5])):
            self.pause()
        elif self.attention and not self.leaving and not self.reading and (self.upstream is None or self.upstream.backlog is None):
            self.resume()

    def _one_step(self) -> bool:
        inbox = self.inbox
        if self.judging:
            return False
        if self.upstream is None:
            if inbox.startswith(FLUSH) and not self.passing:
                del inbox[:len(FLUSH)]         # of a batch that is over
                return True
            if self.place is None and self.waiter is None and (len(inbox) >= 5 or self.passing):
                self._ask_for_one()
            return self.upstream is not None
        if self.upstream.backlog is not None or (self.entering and not self._enter()):
            return False
        account = self.account
        if self.passing:
            if not inbox:
                return False
            piece = bytes(inbox[:self.passing])
            del inbox[:len(piece)]
            self.passing -= len(piece)
            self._send(piece)
            return True
        if account.dues and account.dues[-1].ours and account.dues[-1].then is not None and not account.dues[-1].leads:
            return False                       # our own question: what it says matters to what follows
        if not inbox and account.quiet and not self.owed:
            return self._rest()
        if len(inbox) < 5:
            return False
        size = int.from_bytes(inbox[1:5])
        if not 4 <= size <= 0x7FFFFFFF:
            raise ClientFault(f"invalid message length {size}")
        return self._message(inbox[0], size + 1)

    def _message(self, tag: int, total: int) -> bool:
        inbox, account = self.inbox, self.account
        if tag == _X:
            inbox.clear()
            self._leave()
            return False
        if tag in _STREAMED and (tag == 0x64 or total <= len(inbox)):
            if tag != 0x64:
                account.client(tag, b"")
            self.passing = total
            return True
        if tag == _B and not account.skipping:
            return self._bind(total)
        if total > len(inbox):
            if total <= MOST_WHOLE:
                return False
            if tag != _Q and not account.skipping:
                raise ClientFault(f"a message of {total} bytes is too long for pool.mode = auto", hint="Use simple queries, or COPY.")
            account.pin(Reason.LENGTH, f"a text of {total} bytes")
            account.client(tag, b"\0")
            self.passing = total
            return True
        body = bytes(inbox[5:total])
        if not (account.follows(tag, body) and self._stands(tag, body)
                and (self.ear is None or self._stays_plain(tag, account.meant(tag, body)))):
            return False
        if not self.open and (question := account.whose_sequences(tag, body)):
            self._send(question)
            return False
        del inbox[:total]
        if tag in (_Q, _P) and CONCERNS_DATABASES in body.lower() and len(body) < 65_536:
            self.concerns_databases(body)
        if tag not in b"QPBDECSFHcf":
            raise ClientFault(f"invalid frontend message type {tag}")
        self._send(account.client(tag, body))
        return True

    def _bind(self, total: int) -> bool:
        """Only its names matter; what follows them may be long."""
        inbox = self.inbox
        portal_end = inbox.find(0, 5, total)
        name_end = inbox.find(0, portal_end + 1, total) if portal_end >= 0 else -1
        if name_end < 0:
            if len(inbox) < total and len(inbox) < MOST_WHOLE:
                return False
            raise ClientFault("invalid Bind message")
        portal, name = bytes(inbox[5:portal_end]), bytes(inbox[portal_end + 1:name_end])
        names = b"\0".join((portal, name, b""))
        if not (self.account.follows(_B, names) and (self.ear is None or self._stays_plain(_B, self.account.meant(_B, names)))):
            return False
        if self.account.whole_bind(name) and total <= MOST_WHOLE:
            if len(inbox) < total:
                return False
            body = bytes(inbox[5:total])
            if not self._stands(_B, body):
                return False
            del inbox[:total]
            self._send(self.account.client(_B, body))
            return True
        ahead, there = self.account.bind(portal, name)
        del inbox[:name_end + 1]
        self.passing = total - name_end - 1
        size = total - 1 - len(name) + len(there)
        piece = bytes(inbox[:self.passing])
        del inbox[:len(piece)]
        self.passing -= len(piece)
        self._send(ahead + b"B" + size.to_bytes(4) + portal + b"\0" + there + b"\0" + piece)
        return True

    def _send(self, data: bytes) -> None:
        upstream = self.upstream
        if self.ahead:
            data, self.ahead = self.ahead + data, b""
        if not data or upstream is None:
            return
        self.from_client(bytearray(data), len(data))
        if upstream.backlog is not None:
            upstream.push(data)
            return
        try:
            sent = upstream.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self._upstream_broken()
            return
        if sent < len(data):
            upstream.push(data[sent:])
            self.pause()

    def _piece(self) -> bytes:
        """What the client has sent; nothing where there is nothing, or where it has gone: then the relay is over."""
        try:
            piece = self.sock.recv(BULK)
        except WOULD_BLOCK:
            return b""
        except OSError:
            self.finish("client connection lost")
            return b""
        if not piece:
            self.finish("client closed the connection")
        return piece

    def _receive(self) -> None:
        piece = self._piece()
        if not piece:
            return
        self.inbox += piece if self.skip is None else self._behind_sync(piece)
        self._advance()

    def cancel_wait(self) -> None:
        """As of any relay that waits; what the Link has walked is forgotten, since it will not be sent."""
        if self.place is None or self.waiter is not None or self.upstream is not None:
            return
        waiting = self.held + self.stub + self.inbox
        cut = first_request(waiting)
        if cut is None and flushed(waiting) is None:
            return
        self.unwalk()
        self.held = self.stub = b""
        self.inbox[:] = rest = waiting[cut.end:] if cut is not None else b""
        if len(rest) < 5:
            self._withdraw()
        if cut is None:
            self.skip = UpToSync()
        self.tally.errors["57"] += 1
        self._say(CANCELED if cut is None else CANCELED + messages.ready_for_query())
        if not rest and cut is not None and (self.draining or self.leaving):
            self._end_of_work()
        elif not self.attention:
            self._attend(b"")
        else:
            self._advance()

    def _behind_sync(self, piece: bytes) -> bytes:
        """What of `piece` is not thrown away with a request that was cancelled while it waited."""
        assert self.skip is not None
        rest = self.skip.feed(piece)
        if rest is None:
            return b""
        goodbye, self.skip = self.skip.goodbye, None
        if goodbye:
            self.finish("client said goodbye")
        else:
            self._say(messages.ready_for_query())
            if self.draining and not rest:
                self._end_of_work()
        return rest

    def on_upstream_writable(self) -> None:
        super().on_upstream_writable()
        if self.attention:
            self._advance()

    # -- from the server ----------------------------------------------------------------------------------

    def on_upstream(self) -> None:
        if not self.attention or self.entering:
            super().on_upstream()
            if self.attention:
                self._advance()
            return
        upstream = self.upstream
        if upstream is None:
            return
        try:
            n = upstream.recv_into(VIEW[:BULK])
        except WOULD_BLOCK:
            return
        except OSError:
            n = 0
        if not n:
            self._upstream_lost(upstream)
            return
        try:
            self.from_upstream(BUF, n)
            if self.reported is not None:
                upstream.reported(self.reported)
                self.reported = None
            told = self._digest(bytes(VIEW[:n]))
            if self.account.lost is not None:
                raise UpstreamRefused(messages.parse_fields(self.account.lost))
        except UpstreamFault as fault:
            self._upstream_fault(fault)
            return
        if told and (self.standing or self.judging):
            self.withheld += told
        elif told:
            self._tell_client(told)
        if self.leaving and not self._done.done() and (self.copying or not (self.owed or self.u_left or self.u_part)):
            self.finish("client said goodbye")
            return
        self._settled()
        if upstream.tls and not upstream.broken and upstream.sock.pending():  # type: ignore[attr-defined]
            self.loop.call_soon(upstream.again)

    def _digest(self, data: bytes) -> bytes:
        """Through the account, message by message; long ones as they come."""
        out = bytearray()
        put = out.extend if self.ear is None else functools.partial(self._put, out)
        inbox = self.u_inbox
        if not inbox and self.u_passing >= len(data):
            self.u_passing -= len(data)
            put(data)
            return bytes(out)
        inbox += data
        at = 0
        while at < len(inbox):
            if self.u_passing:
                piece = inbox[at:at + self.u_passing]
                at += len(piece)
                self.u_passing -= len(piece)
                put(piece)
                continue
            if len(inbox) - at < 5:
                break
            tag, total = inbox[at], int.from_bytes(inbox[at + 1:at + 5]) + 1
            due = self.account.dues[0] if self.account.dues else None
            ours = due is not None and (due.ours or due.hidden or due.woven is not None)
            if not ours and (tag not in _LOOKED_AT or tag == 0x44 or (tag in b"TE" and total > _WHOLE)):
                if tag in b"TE":
                    put(self.account.server(b"%c" % tag, bytes(inbox[at + 5:at + 4096]), bytes(inbox[at:at + 5])))
                    at += 5
                    self.u_passing = total - 5
                else:
                    self.u_passing = total
                continue
            if total > max(_WHOLE, MOST_WHOLE):
                raise UpstreamFault(f"the server sent a message of length {total - 1}")
            if len(inbox) - at < total:
                break
            whole = bytes(inbox[at:at + total])
            at += total
            put(self.account.server(whole[:1], whole[5:], whole))
        del inbox[:at]
        return bytes(out)

    def _upstream_lost(self, upstream: Upstream, fault: UpstreamFault | None = None) -> None:
        withheld, self.withheld = bytes(self.withheld), bytearray()
        if withheld:
            self._tell_client(withheld)        # its own last words may be among it
        super()._upstream_lost(upstream, fault)

    def _tell_client(self, data: bytes) -> None:
        if self.backlog is not None:
            self.backlog += data
            return
        try:
            sent = self.sock.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self.finish("client connection lost")
            return
        if sent < len(data):
            assert self.upstream is not None
            self._keep(memoryview(data)[sent:], self.upstream)

    def _settled(self) -> None:
        """The server has answered: is there something of our own to do?"""
        account = self.account
        if (self.struck or self.standing) and account.quiet and all(each.place is None for each in self.standing.values()):
            self._strikes_are_over()
        if self.judging:
            self.judged = True
            return
        if account.stale:
            account.stale = False
            self.pool.refresh()
        if not self._done.done() and account.quiet and not (self.owed or self.open or self.u_passing or self.u_inbox or self.passing):
            if account.astray and account.status != b"E":
                self._send(account.adjust())
                return
            question = account.wonder() if account.status == b"I" else b""
            if question:
                self._send(question)
                return
        self._advance()
