"""TLS towards clients: what we offer, and what a client's certificate says."""

from __future__ import annotations

import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any

from proxy.config.settings import ClientTls
from proxy.errors import OperatorFault
from proxy.net.end_point import certificate_hash
from proxy.wire.startup import ALPN


class ServerContext(ssl.SSLContext):
    """Knows its own certificate's hash: after a reload, connections that stand are bound to the old one."""

    end_point: bytes | None = None


def server_context(settings: ClientTls) -> ServerContext | None:
    """What we offer to clients; None when TLS is off."""
    if settings.mode == "disable" or settings.certificate is None:
        if settings.mode == "require":
            raise OperatorFault("switchboard.tls.mode is require, but switchboard.tls.certificate is not set")
        return None
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    old = settings.minimum_version == "TLSv1.2"
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if old else ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as fault:
        raise OperatorFault(f"cannot load switchboard.tls.certificate {settings.certificate}: {fault}") from None
    context.end_point = certificate_hash(_first_certificate(settings.certificate))
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except (OSError, ssl.SSLError) as fault:
            raise OperatorFault(f"cannot load switchboard.tls.client_ca {settings.client_ca}: {fault}") from None
        # As PostgreSQL does: a wrong one ends the handshake, none is for the rules to judge.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _first_certificate(path: str) -> bytes:
    """In DER.  OpenSSL has just read it from the same file, so it is there."""
    text = Path(path).read_text("ascii", "replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(begin + text.partition(begin)[2].partition(end)[0] + end)


def common_name(sock: socket.socket) -> str | None:
    """The CN of a client's verified certificate; None without one."""
    certificate = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    subject: Any = (certificate or {}).get("subject", ())
    names = [str(value) for part in subject for key, value in part if key == "commonName"]
    return names[0] if names and "\0" not in names[0] else None


def not_after(path: str) -> float | None:
    """When the certificate in a PEM file expires, seconds since the epoch; None when it cannot be read."""
    try:
        decoded = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
    except (OSError, ssl.SSLError, ValueError):
        return None
    return float(ssl.cert_time_to_seconds(decoded["notAfter"]))


def not_after_text(pem: str) -> float | None:
    """The same for PEM text; the ssl module decodes files only."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(pem)
        file.flush()
        return not_after(file.name)
