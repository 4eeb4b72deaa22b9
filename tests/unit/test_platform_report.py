"""What the report at the end of a run says."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from traefik_lab import ROOT, role_variables

OWN = {"traefik_tls_certificate_file": "/etc/ssl/own.pem", "traefik_tls_key_file": "/etc/ssl/own.key"}
ACME = {"traefik_acme_enabled": True, "traefik_acme_directory_url": "https://acme.example/directory"}
AUTHORITY = {"traefik_tls_ca_file": "/etc/ssl/company.pem"}
IMPORT = "to be imported by browsers and clients"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, f"Certificate authority, {IMPORT}: /srv/n8n/ca.crt"),
        (OWN, "Certificate of your own; traefik_tls_ca_file names no authority to import"),
        (OWN | AUTHORITY, f"Certificate of your own; its authority, {IMPORT}: /etc/ssl/company.pem"),
        (
            ACME,
            "Certificate by ACME from https://acme.example/directory; traefik_tls_ca_file names no authority to import",
        ),
        (
            ACME | AUTHORITY,
            f"Certificate by ACME from https://acme.example/directory; its authority, {IMPORT}: /etc/ssl/company.pem",
        ),
    ],
    ids=["made here", "own", "own, of an authority of its own", "ACME", "ACME, private"],
)
def test_it_says_to_import_an_authority_only_where_there_is_one(
    inputs: dict[str, Any], expected: str
) -> None:
    loader = DataLoader()
    file = ROOT / "roles/platform_report/vars/main.yml"
    variables = role_variables([], platform_data_root="/srv/n8n", **inputs)
    variables |= loader.load_from_file(str(file), trusted_as_template=True)
    templar = Templar(loader=loader, variables=variables)
    assert templar.template(variables["__platform_report_certificate"]) == expected
    assert "{{ __platform_report_certificate }}\n" in (
        ROOT / "roles/platform_report/templates/report.txt.j2"
    ).read_text(encoding="utf-8")
