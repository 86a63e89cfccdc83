"""`python -m tests.fuzz --seconds 20`: mutate the corpus for so long per target.

Coverage-guided with atheris where it is installed; otherwise plain mutation, so that the check runs everywhere.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

from proxy.auth.scram import ScramServer, make_verifier, parse_verifier
from proxy.auth.scram_client import PLAIN, PLUS, ScramClient
from proxy.config.connection_string import BadConnectionString, parse
from proxy.config.target import Secret
from proxy.errors import ClientFault, UpstreamFault
from proxy.pool.tally import Tally
from proxy.session.link import Link
from proxy.wire import messages, proxy_header, startup


def fuzz_startup(data: bytes) -> None:
    try:
        if len(data) >= 4:
            startup.length_of(data)
        startup.parse(data)
    except ClientFault:
        pass


def fuzz_proxy_header(data: bytes) -> None:
    for parse_header in (proxy_header.parse_v1, proxy_header.parse_v2):
        try:
            source = parse_header(data)
        except ClientFault:
            continue
        assert source is None or 0 <= source.port < 65_536


def fuzz_client(data: bytes) -> None:
    link = Link(Tally("p", "s", "u"), watch=True)
    try:
        for at in range(0, len(data), 7):
            link.from_client(bytearray(data[at:at + 7]), len(data[at:at + 7]))
    except ClientFault:
        pass
    assert len(link.c_part) < 64


def fuzz_upstream(data: bytes) -> None:
    link = Link(Tally("p", "s", "u"), watch=True)
    try:
        for at in range(0, len(data), 11):
            link.from_upstream(bytearray(data[at:at + 11]), len(data[at:at + 11]))
    except UpstreamFault:
        pass
    assert len(link.u_part) <= 4101


def fuzz_scram_server(data: bytes) -> None:
    first, _, final = data.partition(b"\n")
    for mechanism, end_point in ((PLAIN, None), (PLAIN, b"hash"), (PLUS, b"hash")):
        server = ScramServer(VERIFIER, end_point=end_point)
        try:
            server.first(first, mechanism)
            server.final(final)
        except ClientFault:
            pass


def fuzz_scram_client(data: bytes) -> None:
    first, _, final = data.partition(b"\n")
    client = ScramClient(Secret("secret"), nonce=b"abc")
    client.first()
    try:
        client.final(first)
        client.verify(final)
    except UpstreamFault:
        pass


def fuzz_fields(data: bytes) -> None:
    messages.parse_fields(data)
    try:
        messages.parse_parameter_status(data)
    except UpstreamFault:
        pass


def fuzz_text(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        parse(text)
    except BadConnectionString:
        pass
    try:
        parse_verifier(text)
    except ValueError:
        pass


VERIFIER = make_verifier("secret", 4096, b"0123456789abcdef")
CORPUS: dict[Callable[[bytes], None], list[bytes]] = {
    fuzz_startup: [startup.pack({"user": "u", "database": "d", "options": "-c a=b"}), startup.SSL_REQUEST,
                   startup.pack_cancel(1, b"1234")],
    fuzz_proxy_header: [b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 5432\r\n", b"PROXY UNKNOWN\r\n", b"PROXY TCP6 ::1 fd00::2 1 2\r\n",
                        proxy_header.SIGNATURE + b"\x21\x11\0\x0c" + bytes(12), proxy_header.SIGNATURE + b"\x20\0\0\0",
                        proxy_header.SIGNATURE + b"\x21\x21\0\x27" + bytes(36) + b"\4\0\0"],
    fuzz_client: [messages.query("select 1"), messages.message(b"P", b"s\0select 1\0\0\0"), messages.message(b"d", b"x" * 40) * 30],
    fuzz_upstream: [messages.message(b"D", b"\0\1\0\0\0\2hi") * 60 + messages.ready_for_query(), messages.message(b"G", b"\0\0\0"),
                    messages.fields(b"E", {"S": "ERROR", "C": "22012", "M": "x"}), messages.parameter_status("a", "b")],
    fuzz_scram_server: [b"n,,n=,r=abc\nc=biws,r=abc,p=AAAA", b"y,,n=u,r=x\nc=eSws,r=x,p=",
                        b"p=tls-server-end-point,,n=,r=abc\nc=cD10bHM=,r=abc,p=AAAA"],
    fuzz_scram_client: [b"r=abc,s=MDEyMw==,i=4096\nv=AAAA", b"e=other-error\n"],
    fuzz_fields: [b"SERROR\0C22012\0\0", b"TimeZone\0UTC\0"],
    fuzz_text: [b"postgresql://u:p@h:5432/db?sslmode=require", b"SCRAM-SHA-256$4096:c2FsdA==$a:b", b"socket:/x?db=y"],
}


def mutate(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(made))
        kind = chance.randint(0, 4)
        if kind == 0 and made:
            made[at % len(made)] = chance.choice((0, 1, 4, 5, 0x7F, 0x80, 0xFF, chance.randint(0, 255)))
        elif kind == 1:
            made[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 2 and made:
            del made[at:at + chance.randint(1, 8)]
        elif kind == 3:
            made += made[at:at + 40]
        else:
            made = made[:at]
    return bytes(made[:20_000])


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=20)
    arguments.add_argument("--seed", type=int, default=None)
    options = arguments.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randint(0, 2**31)
    chance = random.Random(seed)
    for target, corpus in CORPUS.items():
        end, runs, pool = time.monotonic() + options.seconds / len(CORPUS), 0, list(corpus)
        while time.monotonic() < end:
            data = mutate(chance.choice(pool), chance)
            try:
                target(data)
            except BaseException:
                sys.stderr.write(f"{target.__name__} failed on {data!r} (seed {seed})\n")
                raise
            runs += 1
            if runs % 50 == 0 and len(pool) < 500:
                pool.append(data)
        sys.stdout.write(f"{target.__name__}: {runs} runs, no fault but ours\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
