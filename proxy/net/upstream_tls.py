"""TLS towards upstreams, with libpq's meaning of each sslmode, and what a connection proves about itself.

PostgreSQL manual, "SSL Support", table "SSL Mode Descriptions"; RFC 5929 for the hash that channel binding signs.
"""

from __future__ import annotations

import functools
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

from proxy.config.target import SslMode, Tls
from proxy.errors import OperatorFault, ProxyError, UpstreamFault
from proxy.net.end_point import certificate_hash
from proxy.wire.startup import ALPN

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
UNTRUSTED = ("Give the certificate of the authority that signed the server's as connection.ssl.ca (or sslrootcert), or check that it "
             "is the right one.")
_NAMED = 'The certificate does not name "{name}": reach the server by a name that it has, or set connection.ssl.servername.'
VERIFY = {9: "The server's certificate is not valid yet: check the clocks.", 10: "Renew the server's certificate.",
          62: _NAMED, 64: _NAMED}                     # X509_V_ERR_* (OpenSSL, x509_vfy.h)


@functools.lru_cache(maxsize=256)
def upstream_context(tls: Tls) -> ssl.SSLContext:
    """Raises OperatorFault for certificates that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([ALPN])
    context.check_hostname = tls.mode is SslMode.VERIFY_FULL and tls.sni
    # libpq: `require` verifies like `verify-ca` when a root certificate is given.
    verify = tls.mode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL) or (tls.mode is SslMode.REQUIRE and tls.ca)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if tls.minimum:
        context.minimum_version = VERSIONS[tls.minimum]
    if tls.maximum:
        context.maximum_version = VERSIONS[tls.maximum]
    if tls.ca:
        try:
            context.load_verify_locations(cadata=tls.ca)
        except (ssl.SSLError, ValueError) as fault:
            raise OperatorFault(f"the CA certificate of this connection cannot be used: {_reason(fault)}") from None
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
        context.load_cert_chain(name, password=b"")       # never ask a terminal for a passphrase
    except (ssl.SSLError, ValueError) as fault:
        raise OperatorFault(f"the client certificate of this connection cannot be used: {_reason(fault)}",
                            hint="`cert` and `key` must be PEM, belong together, and the key must have no passphrase."
                            ) from None
    finally:
        Path(name).unlink()


def _reason(fault: Exception) -> str:
    return getattr(fault, "reason", None) or str(fault)


def server_name(tls: Tls, host: str) -> str | None:
    """What the handshake names and checks; None sends no SNI (and then `check` looks at the name)."""
    return (tls.server_name or host) if tls.sni else None


def check(sock: ssl.SSLSocket, tls: Tls, host: str) -> None:
    """What the handshake itself does not refuse.  Raises UpstreamFault."""
    chosen = sock.selected_alpn_protocol()
    if chosen is None and tls.direct:
        raise UpstreamFault("direct TLS connection was established without ALPN protocol negotiation extension")
    if chosen is not None and chosen != ALPN:
        raise UpstreamFault("TLS connection was established with unexpected ALPN protocol")
    if tls.mode is SslMode.VERIFY_FULL and not tls.sni:
        name = tls.server_name or host
        if not matches(sock.getpeercert() or {}, name):
            raise UpstreamFault(f'server certificate does not match host name "{name}"')


def explained(error: ssl.SSLError, tls: Tls, host: str) -> ProxyError:
    """What TLS did not like, and what an operator does about it.  What waiting could mend is an UpstreamFault."""
    if isinstance(error, ssl.SSLCertVerificationError):
        name = tls.server_name or host
        return OperatorFault(f"TLS handshake failed: {error.verify_message}", hint=VERIFY.get(
            error.verify_code, UNTRUSTED).format(name=name))
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return UpstreamFault("server closed the connection unexpectedly", hint=(
            "It may not accept our client certificate; its log tells." if tls.cert else None))
    reason = error.reason or str(error)
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason or "NO_PROTOCOLS" in reason:
        return OperatorFault(f"TLS handshake failed: {reason}",
                             hint="The server speaks none of the TLS versions that are allowed: see ssl_min_protocol_version, "
                                  "ssl_max_protocol_version, and ssl_min_protocol_version of the server.")
    if "ALERT" in reason and (tls.cert or "CERTIFICATE" in reason):
        return OperatorFault(f"the server refused our client certificate: {reason}",
                             hint="Its authority must be in the server's ssl_ca_file; see `cert` and `key` (or sslcert, sslkey).")
    return UpstreamFault(f"TLS handshake failed: {reason}")


def matches(certificate: dict[str, Any], name: str) -> bool:
    """Does a verified certificate (as ssl decodes it) name this host?  RFC 6125: `*` stands for the first label whole."""
    found = certificate.get("subjectAltName", ())
    addresses = [value for kind, value in found if kind == "IP Address"]
    name = name.lower().rstrip(".")
    if name in (address.lower() for address in addresses):
        return True
    label, _, parent = name.partition(".")
    for pattern in (value.lower() for kind, value in found if kind == "DNS"):
        if pattern == name or (pattern.startswith("*.") and label and "." in parent and pattern[2:] == parent):
            return True
    return False


def end_point(sock: ssl.SSLSocket) -> bytes | None:
    """tls-server-end-point of a server that we are connected to."""
    return certificate_hash(sock.getpeercert(binary_form=True))
