"""What is said before the first command: the greeting (version 10), the answer to it, and changes of the proof.

MySQL Internals, "Protocol::HandshakeV10", "Protocol::HandshakeResponse41", "Protocol::AuthSwitchRequest".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.errors import ClientFault, ProxyError, UpstreamFault
from proxy.wire.mysql import ERR, MARIADB, NONCE, OURS, RELAYED, UTF8MB4, Can, Reader, Status, attributes, text

MAX_RESPONSE = 65_536         # a user, a proof, a database and some attributes
SWITCH = 0xFE


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server says first."""

    version: str
    thread: int
    nonce: bytes = field(repr=False)
    capabilities: Can = OURS | RELAYED
    plugin: str = ""
    charset: int = UTF8MB4


def pack_greeting(greeting: Greeting) -> bytes:
    flags = int(greeting.capabilities)
    if flags & MARIADB:
        flags &= ~Can.LONG_PASSWORD
    return b"".join((
        b"\x0a", greeting.version.encode(), b"\0", greeting.thread.to_bytes(4, "little"), greeting.nonce[:8], b"\0",
        (flags & 0xFFFF).to_bytes(2, "little"), bytes((greeting.charset & 0xFF,)), int(Status.AUTOCOMMIT).to_bytes(2, "little"),
        (flags >> 16 & 0xFFFF).to_bytes(2, "little"), bytes((NONCE + 1,)), bytes(6), (flags >> 32).to_bytes(4, "little"),
        greeting.nonce[8:], b"\0",
        greeting.plugin.encode(), b"\0"))


def parse_greeting(payload: bytes) -> Greeting:
    """Raises UpstreamFault.  A server that refuses at once sends an ERR packet instead: look first."""
    found = Reader(payload, UpstreamFault)
    protocol = found.integer(1)
    if protocol != 10:
        raise UpstreamFault(f"the server speaks version {protocol} of the MySQL protocol, or none of it" if protocol != ERR
                            else "the server refuses connections")
    version = found.to_nul().decode("utf-8", "replace")
    thread, nonce = found.integer(4), found.take(8)
    found.take(1)
    flags = found.integer(2)
    charset, plugin = UTF8MB4, ""
    if found.left:
        charset = found.integer(1)
        found.take(2)
        flags |= found.integer(2) << 16
        size = found.integer(1)
        found.take(6)
        extended = found.integer(4)
        if not flags & Can.LONG_PASSWORD:
            flags |= extended << 32
        if flags & Can.SECURE_CONNECTION:
            nonce += found.take(max(13, size - 8))[:NONCE - 8]
        if flags & Can.PLUGIN_AUTH:
            plugin = found.rest().split(b"\0")[0].decode("ascii", "replace")
    return Greeting(version, thread, nonce, Can(flags & int(OURS | RELAYED | Can.SSL | Can.COMPRESS)), plugin, charset)


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's answer to the greeting.  `database` is None where it names none; `plugin` is "" where it says nothing of one."""

    capabilities: Can
    max_packet: int
    charset: int
    user: str
    proof: bytes = field(repr=False)
    database: str | None = None
    plugin: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


def pack_answer(answer: Answer) -> bytes:
    flags, proof = answer.capabilities, answer.proof
    made = _head(answer) + answer.user.encode() + b"\0"
    made += text(proof) if flags & Can.PLUGIN_AUTH_LENENC else bytes((len(proof) & 0xFF,)) + proof
    if flags & Can.CONNECT_WITH_DB:
        made += (answer.database or "").encode() + b"\0"
    if flags & Can.PLUGIN_AUTH:
        made += answer.plugin.encode() + b"\0"
    if flags & Can.CONNECT_ATTRS:
        made += attributes(answer.attributes)
    return made


def pack_ssl_request(answer: Answer) -> bytes:
    return _head(answer)


def _head(answer: Answer) -> bytes:
    flags = int(answer.capabilities)
    if flags & MARIADB:
        flags &= ~Can.LONG_PASSWORD
    return ((flags & 0xFFFFFFFF).to_bytes(4, "little") + answer.max_packet.to_bytes(4, "little") + bytes((answer.charset & 0xFF,))
            + bytes(19) + (flags >> 32).to_bytes(4, "little"))


def asks_for_tls(payload: bytes) -> bool:
    """An SSLRequest is the head of an answer, and no more."""
    return len(payload) == 32 and bool(int.from_bytes(payload[:4], "little") & Can.SSL)


def parse_answer(payload: bytes) -> Answer:
    """Raises ClientFault."""
    found = Reader(payload)
    flags = found.integer(4) if len(payload) >= 32 else 0
    if not flags & Can.PROTOCOL_41:
        raise BadHandshake("Bad handshake: only protocol 4.1 and newer is spoken here")
    max_packet, charset = found.integer(4), found.integer(1)
    found.take(19)
    extended = found.integer(4)
    if not flags & Can.LONG_PASSWORD:
        flags |= extended << 32
    user = _decoded(found.to_nul(), "user")
    if flags & Can.PLUGIN_AUTH_LENENC:
        proof = found.text()
    elif flags & Can.SECURE_CONNECTION:
        proof = found.take(found.integer(1))
    else:
        proof = found.to_nul()
    database, plugin, told = None, "", {}
    if flags & Can.CONNECT_WITH_DB and found.left:
        database = _decoded(_to_nul_or_end(found), "database") or None
    if flags & Can.PLUGIN_AUTH and found.left:
        plugin = _to_nul_or_end(found).decode("ascii", "replace")
    if flags & Can.CONNECT_ATTRS and found.left:
        told = _attributes(found.text())
    return Answer(Can(flags & int(OURS | RELAYED | Can.SSL | Can.COMPRESS)), max_packet, charset, user, proof, database, plugin, told)


def _attributes(data: bytes) -> dict[str, str]:
    inner, told = Reader(data), {}
    while inner.left:
        key, value = inner.text(), inner.text()
        told[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return told


def _to_nul_or_end(found: Reader) -> bytes:
    """Some clients leave the last NUL out."""
    return found.to_nul() if b"\0" in found.data[found.at:] else found.rest()


def _decoded(name: bytes, what: str) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise BadHandshake(f"Bad handshake: the {what} is not UTF-8") from None


class BadHandshake(ClientFault):
    """ER_HANDSHAKE_ERROR."""


def switch(plugin: str, nonce: bytes) -> bytes:
    """AuthSwitchRequest."""
    return bytes((SWITCH,)) + plugin.encode() + b"\0" + nonce + b"\0"


def parse_switch(payload: bytes, fault: type[ProxyError] = UpstreamFault) -> tuple[str, bytes]:
    """(plugin, its data without the closing NUL)."""
    found = Reader(payload, fault)
    found.take(1)
    if not found.left:
        return "mysql_old_password", b""       # the old request has no name: before 4.1
    return found.to_nul().decode("ascii", "replace"), found.rest().removesuffix(b"\0")
