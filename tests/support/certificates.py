"""An authority for tests, and what it signs."""

from __future__ import annotations

import fcntl
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Signs; its certificate and key lie in `directory` and are made where there are none yet."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_file, self._key_file = directory / "ca.crt", directory / "ca.key"
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.ca_file.exists():
                self._make(directory.name)

    def issue(
        self,
        certificate_file: Path,
        key_file: Path,
        names: list[str],
        *,
        first_day: int = -1,
        last_day: int = 30,
    ) -> None:
        """Writes a certificate for host names and addresses, valid between two days counted from now, and its key."""
        ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        ca_key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = _builder(names[0], ca.subject, key, first_day, last_day)
        # Python 3.13 insists on it.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        builder = builder.add_extension(alternatives, critical=False).add_extension(issuer, critical=False)
        made = builder.sign(ca_key, hashes.SHA256())
        certificate_file.write_bytes(made.public_bytes(_PEM))
        key_file.write_bytes(_key_pem(key))

    def _make(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Authority {name}")])
        builder = _builder(f"Authority {name}", issuer, key, -1, 3650)
        limits = x509.BasicConstraints(ca=True, path_length=0)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(limits, critical=True).add_extension(own, critical=False)
        builder = builder.add_extension(_SIGNS, critical=True)
        made = builder.sign(key, hashes.SHA256())
        self._key_file.touch(0o600)
        self._key_file.write_bytes(_key_pem(key))
        self.ca_file.write_bytes(made.public_bytes(_PEM))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, first_day: int, last_day: int
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(days=first_day))
    return builder.not_valid_after(now + timedelta(days=last_day))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
