"""The environment's own authority: it can vouch for the environment's names only, and nobody holds its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tests.support.deployment import Deployment


def public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def authorities(core: Deployment) -> dict[str, x509.Certificate]:
    """The edge's, which operators' clients trust, and the one that services trust among each other."""
    files = [core.ca_file, *(core.data_root / "secrets").rglob("*.ca")]
    return {path.name: x509.load_pem_x509_certificate(path.read_bytes()) for path in files}


@pytest.mark.parametrize(
    ("name", "permitted"), [("ca.crt", ["localhost"]), ("postgres_n8n_tls.ca", ["postgres-n8n"])]
)
def test_it_can_sign_for_the_environments_names_only(
    core: Deployment, name: str, permitted: list[str]
) -> None:
    certificate = authorities(core)[name]
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.DNSName(each) for each in permitted]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value.ca


def test_its_key_is_in_no_file(core: Deployment) -> None:
    known = {public_key(certificate) for certificate in authorities(core).values()}
    keys: list[Path] = []
    folders = (path for path in core.data_root.iterdir() if path.name != "volumes")
    for path in (file for folder in folders for file in folder.rglob("*")):
        if path.is_file() and b"PRIVATE KEY-----" in path.read_bytes():
            key = load_pem_private_key(path.read_bytes(), None).public_key()
            assert key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) not in known, path
            keys.append(path)
    assert {"postgres_n8n_tls.key", "traefik_tls.key"} <= {path.name for path in keys}
