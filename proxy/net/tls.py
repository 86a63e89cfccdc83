"""TLS contexts: ours towards clients, and one per upstream Tls value, with libpq's meaning of each sslmode.

PostgreSQL manual, "SSL Support", table "SSL Mode Descriptions".
"""

from __future__ import annotations

import functools
import os
import ssl
import tempfile
from pathlib import Path

from proxy.config.settings import ClientTls
from proxy.config.target import SslMode, Tls
from proxy.errors import OperatorFault


def server_context(settings: ClientTls) -> ssl.SSLContext | None:
    """What we offer to clients; None when TLS is off."""
    if settings.mode == "disable" or settings.certificate is None:
        if settings.mode == "require":
            raise OperatorFault("switchboard.tls.mode is require, but switchboard.tls.certificate is not set")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old = settings.minimum_version == "TLSv1.2"
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if old else ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["postgresql"])
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as fault:
        raise OperatorFault(f"cannot load switchboard.tls.certificate {settings.certificate}: {fault}") from None
    return context


@functools.lru_cache(maxsize=256)
def upstream_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["postgresql"])
    context.check_hostname = tls.mode is SslMode.VERIFY_FULL
    # libpq: `require` verifies like `verify-ca` when a root certificate is given.
    verify = tls.mode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL) or (tls.mode is SslMode.REQUIRE and tls.ca)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if tls.ca:
        context.load_verify_locations(cadata=tls.ca)
    elif verify:
        context.load_default_certs()
    if tls.cert:
        _load_client_certificate(context, tls)
    return context


def _load_client_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    """The ssl module reads certificates from files only: a private one, gone at once."""
    fd, name = tempfile.mkstemp()
    try:
        with os.fdopen(fd, "w") as file:
            file.write((tls.cert or "") + "\n" + (tls.key.reveal() if tls.key else ""))
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()


def not_after(path: str) -> float | None:
    """When the certificate in a PEM file expires, seconds since the epoch; None when it cannot be read."""
    try:
        decoded = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
    except (OSError, ssl.SSLError, ValueError):
        return None
    return float(ssl.cert_time_to_seconds(decoded["notAfter"]))
