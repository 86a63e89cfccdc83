"""MySQL's wire, both ways: logins as server and as client, the walk over commands and answers, texts that are ours to read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from proxy.auth import mysql as proofs
from proxy.config.target import Credential, Secret, SslMode, Tls
from proxy.errors import ClientFault, ProxyError, UpstreamFault
from proxy.gateway.mysql_lobby import Enter, Lobby
from proxy.pool.tally import Tally
from proxy.session.effects import Ask, Dialogue, Work
from proxy.session.mysql_commands import Kill, Use, understood
from proxy.session.mysql_handshake import Exam, Offer, greet, prove
from proxy.session.mysql_link import ENDED, Link
from proxy.session.mysql_login import Wish, login
from proxy.wire import mysql, mysql_login
from proxy.wire.mysql import Can

WISHES = [Wish(), Wish(capabilities=Wish().capabilities | Can.DEPRECATE_EOF | Can.SESSION_TRACK, database="d", attributes={"a": "b"})]


def _packets(data: bytes) -> list[tuple[int, bytes]]:
    """As they stand on the wire, up to one that is not whole."""
    found, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at:at + 3], "little")
        if at + 4 + size > len(data):
            break
        found.append((data[at + 3], data[at + 4:at + 4 + size]))
        at += 4 + size
    return found


def _play(dialogue: Dialogue[Any], said: Sequence[tuple[int, bytes]]) -> object:
    """What comes of it; None where the peer ends too early."""
    answer: Any = None
    left = iter(said)
    try:
        while True:
            match dialogue.send(answer):
                case Ask.PACKET:
                    answer = next(left, None)
                    if answer is None:
                        return None
                case Work(function):
                    answer = function()
                case _:
                    answer = None
    except StopIteration as end:
        return end.value
    except ProxyError:
        return None
    finally:
        dialogue.close()


def fuzz_mysql_login_client(data: bytes) -> None:
    """A client logs in at us: with a plain password, with a verifier, unknown."""
    said = _packets(data[1:])
    exam = [Exam(digests={name: make(b"s3cret") for name, make in proofs.DIGESTS.items()}), Exam(whole=True, safe=True),
            Exam(native=False)][data[0] % 3 if data else 0]

    def whole() -> Dialogue[Any]:
        hello = yield from greet(Offer(version="8.0.0", thread=1, tls=bool(data and data[0] & 4)))
        assert len(hello.answer.user) <= len(data)
        told = yield from prove(hello, exam)
        assert told is not None or exam.digests
        return told

    told = _play(whole(), said)
    assert told is None or isinstance(told, str)
    try:
        answer = mysql_login.parse_answer(data)
    except ClientFault:
        return
    assert answer.database != ""


def fuzz_mysql_login_server(data: bytes) -> None:
    """A server talks to us while we log in."""
    said = _packets(data[1:])
    tls = Tls(mode=list(SslMode)[data[0] % 3 * 2 if data else 0])
    for wish in WISHES:
        _play(login(Credential(user="u", password=Secret("s3cret")), wish, tls, local=False), said)
    for parse in (mysql_login.parse_greeting, mysql_login.parse_switch):
        try:
            parse(data)
        except UpstreamFault:
            pass
    errno, _, words = mysql.parse_error(data)
    assert 0 <= errno < 65_536
    assert len(words) <= len(data)


def _server_state(link: Link) -> tuple[object, ...]:
    tally = link.tally
    return (link.owed, list(link.kinds), link.status, link.copying, link.told, link.between, link._phase, link._column_count,
            tally.queries, tally.transactions, dict(tally.errors))


def _heard(data: bytes, kinds: bytes, step: int, *, eof: bool) -> object:
    link = Link(Tally("p", "s", "u"), Can(0) if eof else Can.DEPRECATE_EOF)
    for kind in kinds:
        link.begin(kind % 5)
    ended = 0
    for at in range(0, len(data), step):
        piece = bytearray(data[at:at + step])
        try:
            ended = link.from_upstream(piece, len(piece))
        except UpstreamFault as fault:
            return str(fault)
        assert len(link._up_part) < 40
    assert not ended & ENDED or not link.owed
    return _server_state(link)


def fuzz_mysql_answers(data: bytes) -> None:
    """Any cut of what a server says leaves what the whole leaves."""
    head, data = data[:6].ljust(6, b"\0"), data[6:]
    whole = _heard(data, head[1:4], len(data) or 1, eof=bool(head[0] & 1))
    cut = _heard(data, head[1:4], head[4] % 64 + 1, eof=bool(head[0] & 1))
    assert cut == whole, (cut, whole)


def _said(data: bytes, step: int) -> object:
    """As the relay does: what is left over is looked at with what comes next."""
    link, held, gone = Link(Tally("p", "s", "u"), Can(0)), b"", 0
    for at in range(0, len(data), step):
        held += data[at:at + step]
        piece = bytearray(held)
        try:
            link.from_client(piece, len(piece))
        except ClientFault as fault:
            return str(fault)
        assert link.cut <= len(piece)
        gone += link.cut
        held = held[link.cut:]
    return gone, list(link.kinds), link.partial


def fuzz_mysql_commands(data: bytes) -> None:
    step, data = (data[0] % 64 + 1, data[1:]) if data else (1, data)
    whole, cut = _said(data, len(data) or 1), _said(data, step)
    assert cut == whole, (cut, whole)
    if data:
        found = understood(data)
        if isinstance(found, Kill):
            assert understood(found.worded(7)) == Kill(7, found.words)
        elif isinstance(found, Use):
            assert len(found.database) <= len(data)


class _Nowhere:
    async def databases(self) -> Sequence[str]:
        return ["backstage_plugin_catalog"]

    async def create(self, database: str) -> bool:
        return "a" in database

    def kill(self, command: Kill) -> None:
        return None


def fuzz_mysql_lobby(data: bytes) -> None:
    lobby = Lobby(places=_Nowhere(), version="8", thread=1, user="u@h", capabilities=Can(0))
    for _, payload in _packets(data) or [(0, data)]:
        answer = asyncio.run(lobby.answer(payload)) if payload else b""
        assert answer is None or isinstance(answer, (bytes, Enter))
        assert len(lobby.settings) <= 50


TARGETS: dict[str, Callable[[bytes], None]] = {
    "mysql_login_client": fuzz_mysql_login_client, "mysql_login_server": fuzz_mysql_login_server,
    "mysql_answers": fuzz_mysql_answers, "mysql_commands": fuzz_mysql_commands, "mysql_lobby": fuzz_mysql_lobby}
