"""One performance of a script: every message that comes back."""

from __future__ import annotations

import itertools
import re
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from proxy.wire.messages import message
from tests.oracle.steps import Ask, B, Batch, C, Cancelled, Copy, E, Enter, Leave, P, S, Script, Step, packed
from tests.raw import Raw

PATIENCE = 10.0                # seconds for an answer, before it counts as none
FIRST_OID = 16_384             # of what users make
FIRST_VIEW = 10_000            # of what initdb makes

Message = tuple[bytes, bytes]


@dataclass
class Transcript:
    """What each step got; notifications apart, since they come when they come."""

    answers: list[list[Message]] = field(default_factory=list)
    heard: dict[int, list[Message]] = field(default_factory=dict)
    locks: list[int] = field(default_factory=list)        # advisory locks that are left when somebody has gone


class Player:
    """One performance.  `connect` gives a Raw that is logged in, and what it was told."""

    def __init__(self, connect: Callable[[dict[str, str]], tuple[Raw, list[Message]]], cancel: Callable[[bytes], None],
                 sleeps: Callable[[], bool], gone: Callable[[int], None], locks: Callable[[int | None], int]) -> None:
        self.connect, self.cancel, self.sleeps, self.gone, self.count_locks = connect, cancel, sleeps, gone, locks
        self.raws: dict[int, Raw] = {}
        self.pids: dict[int, int] = {}
        self.keys: dict[int, bytes] = {}       # what a cancel request names
        self.told = Transcript()

    def play(self, script: Script, like: Transcript | None = None) -> Transcript:
        """`like`: the other performance, to wait for what it has."""
        try:
            for client, step in script:
                told = self._step(client, step, like)
                self.told.answers.append(told)
                if like is not None and told != like.answers[len(self.told.answers) - 1]:
                    return self.told           # the rest would follow from it
            for client, raw in self.raws.items():
                if like is None or client in like.heard:
                    self._ask_nothing(client, raw)
                self._listen(client, raw, len(like.heard.get(client, ())) if like else 0)
        finally:
            for raw in self.raws.values():
                raw.sock.close()
        return self.told

    def _step(self, client: int, step: Step, like: Transcript | None) -> list[Message]:
        if isinstance(step, Enter):
            try:
                raw, told = self.connect(dict(step.options))
            except TimeoutError:
                return [(b"timeout", b"")]
            self.raws[client] = raw
            self.keys[client] = next((body for tag, body in told if tag == b"K"), b"")
            self.pids[client] = int.from_bytes(self.keys[client][:4])
            return sorted((tag, body) for tag, body in told if tag in (b"S", b"E", b"N", b"v", b"closed"))
        raw_or_none = self.raws.get(client)
        if raw_or_none is None:
            return []
        raw = raw_or_none
        if isinstance(step, Leave):
            with suppress(OSError):
                raw.send(self._unfinished(client, step.unfinished))
            if step.kindly:
                with suppress(OSError):
                    raw.send(message(b"X"))
            raw.sock.close()
            del self.raws[client]
            self.gone(self.pids.pop(client))
            self.told.locks.append(self.count_locks(like.locks[len(self.told.locks)] if like else None))
            return []
        return _sorted(self._conversation(client, raw, step))

    def _unfinished(self, client: int, step: Batch | Copy | None) -> bytes:
        match step:
            case Batch(messages):
                return b"".join(self._bytes(client, one) for one in messages)
            case Copy(text, data):
                return self._bytes(client, Ask(text)) + b"".join(message(b"d", line.encode()) for line in data)
        return b""

    def _cancelled(self, client: int, raw: Raw, step: Ask | Batch) -> Iterator[Message]:
        """As soon as it sleeps; if it does not, since the transaction has failed, there is an answer."""
        if isinstance(step, Ask):
            raw.send(self._bytes(client, step))
        else:
            raw.send(b"".join(self._bytes(client, one) for one in step.messages) + message(b"S"))
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if not select.select([raw.sock], [], [], 0.02)[0]:
                if self.sleeps():
                    self.cancel(self.keys[client])
                continue
            tag, body = read(raw)              # perhaps a notification, ahead of the answer
            if tag == b"A":
                self._hears(client, body)
                continue
            yield tag, evened(tag, body)
            if tag == b"Z":
                return
        raise TimeoutError

    def _conversation(self, client: int, raw: Raw, step: Step) -> Iterator[Message]:
        try:
            match step:
                case Cancelled(asked):
                    yield from self._cancelled(client, raw, asked)
                case Ask():
                    raw.send(self._bytes(client, step))
                    yield from self._until(client, raw, b"Z")
                case Batch(messages):
                    # A Query behind an error is thrown away, so nobody can tell how many ReadyForQuery will come: the
                    # acknowledgement of one last Close tells.  There is none in such a batch.
                    open_ended = any(isinstance(one, Ask) for one in messages)
                    tail = message(b"S") + packed(C("end")) + message(b"S") if open_ended else message(b"S")
                    raw.send(b"".join(self._bytes(client, one) for one in messages) + tail)
                    if open_ended:
                        yield from self._until(client, raw, b"3")
                        yield from self._until(client, raw, b"Z")
                    else:
                        for _ in range(1 + sum(isinstance(one, S) for one in messages)):
                            yield from self._until(client, raw, b"Z")
                case Copy():
                    yield from self._copy(client, raw, step)
        except TimeoutError:
            yield b"timeout", b""
        except (ConnectionError, EOFError):
            yield b"closed", b""

    def _copy(self, client: int, raw: Raw, step: Copy) -> Iterator[Message]:
        text = self._bytes(client, P(step.text)) + packed(B()) + packed(E()) if step.extended else self._bytes(client, Ask(step.text))
        data = b"".join(message(b"d", line.encode()) for line in step.data)
        data += message(b"f", b"enough\0") if step.fails else message(b"c")
        sync = message(b"S") if step.extended else b""
        if not step.waits:
            raw.send(text + data + sync)
        else:
            raw.send(text + sync)
            for told in self._until(client, raw, b"G", b"Z"):
                yield told
                if told[0] == b"Z":
                    return
            raw.send(data + sync)
        yield from self._until(client, raw, b"Z")

    def _bytes(self, client: int, one: object) -> bytes:
        if isinstance(one, Ask | P) and "@" in one.text:
            text = re.sub(r"@pid(\d)@", lambda found: f"{self.pids.get(int(found[1]), 0):010d}", one.text.replace("@me@", str(client)))
            one = Ask(text) if isinstance(one, Ask) else P(text, one.name, one.types)
        return packed(one)

    def _until(self, client: int, raw: Raw, *tags: bytes) -> Iterator[Message]:
        while True:
            tag, body = read(raw)
            if tag == b"A":
                self._hears(client, body)
                continue
            yield tag, evened(tag, body)
            if tag in tags:
                return

    def _hears(self, client: int, body: bytes) -> None:
        who = next((str(one) for one, pid in self.pids.items() if pid == int.from_bytes(body[:4])), "somebody")
        self.told.heard.setdefault(client, []).append((b"A", who.encode() + b" " + body[4:]))

    def _ask_nothing(self, client: int, raw: Raw) -> None:
        """What has been committed for it is told ahead of the answer, unless it is in a transaction."""
        with suppress(OSError, EOFError):
            raw.send(packed(Ask("")))
            for _ in self._until(client, raw, b"Z"):
                continue

    def _listen(self, client: int, raw: Raw, expected: int) -> None:
        """What is still to come: until there is as much as there was, or nothing comes with the next answer."""
        end = time.monotonic() + PATIENCE
        while len(self.told.heard.get(client, ())) < expected and time.monotonic() < end and select.select([raw.sock], [], [], 2)[0]:
            try:
                tag, body = read(raw)
            except (OSError, EOFError):
                return
            if tag == b"A":
                self._hears(client, body)


