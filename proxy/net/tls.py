"""TLS towards clients: what we offer, and what a client's certificate says."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxy.config.clients import ClientTls
from proxy.errors import OperatorFault
from proxy.net.end_point import certificate_hash
from proxy.wire.startup import ALPN

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_HINTS = {"KEY_VALUES_MISMATCH": "The key does not belong to the certificate: the chain must begin with the server's own.",
          "NO_CIPHER_MATCH": "See `openssl ciphers -v`; the ciphers of TLSv1.3 are not chosen by this setting.",
          "PEM_LIB": "The file must hold PEM: the certificate chain, and the key unless switchboard.tls.key names it."}


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
    context.minimum_version = VERSIONS[settings.minimum_version]
    if settings.maximum_version is not None:
        context.maximum_version = VERSIONS[settings.maximum_version]
    context.set_alpn_protocols([ALPN])
    # As PostgreSQL: no resumption, so that a certificate is looked at each time; our order of ciphers.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    if settings.ciphers is not None:
        with _told("ciphers", settings.ciphers):
            context.set_ciphers(settings.ciphers)
    with _told("certificate", settings.certificate):
        context.load_cert_chain(settings.certificate, settings.key, password=_no_passphrase)
    context.end_point = certificate_hash(_first_certificate(settings.certificate))
    if settings.client_ca is not None:
        with _told("client_ca", settings.client_ca):
            context.load_verify_locations(settings.client_ca)
        # As PostgreSQL does: a wrong one ends the handshake, none is for the rules to judge.
        context.verify_mode = ssl.CERT_OPTIONAL
        if settings.client_crl is not None:
            with _told("client_crl", settings.client_crl):
                context.load_verify_locations(settings.client_crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@contextlib.contextmanager
def _told(key: str, value: str) -> Iterator[None]:
    """What OpenSSL does not take, by the key that said it."""
    try:
        yield
    except (OSError, ValueError) as fault:    # ssl.SSLError is an OSError
        reason = getattr(fault, "reason", None) or getattr(fault, "strerror", None) or str(fault)
        raise OperatorFault(f"cannot use switchboard.tls.{key} {value}: {reason}", hint=_HINTS.get(str(reason))) from None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, which nobody is here to type")


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
