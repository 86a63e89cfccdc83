"""A MySQL client of single packets: logs in with chosen capabilities and hears every byte of an answer.

How answers end it knows by itself, from the manual and not from session/mysql_link, which it is a test of.
"""

from __future__ import annotations

import socket
from typing import Any

from proxy.config.target import Credential, Secret, SslMode, Tls
from proxy.session.effects import Ask, Send, Work
from proxy.session.mysql_login import Wish, login
from proxy.wire.mysql import Can, packets

ALL = Can.LONG_FLAG | Can.TRANSACTIONS | Can.MULTI_STATEMENTS | Can.MULTI_RESULTS | Can.PS_MULTI_RESULTS | Can.LOCAL_FILES


class Raw:
    def __init__(self, port: int, user: str, password: str, database: str, flags: Can = ALL | Can.DEPRECATE_EOF) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flags = flags
        self.heard = bytearray()
        dialogue = login(Credential(user=user, password=Secret(password)), Wish(capabilities=flags, database=database),
                         Tls(mode=SslMode.DISABLE), local=False)
        answer: Any = None
        try:
            while True:
                match dialogue.send(answer):
                    case Send(data):
                        self.sock.sendall(data)
                        answer = None
                    case Ask.PACKET:
                        answer = self.packet()
                    case Work(function):
                        answer = function()
        except StopIteration as end:
            self.thread = end.value.pid
        self.heard.clear()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self.sock.recv(min(size - len(data), 1 << 20))
            if not more:
                raise EOFError(bytes(data))
            data += more
        self.heard += data
        return bytes(data)

    def packet(self) -> tuple[int, bytes]:
        head = self._exactly(4)
        return head[3], self._exactly(int.from_bytes(head[:3], "little"))

    def send(self, payload: bytes) -> None:
        self.sock.sendall(packets(payload))

    def ask(self, payload: bytes, file: bytes | None = None) -> bytes:
        """Every byte of the answer to one command."""
        self.send(payload)
        return self.answer(payload[0], file)

    def answer(self, command: int, file: bytes | None = None) -> bytes:
        self.heard.clear()
        if command in (0x18, 0x19):
            return b""
        if command == 0x09:
            self.packet()
        elif command in (0x1C, 0x04):
            self._rows()
        elif command == 0x16:
            self._prepared()
        else:
            while self._result(file):
                continue
        return bytes(self.heard)

    def _prepared(self) -> None:
        _, first = self.packet()
        if first[0] == 0xFF:
            return
        for count in (int.from_bytes(first[7:9], "little"), int.from_bytes(first[5:7], "little")):
            for _ in range(count + (1 if count and not self.flags & Can.DEPRECATE_EOF else 0)):
                self.packet()

    def _result(self, file: bytes | None) -> bool:
        """Do more results follow?"""
        _, first = self.packet()
        if first[0] == 0xFF:
            return False
        if first[0] in (0x00, 0xFE):
            return bool(_status(first) & 8)
        if first[0] == 0xFB:
            data = file or b""
            at = 2
            for start in range(0, len(data), 65_536):
                self.sock.sendall(packets(data[start:start + 65_536], at & 0xFF))
                at += 1
            self.sock.sendall(packets(b"", at & 0xFF))
            _, last = self.packet()
            return bool(last[0] != 0xFF and _status(last) & 8)
        for _ in range(first[0] if first[0] < 0xFB else int.from_bytes(first[1:3], "little")):
            self.packet()
        if not self.flags & Can.DEPRECATE_EOF:
            _, middle = self.packet()
            if _status(middle) & 0x40:
                return False
        return self._rows()

    def _rows(self) -> bool:
        whole = False                          # in the middle of a row of several packets
        while True:
            _, payload = self.packet()
            if not whole and payload[:1] == b"\xff":
                return False
            if not whole and payload[:1] == b"\xfe" and len(payload) < 0xFFFFFF and (
                    len(payload) < 9 or self.flags & Can.DEPRECATE_EOF):
                return bool(_status(payload) & 8)
            whole = len(payload) == 0xFFFFFF


def _status(payload: bytes) -> int:
    if payload[0] == 0xFE and len(payload) == 5:
        return int.from_bytes(payload[3:5], "little")
    at = 1
    for _ in range(2):
        at += {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(payload[at], 1)
    return int.from_bytes(payload[at:at + 2], "little")