def read(raw: Raw) -> Message:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = raw.sock.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    head = exactly(5)
    return head[:1], exactly(int.from_bytes(head[1:]) - 4)


def _sorted(told: Iterable[Message]) -> list[Message]:
    """Several ParameterStatus in a row have no order that matters."""
    return [one for status, run in itertools.groupby(told, lambda one: one[0] == b"S") for one in (sorted(run) if status else run)]


def evened(tag: bytes, body: bytes) -> bytes:
    """Without what cannot be equal: ids of tables; and where in the server's source an error was told."""
    if tag in (b"E", b"N"):
        body = re.sub(rb"pg_toast_\d+", b"pg_toast_n", body)
        return b"\0".join(part for part in body.split(b"\0") if part[:1] not in (b"F", b"L", b"R"))
    if tag != b"T":
        return body
    out, at = bytearray(body), 2
    for _ in range(int.from_bytes(body[:2])):
        at = body.index(b"\0", at) + 1
        if int.from_bytes(body[at:at + 4]) >= FIRST_VIEW:
            out[at:at + 4] = b"\0\0\0\0"
            if int.from_bytes(body[at:at + 4]) < FIRST_OID:     # pg_prepared_statements: a part of the view, and not the view
                out[at + 4:at + 6] = b"\0\0"
        if int.from_bytes(body[at + 6:at + 10]) >= FIRST_OID:   # the type
            out[at + 6:at + 10] = b"\0\0\0\0"
        at += 18
    return bytes(out)


def compared(script: Script, real: Transcript, ours: Transcript) -> str:
    lines = []
    for number, (client, step) in enumerate(script):
        if number >= len(ours.answers) or number >= len(real.answers):
            break
        same = real.answers[number] == ours.answers[number]
        lines.append(f"{'  ' if same else '! '}{client}: {step}")
        if not same:
            lines += [f"      server: {_shown(real.answers[number])}", f"      auto:   {_shown(ours.answers[number])}"]
    if lines and lines[-1].startswith("      auto"):
        return "\n".join(lines)
    if real.heard != ours.heard:
        lines.append(f"! notifications: server: {real.heard} auto: {ours.heard}")
    if real.locks != ours.locks:
        lines.append(f"! advisory locks of those who left: server: {real.locks} auto: {ours.locks}")
    return "\n".join(lines) if any(line.startswith("!") for line in lines) else ""


def _shown(answer: list[Message]) -> str:
    return " ".join(f"{tag.decode()}{body!r}"[:300] for tag, body in answer)
