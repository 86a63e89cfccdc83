"""One target per parser of strangers' bytes: bytes parse or raise our own fault, and what must hold besides.

The strongest are about Link: any cut of a stream leaves the state that the whole leaves, the compiled twin says what the
Python text says, and the requests counted are those that a slow reader of messages counts.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from proxy.auth.scram import ScramServer, make_verifier, parse_verifier
from proxy.auth.scram_client import PLAIN, PLUS, ScramClient
from proxy.config import connection_string, libpq, pgpass, words, yaml12
from proxy.config.clients import Method
from proxy.config.target import Credential, Proof, Secret
from proxy.errors import ClientFault, ProxyError, UpstreamFault
from proxy.gateway.engine import Column, Described, Plainly, Result
from proxy.gateway.session import Session
from proxy.pool.tally import PureTally, Tally
from proxy.session import pids
from proxy.session.account import Account
from proxy.session.consequences import Pin, Reason
from proxy.session.effects import Ask, Dialogue, Work
from proxy.session.handshake import Login, greet, prove
from proxy.session.link import Link, PureLink
from proxy.session.login import Channel, login
from proxy.session.parameters import NOTHING, Parameters
from proxy.session.routines import Routines
from proxy.session.statements import ordinary, read, statements
from proxy.wire import messages, proxy_header, startup
from tests.fuzz.gateway_targets import TARGETS as GATEWAY
from tests.fuzz.mysql_targets import TARGETS as MYSQL

VERIFIER = make_verifier("secret", 4096, b"0123456789abcdef")
PATIENCE = 100_000      # PBKDF2 rounds; more is legal, and only slow


def fuzz_startup(data: bytes) -> None:
    try:
        if len(data) >= 4:
            assert 8 <= startup.length_of(data) <= startup.MAX_STARTUP
        packet = startup.parse(data)
    except ClientFault:
        return
    if isinstance(packet, startup.Startup) and packet.minor == 0 and not packet.unknown:
        again = startup.parse(startup.pack(packet.parameters))
        assert isinstance(again, startup.Startup)
        assert again.parameters == packet.parameters


def fuzz_proxy_header(data: bytes) -> None:
    for parse_header in (proxy_header.parse_v1, proxy_header.parse_v2):
        try:
            source = parse_header(data)
        except ClientFault:
            continue
        assert source is None or 0 <= source.port < 65_536


def fuzz_messages(data: bytes) -> None:
    messages.parse_fields(data)
    try:
        messages.parse_parameter_status(data)
    except UpstreamFault:
        pass


def _state(link: Any) -> tuple[object, ...]:
    tally = link.tally
    return (list(link.owed), link.status, link.open, link.copying, link.fatal, link.c_left, link.u_left, link.c_part,
            link.u_part, link.partial, link.settled, tally.queries, tally.transactions, tally.from_client, tally.from_upstream,
            sum(tally.errors.values()))


def _fed(link: Any, direction: str, data: bytes, step: int) -> object:
    """The state after the stream, or the fault that ended it."""
    for at in range(0, len(data), step):
        piece = data[at:at + step]
        try:
            flags = getattr(link, direction)(bytearray(piece), len(piece))
        except (ClientFault, UpstreamFault) as fault:
            return type(fault), str(fault)
        if direction == "from_client" and flags & 2:      # TERMINATE: nothing is read after it
            return "terminated", list(link.owed), link.open
    return _state(link)


def _link(data: bytes, direction: str) -> None:
    step, data = (data[0] % 64 + 1, data[1:]) if data else (1, data)
    whole = _fed(PureLink(PureTally("p", "s", "u"), watch=True), direction, data, len(data) or 1)
    cut = _fed(PureLink(PureTally("p", "s", "u"), watch=True), direction, data, step)
    assert cut == whole, (cut, whole)
    if Link is not PureLink:
        twin = _fed(Link(Tally("p", "s", "u"), watch=True), direction, data, step)
        assert twin == whole, (twin, whole)


def _bodies(data: bytes) -> list[tuple[int, bytes]] | None:
    """A slow reader: whole messages, in order; None for a length that no message has."""
    found, at = [], 0
    while at + 5 <= len(data):
        size = struct.unpack_from("!I", data, at + 1)[0]
        if not 4 <= size <= 0x7FFFFFFF:
            return None
        found.append((data[at], data[at + 5:at + 1 + size]))
        at += 1 + size
    return found


def fuzz_link_client(data: bytes) -> None:
    _link(data, "from_client")
    found = _bodies(data[1:])
    if found is not None and all(tag in b"QSFPBDECHd" for tag, _ in found):
        rides = PureLink(PureTally("p", "s", "u"), watch=False)
        rides.from_client(bytearray(data[1:]), len(data) - 1 if data else 0)
        assert bytes(rides.owed) == bytes(tag for tag, _ in found if tag in b"QSF")


def fuzz_link_upstream(data: bytes) -> None:
    _link(data, "from_upstream")
    found = _bodies(data[1:])
    if found is not None and all(tag not in b"SZ" or (len(body) == 1 and tag == 90) for tag, body in found[:-1]):
        rides = PureLink(PureTally("p", "s", "u"), watch=False)
        try:
            rides.from_upstream(bytearray(data[1:]), len(data) - 1 if data else 0)
        except UpstreamFault:
            return
        assert rides.tally.queries == sum(tag == 90 and len(body) == 1 for tag, body in found)


def _play(dialogue: Dialogue[Any], data: bytes) -> None:
    """Answer a dialogue from `data`: packets by their own length, messages as a tag, a length byte and a body."""
    at, answer = 0, None
    try:
        while True:
            asked = dialogue.send(answer)
            answer = None
            if asked is Ask.STARTUP:
                if len(data) < at + 4:
                    return
                size = startup.length_of(data[at:at + 4])
                answer = startup.parse(data[at:at + size])
                at += size
            elif asked is Ask.MESSAGE:
                if len(data) < at + 2:
                    return
                answer = data[at], data[at + 2:at + 2 + data[at + 1]]
                at += 2 + data[at + 1]
            elif asked is Ask.BYTE:
                answer, at = data[at:at + 1], at + 1
            elif asked is Ask.ALPN:
                answer, at = (startup.ALPN if data[at:at + 1] == b"p" else None), at + 1
            elif isinstance(asked, Work):
                return                                    # PBKDF2; what it leads to is the targets' of scram
    except (StopIteration, ProxyError):
        pass


def fuzz_handshake(data: bytes) -> None:
    _play(greet(tls_offered=bool(data[:1] > b"\x7f"), tls_required=False), data[1:])
    for method in (Method.SCRAM, Method.MD5, Method.PASSWORD):
        _play(prove(Login("u", method, str(VERIFIER))), data)


def fuzz_login(data: bytes) -> None:
    for channel in (Channel(), Channel(tls=True, end_point=b"hash")):
        _play(login(Credential(user="u", password=Secret("secret")), {"database": "d"}, channel, Proof()), data)


def fuzz_scram_server(data: bytes) -> None:
    first, _, final = data.partition(b"\n")
    for mechanism, end_point in ((PLAIN, None), (PLAIN, b"hash"), (PLUS, b"hash")):
        server = ScramServer(VERIFIER, end_point=end_point)
        try:
            server.first(first, mechanism)
            server.final(final)
        except ClientFault:
            continue
        raise AssertionError("a proof was taken for an answer to a nonce that nobody knew")


def fuzz_scram_client(data: bytes) -> None:
    first, _, final = data.partition(b"\n")
    client = ScramClient(Secret("secret"), nonce=b"abc")
    client.first()
    rounds = first.rpartition(b",i=")[2]
    if rounds.isdigit() and len(rounds) < 20 and int(rounds) > PATIENCE:
        return
    try:
        client.final(first)
        client.verify(final)
    except UpstreamFault:
        pass


def fuzz_verifier(data: bytes) -> None:
    try:
        parse_verifier(data.decode("utf-8", "replace"))
    except ValueError:
        pass


def fuzz_connection_string(data: bytes) -> None:
    try:
        connection_string.parse(data.decode("utf-8", "replace"))
    except connection_string.BadConnectionString:
        pass


def fuzz_libpq(data: bytes) -> None:
    found = libpq.parse_hosts(data.decode("utf-8", "replace"))
    if found is None:
        return
    try:
        server = libpq.server({key: value for key, value in found.items() if key not in ("sslrootcert", "sslcert", "sslkey")})
    except words.BadKey:
        return
    assert len(server.places) == len(found["host"].split(",")) > 1


def fuzz_pgpass(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    pgpass.find(text, ("h", "5432", "d", "u"))
    # A line of our own in front is found, whatever stands behind it.
    word = text[:20].replace("\n", "").replace("\r", "") or "x"
    escaped = word.replace("\\", "\\\\").replace(":", "\\:")
    assert pgpass.find(f"{'*:' * 4}{escaped}\n{text}", ("h", "5432", "d", "u")) == word


def fuzz_yaml(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        node = yaml12.parse(text, "fuzz.yaml")
        node.plain()
    except yaml12.YamlFault as fault:
        assert 1 <= fault.line <= sum(text.count(end) for end in "\n\r\x85\u2028\u2029") + 2


class _Echo(Plainly):
    """An engine that gives its parameters back: the parser is what is tried here."""

    def split(self, sql: str) -> list[str]:
        return [part for part in sql.split(";") if part.strip()]

    async def describe(self, sql: str, oids: Any = ()) -> Described:
        return Described((25,) * min(sql.count("$"), 9), (Column("a"),) if sql.startswith("s") else None)

    async def execute(self, sql: str, parameters: Any, formats: Any = (), oids: Any = ()) -> Result:
        if sql.startswith("s"):
            return Result("SELECT 1", (Column("a"),), [[next(iter(parameters), None)]])
        if sql.startswith("c"):
            return Result("", intake=_Sink())
        return Result("BEGIN", status="T") if sql.startswith("b") else Result("COMMIT", status="I")


class _Sink:
    width = 1

    async def feed(self, data: bytes) -> None:
        pass

    async def finish(self) -> str:
        return "COPY 0"


class _Tape:
    def __init__(self, found: list[tuple[int, bytes]]) -> None:
        self.found, self.written = iter(found), bytearray()

    async def read_message(self) -> tuple[int, bytes]:
        for item in self.found:
            return item
        raise EOFError

    async def write(self, data: bytes) -> None:
        self.written += data


def fuzz_gateway(data: bytes) -> None:
    asked = _bodies(data) or []
    tape = _Tape(asked)
    running = Session(tape, _Echo()).run()
    try:
        running.send(None)
    except (StopIteration, ProxyError):
        pass
    else:
        raise asyncio.InvalidStateError("it waited for something")
    answers = _bodies(bytes(tape.written))
    assert answers is not None
    ready = sum(tag == 90 for tag, _ in answers)
    assert ready <= sum(tag in b"QS" for tag, _ in asked)


def fuzz_statements(data: bytes) -> None:
    """Any text has consequences that can be told, and spans that lie in it."""
    for conforming in (True, False):
        found = statements(data, conforming=conforming)
        assert all(0 <= one.start < one.end <= len(data) for one in found)
        read(data, conforming=conforming)
    if ordinary(data):                        # what no scanner takes runs nowhere
        assert {effect for one in statements(data) for effect in one.effects} <= {Pin(Reason.OBSCURE)}
    pids.translated(data, read(data), 4711, lambda pid: pid + 1 if pid % 2 else None)
    pids.bound(data, frozenset({0, 1}), lambda pid: pid + 1 if pid < 1 << 30 else None)


def fuzz_account(data: bytes) -> None:
    """Both sides say what they like: records of a tag (of the server, with its highest bit set), a length and a body."""
    parameters = Parameters({"work_mem": "8MB", "application_name": "x"})
    account = Account(parameters, 4711, lambda pid: None, lambda pid: pid & 0x7FFFFFFF or None, Routines(lambda: 0.0))
    account.ride(NOTHING, OrderedDict())
    at = 0
    while at + 2 <= len(data):
        tag, size = data[at], data[at + 1]
        body = data[at + 2:at + 2 + size]
        at += 2 + size
        try:
            if tag & 0x80:
                tag &= 0x7F
                account.server(b"%c" % tag, body, b"%c%s%s" % (tag, (len(body) + 4).to_bytes(4), body))
            elif account.follows(tag, body):
                account.client(tag, body)
        except ProxyError:
            return
        if account.quiet and account.astray:
            account.lead() if tag % 2 else account.adjust()
        elif account.quiet and account.doubtful:
            account.ask()


TARGETS: dict[str, Callable[[bytes], None]] = {
    name.removeprefix("fuzz_"): found for name, found in list(globals().items()) if name.startswith("fuzz_")} | MYSQL | GATEWAY
