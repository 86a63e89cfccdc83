"""What libpq is told of a Server, in its own words: every one must be a word that it knows."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from proxy.config.settings import Upstream
from proxy.config.target import ChannelBinding, Proof, Secret, Server, Session, SslMode, Tls
from proxy.pool.administer import words

FULL = Server(host="a", port=1, others=(("b", 2),), shuffle=True, session=Session.PRIMARY,
              tls=Tls(mode=SslMode.VERIFY_FULL, ca="CA", cert="CERT", key=Secret("KEY"), direct=True, sni=False, minimum="TLSv1.3",
                      maximum="TLSv1.3"),
              proof=Proof(channel_binding=ChannelBinding.REQUIRE, methods=frozenset({"scram-sha-256"})))


def test_everything() -> None:
    said = words(FULL, Upstream())
    assert conninfo_to_dict(make_conninfo(**said)) == said
    assert said == {
        "host": "a,b", "port": "1,2", "target_session_attrs": "primary", "load_balance_hosts": "random", "sslmode": "verify-full",
        "gssencmode": "disable", "sslsni": "0", "channel_binding": "require", "sslnegotiation": "direct", "sslrootcert": "CA",
        "sslcert": "CERT", "sslkey": "KEY", "ssl_min_protocol_version": "TLSv1.3", "ssl_max_protocol_version": "TLSv1.3",
        "require_auth": "scram-sha-256"}


@pytest.mark.parametrize(("server", "settings", "want"), [
    (Server(host="a", tls=Tls(mode=SslMode.PREFER)), Upstream(), "!password"),
    (Server(host="a", tls=Tls(mode=SslMode.REQUIRE)), Upstream(), None),
    (Server(host="/run"), Upstream(), None),
    (Server(host="a", tls=Tls(mode=SslMode.DISABLE)), Upstream(cleartext_passwords=True), None),
])
def test_passwords_do_not_go_in_the_open(server: Server, settings: Upstream, want: str | None) -> None:
    assert words(server, settings).get("require_auth") == want


def test_creation_is_for_the_primary() -> None:
    assert words(Server(host="a", others=(("b", 1),)), Upstream())["target_session_attrs"] == "read-write"
    assert words(Server(host="a"), Upstream())["target_session_attrs"] == "any"


def test_system_authorities() -> None:
    assert words(Server(host="a", tls=Tls(mode=SslMode.VERIFY_FULL)), Upstream())["sslrootcert"] == "system"
