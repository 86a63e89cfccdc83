"""Options of sockets, as the system has them afterwards."""

from __future__ import annotations

import socket

from proxy.config.settings import Tcp
from proxy.net.dial import tune


def test_what_is_accepted_inherits_the_options() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tune(listening, Tcp(keepalives_idle=7, keepalives_interval=3, keepalives_count=4, tcp_user_timeout=9))
        with socket.create_connection(listening.getsockname()) as _, listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for name, value in (("TCP_KEEPIDLE", 7), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 9000)):
                if hasattr(socket, name):
                    assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
