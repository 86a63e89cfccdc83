"""Ends of certificates: which of several counts, and what the metrics page shows of both sides."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.net.expiry import chain_end, end, ends, ends_in, next_end

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(last: datetime.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
    return built.not_valid_before(datetime.datetime(1960, 1, 1, tzinfo=datetime.UTC)).not_valid_after(last).sign(KEY, hashes.SHA256())


def pem(*years: int) -> str:
    return "# a bundle\n" + "\n".join(certificate(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)).public_bytes(
        serialization.Encoding.PEM).decode() for year in years)


def year(number: int) -> float:
    return datetime.datetime(number, 1, 1, tzinfo=datetime.UTC).timestamp()


def test_each_of_a_file(tmp_path: Path) -> None:
    assert ends(pem(2040, 2031, 2099)) == [year(2040), year(2031), year(2099)]      # UTCTime and, from 2050, GeneralizedTime
    (tmp_path / "x.pem").write_text(pem(2040))
    assert ends_in(str(tmp_path / "x.pem")) == [year(2040)]
    assert ends_in(str(tmp_path / "missing.pem")) == []


@pytest.mark.parametrize("text", ["", "PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
                                  "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n"])
def test_what_cannot_be_read_has_none(text: str) -> None:
    assert ends(text) == []
    assert end(text.encode()) is None


def test_which_of_several() -> None:
    assert chain_end([3, 1, 2]) == 1
    assert next_end([3, 1, 2], now=1.5) == 2         # 1 is history
    assert next_end([3, 1, 2], now=9) == 3           # nothing is left: since then
    assert chain_end([]) is next_end([], now=0) is None
