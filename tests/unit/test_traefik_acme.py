"""Certificates from an ACME authority (Pebble): issued, renewed, and kept when a renewal fails."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import traefik_probe
from ansible.module_utils.n8n_platform.http import JsonClient
from support.pebble import pebble
from traefik_lab import Backend, Lab, certificate, free_port, role_value, until

DOMAIN = "example.test"
# Less than the 30 days before the end at which the role's default has Traefik renew, and than verify waits for it.
VALID_DAYS = 25
RENEWAL_FAILED = "Error renewing ACME certificate"


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    """pebble and pebble-challtestsrv."""
    return pebble()


class Authority:
    """Pebble with certificates that are due whenever Traefik starts."""

    def __init__(self, programs: tuple[str, str], directory: Path) -> None:
        self._pebble, self._names = programs
        self.port, self.dns, self.management = free_port(), free_port(), free_port()
        self.directory = directory
        directory.mkdir()
        certificate(directory, ["localhost"])
        self.ca_file = directory / "traefik_tls.crt"
        self.url = f"https://localhost:{self.port}/dir"
        self.root_file = directory / "root.pem"

    def _configure(self, lab: Lab) -> None:
        settings: dict[str, Any] = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.ca_file),
            "privateKey": str(self.directory / "traefik_tls.key"),
            "httpPort": lab.http,
            "tlsPort": lab.https,
            "profiles": {"default": {"description": "the only one", "validityPeriod": VALID_DAYS * 86400}},
        }
        (self.directory / "pebble.json").write_text(json.dumps({"pebble": settings}))

    @contextmanager
    def running(self, lab: Lab) -> Iterator[None]:
        """It asks `lab` for the proof."""
        self._configure(lab)
        names = [
            self._names,
            "-management",
            f"127.0.0.1:{free_port()}",
            "-dnsserver",
            f"127.0.0.1:{self.dns}",
            "-defaultIPv6",
            "",
        ]
        names += [part for kind in ("http01", "https01", "tlsalpn01", "doh") for part in (f"-{kind}", "")]
        authority = [self._pebble, "-config", "pebble.json", "-dnsserver", f"127.0.0.1:{self.dns}"]
        environment = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
        with open(self.directory / "log", "ab") as log:
            options = {"cwd": self.directory, "env": environment, "stdout": log, "stderr": log}
            started = [subprocess.Popen(command, **options) for command in (names, authority)]  # type: ignore[call-overload]
        try:
            until(self._listens, 20, lambda: (self.directory / "log").read_text())
            yield
        finally:
            for process in started:
                process.terminate()
                process.wait(10)

    def fetch_root(self) -> None:
        client = JsonClient(
            f"https://localhost:{self.management}", ca_file=str(self.ca_file), connect_to="127.0.0.1"
        )
        self.root_file.write_bytes(client.request("GET", "/roots/0").body)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


def served(lab: Lab) -> str:
    """PEM of the certificate for the name, empty when there is no handshake."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", lab.https), 5) as plain,
        context.wrap_socket(plain, server_hostname=f"n8n.{DOMAIN}") as secure,
    ):
        return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"")
    return ""


def renewed(lab: Lab, issued: str) -> str:
    """PEM of the certificate that follows. Traefik looks for what is due once a day and when it starts, at times before
    it can answer the challenge."""
    for _ in range(5):
        with lab.running():
            until(lambda: RENEWAL_FAILED in lab.log or served(lab) not in ("", issued), 60, lambda: lab.log)
            if (found := served(lab)) not in ("", issued):
                return found
    pytest.fail(f"not renewed: {lab.log}")


def reported(lab: Lab, root_file: Path, min_days: int) -> list[str]:
    """What `verify` finds."""
    routes = role_value("__traefik_routes", lab.contributions, platform_domain=DOMAIN)
    params = {
        "address": "127.0.0.1",
        "http_port": lab.http,
        "https_port": lab.https,
        "ca_file": str(root_file),
    }
    params |= {
        "routes": routes,
        "realm": "n8n-local",
        "maintenance": False,
        "min_days": min_days,
        "timeout": 10,
    }
    return traefik_probe.Manager(params).plan()


@pytest.mark.slow
@pytest.mark.parametrize("challenge", ["http", "tls"])
def test_issued_renewed_and_kept_when_the_authority_is_away(
    tmp_path: Path, programs: tuple[str, str], challenge: str
) -> None:
    backend = Backend("main").start()
    server = {"servers": [f"http://127.0.0.1:{backend.port}"], "class": "operator"}
    contributions = [{"role": "n8n", "edge": [{"name": "editor", "host": "n8n", "paths": ["/"], **server}]}]
    (tmp_path / "lab").mkdir()
    authority = Authority(programs, tmp_path / "pebble")
    lab = Lab(
        tmp_path / "lab",
        contributions,
        platform_domain=DOMAIN,
        traefik_acme_enabled=True,
        traefik_acme_email=f"owner@{DOMAIN}",
        traefik_acme_challenge=challenge,
        traefik_acme_directory_url=authority.url,
        traefik_acme_ca_file=str(authority.ca_file),
        traefik_log_level="INFO",
    )
    with authority.running(lab):
        with lab.running():
            until(lambda: served(lab) != "", 120, lambda: lab.log)
            issued = served(lab)
            authority.fetch_root()
        successor = renewed(lab, issued)
    with lab.running():
        # Traefik says it at level info only; what an operator sees is verify's count of days.
        until(lambda: RENEWAL_FAILED in lab.log, 30, lambda: lab.log)
        until(lambda: served(lab) == successor, 10, lambda: lab.log)
        ends = f"n8n.{DOMAIN}: the certificate ends in {VALID_DAYS - 1} days"
        assert reported(lab, authority.root_file, min_days()) == [ends]
        assert reported(lab, authority.root_file, min_days(traefik_acme_certificate_hours=1080)) == []
    backend.stop()


def min_days(**inputs: Any) -> int:
    return int(role_value("__traefik_min_days", [], **{"traefik_acme_enabled": True, **inputs}))


@pytest.mark.parametrize(
    ("hours", "days"),
    [(17520, 108), (8760, 108), (8759, 27), (2160, 27), (2159, 9), (720, 9), (719, 0), (1, 0)],
)
def test_verify_waits_a_tenth_of_the_time_that_traefik_tries_for(hours: int, days: int) -> None:
    assert min_days(traefik_acme_certificate_hours=hours) == days
    assert min_days(traefik_acme_certificate_hours=hours, traefik_acme_enabled=False) == 14
