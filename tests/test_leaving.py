"""Clients that leave while they wait for their first connection: over TLS, and behind bytes that nobody has read yet."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from proxy.wire.messages import query
from proxy.wire.startup import pack
from tests import certificates
from tests.servers import daemon, until

HELLO = pack({"user": "backstage", "database": "catalog"})


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("early", [b"", query("select 1")])
def test_who_leaves_while_it_waits_is_noticed(base: dict[str, Any], tmp_path: Path, encrypted: bool, early: bytes) -> None:
    _, pem = certificates.make(tmp_path)
    with daemon(tmp_path, base, tls={"certificate": str(pem)}, auth={"method": "trust"}, users={"backstage": {}},
                pool={"mode": "session", "size": 1, "query_wait_timeout": 0}) as running, running.connect("catalog"):
        sock = socket.create_connection(("127.0.0.1", running.port), timeout=30)
        if encrypted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["postgresql"])
            sock = context.wrap_socket(sock)
        sock.sendall(HELLO)
        until(lambda: running.metric("switchboard_clients_waiting", plugin="catalog") == 1, "who waits")
        if early:
            sock.sendall(early)
        sock.close()
        until(lambda: not running.metric("switchboard_clients_waiting", plugin="catalog"), "its leave", 20)
        running.logged("reason=.client left during login")
