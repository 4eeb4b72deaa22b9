"""Packages and package sources of the engine on every system that is supported, from both places."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = {"bookworm": ("debian", "12"), "trixie": ("debian", "13"), "noble": ("ubuntu", "24.04")}
COMMON = {"iptables", "ca-certificates"}
# With Compose and Buildx, under the names that each place has for them.
PACKAGES = {
    "debian-distribution": COMMON | {"docker.io", "docker-cli", "docker-compose", "docker-buildx"},
    "ubuntu-distribution": COMMON | {"docker.io", "docker-compose-v2", "docker-buildx"},
    "docker": COMMON
    | {"docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "docker-buildx-plugin"},
}


def host(codename: str, source: str, **apt: Any) -> dict[str, Any]:
    system, version = SYSTEMS[codename]
    sources = [
        {
            "uris": ["http://mirror.example/main"],
            "suites": [codename, f"{codename}-updates"],
            "signed_by": "",
        },
        {"uris": ["http://mirror.example/sec"], "suites": [f"{codename}-security"], "signed_by": "/k.gpg"},
    ]
    return {
        "name": f"{codename}-{source}" + ("-docker-there" if apt else ""),
        "source": source,
        "distribution": {"id": system, "version_id": version, "codename": codename},
        "apt": {"docker_repository": False, "suites": [codename], "sources": sources, **apt},
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    file = tmp_path_factory.mktemp("engine") / "rendered.json"
    hosts = [host(name, source) for name in SYSTEMS for source in ("distribution", "docker", "auto")]
    hosts.append(host("noble", "auto", docker_repository=True))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/local"]
    command += ["tests/render/docker_engine.yml", "-e", json.dumps({"machines": hosts, "file": str(file)})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return found


def fields(text: str) -> list[dict[str, str]]:
    """The stanzas of a file of package sources."""
    stanzas = [[line for line in part.splitlines() if line[0] != "#"] for part in text.strip().split("\n\n")]
    return [dict(line.split(": ", 1) for line in stanza) for stanza in stanzas]


@pytest.mark.parametrize("codename", SYSTEMS)
def test_packages_are_those_of_the_place_that_was_asked_for(
    rendered: dict[str, dict[str, Any]], codename: str
) -> None:
    system = SYSTEMS[codename][0]
    assert set(rendered[f"{codename}-docker"]["packages"]) == PACKAGES["docker"]
    for source in ("distribution", "auto"):
        found = rendered[f"{codename}-{source}"]
        assert found["supported"]
        assert set(found["packages"]) == PACKAGES[f"{system}-distribution"]


def test_auto_stays_with_dockers_own_where_it_is_there(rendered: dict[str, dict[str, Any]]) -> None:
    assert set(rendered["noble-auto-docker-there"]["packages"]) == PACKAGES["docker"]


@pytest.mark.parametrize("codename", SYSTEMS)
def test_dockers_repository_is_the_systems_own_and_signed(
    rendered: dict[str, dict[str, Any]], codename: str
) -> None:
    assert fields(rendered[f"{codename}-docker"]["docker.sources"]) == [
        {
            "Types": "deb",
            "URIs": f"https://download.docker.com/linux/{SYSTEMS[codename][0]}",
            "Suites": codename,
            "Components": "stable",
            "Signed-By": "/etc/apt/keyrings/docker.asc",
        }
    ]


def test_only_debian_12_takes_the_next_suite_and_at_low_priority(rendered: dict[str, dict[str, Any]]) -> None:
    needing = {name for name, found in rendered.items() if found["next_suite"]}
    assert needing == {"bookworm-distribution", "bookworm-auto"}
    found = rendered["bookworm-distribution"]
    assert fields(found["next-suite.pref"]) == [
        {"Package": "*", "Pin": "release n=trixie*", "Pin-Priority": "100"}
    ]
    main, security = fields(found["next-suite.sources"])
    assert (main["URIs"], main["Suites"]) == ("http://mirror.example/main", "trixie trixie-updates")
    assert (security["Suites"], security["Signed-By"]) == ("trixie-security", "/k.gpg")
