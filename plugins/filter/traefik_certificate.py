"""The edge's certificate, where the operator brings his own: what a browser would say against it, said beforehand."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography import x509


def certificate_problems(pair: Mapping[str, str], hosts: Iterable[str]) -> list[str]:
    """What is wrong with `pair` {variable: path}, certificate first, then key; "" for both when there is none.

    The certificate must fit the key, be valid today and hold every name of `hosts`, itself or as a wildcard.
    """
    if not any(pair.values()):
        return []
    both = " and ".join(pair)
    if not all(pair.values()):
        return [f"{both} belong together: one is empty"]
    try:
        certificate, key = pair.values()
        ssl.create_default_context().load_cert_chain(certificate, key, password="")
        leaf = x509.load_pem_x509_certificates(Path(certificate).read_bytes())[0]
    except (OSError, ValueError) as error:
        return [f"{both}: not a readable certificate with its key ({error})"]
    return [f"{next(iter(pair))}: {problem}" for problem in (*_validity(leaf), *_names(leaf, hosts))]


def _validity(leaf: x509.Certificate) -> list[str]:
    now = datetime.now(timezone.utc)
    if now < leaf.not_valid_before_utc:
        return [f"the certificate is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"]
    if now >= leaf.not_valid_after_utc:
        return [f"the certificate has ended on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"]
    return []


def _names(leaf: x509.Certificate, hosts: Iterable[str]) -> list[str]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        names = []
    missing = [
        host for host in hosts if not {host.lower(), f"*.{host.lower().partition('.')[2]}"} & set(names)
    ]
    return (
        [f"the certificate is for {', '.join(names) or 'no host'}, not for {', '.join(missing)}"]
        if missing
        else []
    )


class FilterModule:
    """`traefik_certificate_problems`."""

    def filters(self) -> dict[str, Any]:
        return {"traefik_certificate_problems": certificate_problems}
