"""TLS towards clients."""

from __future__ import annotations

import ssl
import tempfile

from proxy.config.settings import ClientTls
from proxy.errors import OperatorFault
from proxy.wire.startup import ALPN


def server_context(settings: ClientTls) -> ssl.SSLContext | None:
    """What we offer to clients; None when TLS is off."""
    if settings.mode == "disable" or settings.certificate is None:
        if settings.mode == "require":
            raise OperatorFault("switchboard.tls.mode is require, but switchboard.tls.certificate is not set")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old = settings.minimum_version == "TLSv1.2"
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if old else ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as fault:
        raise OperatorFault(f"cannot load switchboard.tls.certificate {settings.certificate}: {fault}") from None
    return context


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
