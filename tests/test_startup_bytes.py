"""Logins written byte by byte, in both pool modes: what old, new and odd clients send before their first query."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from proxy.wire.messages import message
from proxy.wire.startup import CANCEL_CODE, GSSENC_CODE, SSL_REQUEST, V3_0, pack
from tests.raw import Raw
from tests.servers import Daemon, Postgres, daemon

GSSENC_REQUEST = struct.pack("!ii", 8, GSSENC_CODE)


def test_encryption_that_is_not_to_be_had_is_one_byte_and_the_socket_goes_on(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        for request in (GSSENC_REQUEST, SSL_REQUEST):
            raw.send(request)
            assert raw.exactly(1) == b"N"
        assert raw.enter()[0] == (b"R", b"\0\0\0\0")
        assert raw.shown("select 1") == "1"


def test_bytes_behind_a_request_for_encryption(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.send(SSL_REQUEST + pack({"user": "backstage", "database": "catalog"}))
        assert "received unencrypted data after SSL request" in raw.refusal()["M"]


def test_a_startup_packet_in_single_bytes(trusting: Daemon) -> None:
    """PostgreSQL's limit is 10,000 bytes; libpq's own limit is none."""
    with Raw(trusting.port) as raw:
        packet = pack({"user": "backstage", "database": "catalog", "options": "-c application_name=" + "x" * 9000})
        for at in range(300):
            raw.send(packet[at:at + 1])
        raw.send(packet[300:])
        assert raw.until(b"Z")[0][0] == b"R"
        assert len(raw.shown("show application_name")) == 63


@pytest.mark.parametrize(("body", "state", "words"), [
    (b"database\0catalog\0\0", "28000", "no PostgreSQL user name specified in startup packet"),
    (b"user\0\0database\0catalog\0\0", "28000", "no PostgreSQL user name specified in startup packet"),
    (b"user\0backstage\0database\0catalog\0", "08P01", "invalid startup packet layout: expected terminator as last byte"),
    (b"user\0backstage\0\0more", "08P01", "invalid startup packet layout: expected terminator as last byte"),
])
def test_startup_packets_that_are_none(trusting: Daemon, body: bytes, state: str, words: str) -> None:
    with Raw(trusting.port) as raw:
        raw.send(struct.pack("!ii", len(body) + 8, V3_0) + body)
        fault = raw.refusal()
        assert (fault["S"], fault["C"], fault["M"]) == ("FATAL", state, words)


@pytest.mark.parametrize("first", [
    b"X\0\0\0\4",                               # a goodbye before a hello: node-postgres, when it is told to leave at once
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0\0\0\4", b"\0\0\x27\x15\0\3\0\0", b"\xff\xff\xff\xff",
    struct.pack("!iii", 12, CANCEL_CODE, 1)])
def test_who_does_not_speak_the_protocol_is_left_without_a_word(trusting: Daemon, postgres: Postgres, first: bytes) -> None:
    for port in (postgres.port, trusting.port):
        with Raw(port) as raw:
            raw.send(first)
            assert raw.closed()
    trusting.logged("client refused.*invalid length of (startup packet|cancel request)")


def test_without_a_database_it_is_the_users_name(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.hello(user="backstage")
        raw.until(b"Z")
        assert raw.shown("select current_database()") == "backstage_plugin_backstage"


@pytest.mark.parametrize(("name", "value", "state"), [
    ("no_such_thing", "1", "42704"), ("TimeZone", "Nowhere/Land", "22023"), ("work_mem", "much", "22023"),
    ("options", "-c no_such_thing=1", "42704"), ("options", "-c work_mem", "42601"), ("options", "-Z", "42601")])
def test_parameters_that_the_server_refuses_are_told_in_its_words(trusting: Daemon, name: str, value: str, state: str) -> None:
    with Raw(trusting.port) as raw:
        raw.hello(user="backstage", database="catalog", **{name: value})
        fault = raw.refusal()
        assert (fault["S"], fault["C"]) == ("FATAL", state), fault
    with Raw(trusting.port) as raw:
        raw.enter()                          # and nobody else's login suffers
        assert raw.shown("select 1") == "1"


@pytest.mark.parametrize("options", ["-c statement_timeout=77s", "-cstatement_timeout=77s", "--statement_timeout=77s",
                                     "--statement-timeout=77s", "  -c   work_mem=5MB  --statement_timeout=77s ",
                                     r"-c statement_timeout=77\s", r"-c application_name=a\ b\\c -c statement_timeout=77s"])
def test_options_in_every_spelling(trusting: Daemon, options: str) -> None:
    with Raw(trusting.port) as raw:
        raw.enter(options=options)
        assert raw.shown("show statement_timeout") == "77s"
        if "application" in options:
            assert raw.shown("show application_name") == r"a b\c"


def test_options_that_no_extension_here_knows_keep_none_of_the_others_from_working(trusting: Daemon) -> None:
    """What PgBouncer's clients need ignore_startup_parameters for: nothing is ignored, and nothing refused that a server takes."""
    with Raw(trusting.port) as raw:
        raw.enter(options="-c some.extension=yes -c TimeZone=Europe/Paris -c search_path=elsewhere -c work_mem=5MB",
                  DateStyle="SQL, DMY")
        for name, value in {"some.extension": "yes", "TimeZone": "Europe/Paris", "search_path": "elsewhere", "work_mem": "5MB",
                            "DateStyle": "SQL, DMY"}.items():
            assert raw.shown(f"select current_setting('{name}')") == value


