"""traefik_cdn_ranges against a server that publishes lists over TLS: good ones, and what must never replace them."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import traefik_cdn_ranges
import yaml
from support.certificates import Authority

ROOT = Path(__file__).resolve().parents[2]
CLOUDFRONT = {
    "prefixes": [
        {"ip_prefix": "3.4.12.4/32", "service": "AMAZON"},
        {"ip_prefix": "130.176.0.0/17", "service": "CLOUDFRONT_ORIGIN_FACING"},
    ],
    "ipv6_prefixes": [{"ipv6_prefix": "2600:9000:1000::/36", "service": "CLOUDFRONT_ORIGIN_FACING"}],
}
GOOD = {
    "/ips-v4": "173.245.48.0/20\n103.21.244.0/22",
    "/ips-v6": "2400:cb00::/32\n",
    "/ip-ranges.json": json.dumps(CLOUDFRONT),
}
BAD = {
    "/empty": "",
    "/html": "<!DOCTYPE html><html>checking your browser</html>",
    "/half": "173.245.48.0/20\n103.21.2",
    "/host-bits": "173.245.48.1/20",
    "/everybody": "0.0.0.0/0",
    "/half-of-the-world": "128.0.0.0/1",
    "/private": "10.0.0.0/8",
    "/other.json": '{"ranges": []}',
    "/cut.json": json.dumps(CLOUDFRONT)[:-20],
    "/foreign.json": json.dumps({"prefixes": [], "ipv6_prefixes": []}),
}


class Publisher(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = {**GOOD, **BAD}.get(self.path)
        self.send_response(200 if text is not None else 404)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def cdn(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the server."""
    folder = tmp_path_factory.mktemp("cdn")
    authority.issue(folder / "crt", folder / "key", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "60-cdn.yml"


def manager(authority: Authority, file: Path, *urls: str) -> traefik_cdn_ranges.Manager:
    params = {
        "urls": list(urls),
        "service": "CLOUDFRONT_ORIGIN_FACING",
        "path": str(file),
        "variable": "traefik_trusted_proxy_cidrs",
        "ca_file": str(authority.ca_file),
        "timeout": 10,
    }
    return traefik_cdn_ranges.Manager(params)


@pytest.mark.parametrize(
    ("names", "ranges"),
    [
        (["/ips-v4", "/ips-v6"], ["103.21.244.0/22", "173.245.48.0/20", "2400:cb00::/32"]),
        (["/ip-ranges.json"], ["130.176.0.0/17", "2600:9000:1000::/36"]),
    ],
    ids=["cloudflare", "cloudfront"],
)
def test_a_good_list_becomes_the_variable_once(
    authority: Authority, cdn: str, file: Path, names: list[str], ranges: list[str]
) -> None:
    urls = [cdn + name for name in names]
    first = manager(authority, file, *urls)
    assert first.plan() and not file.exists()
    first.apply()
    assert yaml.safe_load(file.read_text()) == {"traefik_trusted_proxy_cidrs": ranges}
    assert manager(authority, file, *urls).plan() == []


@pytest.mark.parametrize("name", [*BAD, "/missing"])
def test_what_is_no_list_is_refused_by_its_address(
    authority: Authority, cdn: str, file: Path, name: str
) -> None:
    with pytest.raises(traefik_cdn_ranges.RangesError, match=f"{cdn}{name}: "):
        manager(authority, file, f"{cdn}/ips-v4", cdn + name)


def test_only_a_certificate_that_is_trusted_proves_a_list(cdn: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(traefik_cdn_ranges.RangesError, match="CERTIFICATE_VERIFY_FAILED"):
        manager(Authority(tmp_path / "another"), file, f"{cdn}/ips-v4")
    with pytest.raises(traefik_cdn_ranges.RangesError, match="unknown url type|over TLS"):
        manager(Authority(tmp_path / "another"), file, f"file://{tmp_path}/another/ca.crt")


def test_the_role_keeps_the_file_shows_the_difference_and_leaves_the_old_list_where_it_is(
    authority: Authority, cdn: str, file: Path
) -> None:
    def run(*names: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        variables = {
            "traefik_cdn_range_urls": [cdn + name for name in names],
            "traefik_cdn_range_file": str(file),
            "platform_extra_ca_file": str(authority.ca_file),
        }
        role = ["-m", "ansible.builtin.include_role", "-a", "name=traefik tasks_from=cdn"]
        ansible = [
            str(Path(sys.executable).with_name("ansible")),
            "-i",
            "inventories/local",
            "localhost",
            *role,
        ]
        command = [*ansible, "-e", json.dumps(variables), *(["--check"] if check else [])]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    told = run("/ips-v4", check=True)
    assert told.returncode == 0 and '+  - "173.245.48.0/20"' in told.stdout, told.stdout + told.stderr
    assert not file.exists()
    assert run("/ips-v4").returncode == 0
    old = file.read_text()
    assert "173.245.48.0/20" in old
    refused = run("/html")
    assert refused.returncode != 0 and f"{cdn}/html: " in refused.stdout + refused.stderr
    assert file.read_text() == old