def test_an_empty_application_name_stays_empty(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        told = [body for tag, body in raw.enter(application_name="") if tag == b"S"]
        assert b"application_name\0\0" in told
        assert raw.shown("show application_name") == ""
        raw.ask("set application_name to 'later'")
        assert raw.shown("show application_name") == "later"


def test_an_unknown_database_has_postgresqls_own_state(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        raw.hello(user="backstage", database="no such")
        assert raw.refusal() | {"H": "", "D": ""} == {
            "S": "FATAL", "V": "FATAL", "C": "3D000", "M": 'database "no such" does not exist', "H": "", "D": ""}


def test_the_welcome_is_in_postgresqls_order(trusting: Daemon) -> None:
    with Raw(trusting.port) as raw:
        told = raw.enter(TimeZone="Europe/Paris")
        tags = b"".join(tag for tag, _ in told)
        assert tags == b"R" + b"S" * (len(tags) - 3) + b"KZ"
        assert told[-1][1] == b"I"
        names = [body.split(b"\0")[0] for tag, body in told if tag == b"S"]
        assert len(names) == len(set(names))
        assert {b"server_version", b"client_encoding", b"DateStyle", b"standard_conforming_strings"} <= set(names)
        assert (b"S", b"TimeZone\0Europe/Paris\0") in told


def test_a_socket_that_says_nothing_leaves_no_line(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base) as running:
        for _ in range(3):
            Raw(running.port).sock.close()
        with pytest.raises(AssertionError, match="closed"), Raw(running.port) as raw:
            raw.hello(user="backstage", database="catalog")
            raw.read()
            raw.send(message(b"X"))
            raw.read()
            raw.read()
        running.logged("client refused")     # the one that said something: so the others have been seen through by now
        assert running.log.count("client=") == 1


@pytest.mark.parametrize(("answer", "state", "words"), [
    (message(b"p", b"PLAIN\0" + struct.pack("!i", 3) + b"n,,"), "08P01", "client selected an invalid SASL authentication mechanism"),
    (message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", 500) + b"n,,"), "08P01", "malformed"),
    (message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", 3) + b"n,,"), "08P01", "malformed"),
    (message(b"Q", b"select 1\0"), "08P01", "expected a password response"),
])
def test_sasl_that_is_none(proxy: Daemon, answer: bytes, state: str, words: str) -> None:
    with Raw(proxy.port) as raw:
        raw.hello(user="backstage", database="catalog")
        assert raw.read()[1] == b"\0\0\0\x0aSCRAM-SHA-256\0\0"
        raw.send(answer)
        fault = raw.refusal()
        assert (fault["S"], fault["C"]) == ("FATAL", state)
        assert words in fault["M"]


@pytest.mark.parametrize("gs2", [b"n,,", b"y,,"])
def test_clients_that_could_bind_are_served_without_tls_too(proxy: Daemon, gs2: bytes) -> None:
    with Raw(proxy.port) as raw:
        raw.hello(user="backstage", database="catalog")
        raw.read()
        first = gs2 + b"n=,r=abcdefghijkl"
        raw.send(message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first))
        assert raw.read()[1].startswith(b"\0\0\0\x0br=abcdefghijkl")


def test_an_empty_password(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, auth={"method": "password"}) as running, Raw(running.port) as raw:
        raw.hello(user="backstage", database="catalog")
        assert raw.read() == (b"R", b"\0\0\0\x03")
        raw.password("")
        fault = raw.refusal()
        assert (fault["S"], fault["C"]) == ("FATAL", "28P01")
