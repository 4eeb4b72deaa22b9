"""What each inventory renders, compared with the golden files.

After a wanted change: `UPDATE_GOLDEN=1 .venv/bin/pytest -q tests/render`, then read the difference in git.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.n8n_platform.compose_yaml import dump

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
# A fixed place: paths are part of what is rendered.
TARGET = Path("/tmp/n8n-platform-render")
ENVIRONMENTS = ("local", "staging", "production")
PROFILES = {"local": "standard", "staging": "small", "production": "standard", "large": "large"}
# The profile and the Postgres that none of them has.
OTHERS = {"large": ["platform_environment=large", "platform_profile=large", "platform_postgres_major=16"]}
_HIGHER_SLOT = re.compile(r"(worker|runner|webhook|slot|token)[-_]([2-9]|[1-9]\d+)\b")


def run(argv: list[str]) -> str:
    result = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{argv}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module", params=PROFILES)
def environment(request: pytest.FixtureRequest, engine: object) -> str:
    """An inventory's name, rendered below TARGET; or a name of OTHERS, which change the local one.

    The play asks Compose, which comes with the engine.
    """
    name: str = request.param
    inventory = "local" if name in OTHERS else name
    shutil.rmtree(TARGET / name, ignore_errors=True)
    playbook = str(Path(sys.executable).parent / "ansible-playbook")
    roots = [f"platform_root={TARGET}", f"platform_backup_root={TARGET / name / 'backups'}"]
    given = [*roots, *OTHERS.get(name, [])]
    variables = [*(part for value in given for part in ("-e", value)), "-e", "@tests/render/images.yml"]
    run([playbook, "-i", f"inventories/{inventory}", "tests/render/render.yml", *variables])
    return name


def release(environment: str, file: str) -> Path:
    return TARGET / environment / "releases/current" / file


def shortened(file: Path) -> dict[str, Any]:
    """The first slot stands for all of its kind."""
    document: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    for part in ("services", "networks", "secrets"):
        document[part] = {key: value for key, value in document[part].items() if not _HIGHER_SLOT.search(key)}
    return document


@pytest.mark.parametrize("environment", ENVIRONMENTS, indirect=True)
@pytest.mark.parametrize("file", ["compose.yaml", "stack.yaml"])
def test_is_what_the_golden_file_says(environment: str, file: str) -> None:
    found = dump(shortened(release(environment, file)))
    golden = GOLDEN / f"{environment}.{file.removesuffix('.yaml')}.golden"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found, "utf-8")
    assert found == golden.read_text("utf-8"), f"UPDATE_GOLDEN=1 rewrites {golden.name}"


def test_slots_of_a_kind_are_alike(environment: str) -> None:
    services = yaml.safe_load(release(environment, "compose.yaml").read_text("utf-8"))["services"]
    for name, service in services.items():
        match = _HIGHER_SLOT.search(name)
        if match:
            first = services[f"{name[: match.start(2)]}1"]
            assert set(first) == set(service)
            assert first["deploy"] == service["deploy"]


def test_there_are_as_many_slots_as_the_profile_says(environment: str) -> None:
    services = yaml.safe_load(release(environment, "compose.yaml").read_text("utf-8"))["services"]
    profiles = yaml.safe_load((ROOT / "group_vars/all/profiles.yml").read_text("utf-8"))["platform_profiles"]
    profile = profiles[PROFILES[environment]]
    found = Counter(re.sub(r"-\d+$", "", name) for name in services)
    assert found["n8n-worker"] == found["n8n-runner"] == profile["workers"]
    assert found["n8n-webhook"] == profile["webhooks"]


def test_a_heap_leaves_room_in_its_container(environment: str) -> None:
    """V8 has to collect, or to end, before the kernel kills."""
    services = yaml.safe_load(release(environment, "compose.yaml").read_text("utf-8"))["services"]
    heaps = {}
    for name, service in services.items():
        if found := re.search(
            r"max-old-space-size=(\d+)|MAX_OLD_SPACE_SIZE=(\d+)",
            "\n".join(f"{key}={value}" for key, value in service.get("environment", {}).items()),
        ):
            heaps[name] = int(found[1] or found[2])
            limit = int(service["deploy"]["resources"]["limits"]["memory"].removesuffix("M"))
            assert 128 <= heaps[name] <= 0.75 * limit, f"{name}: {heaps[name]} of {limit} MiB"
    assert {name for name in services if name.startswith("n8n-")} == set(heaps)


def test_postgres_16_knows_every_setting_and_method(environment: str) -> None:
    """The list is of a 16's own `postgres --describe-config`."""
    known = (ROOT / "tests/fixtures/postgres/settings-16.txt").read_text("utf-8").lower().split()
    (folder,) = (TARGET / environment / "config/postgres-n8n").iterdir()
    names = re.findall(r"^(\w+) = ", (folder / "postgresql.conf").read_text("utf-8"), re.MULTILINE)
    assert len(names) > 40
    assert set(names) <= set(known)
    rules = [line.split() for line in (folder / "pg_hba.conf").read_text("utf-8").splitlines()]
    rules = [rule for rule in rules if rule and rule[0] != "#"]
    assert {(rule[0], rule[-1]) for rule in rules} == {
        ("local", "peer"),
        ("hostssl", "scram-sha-256"),
        ("host", "reject"),
    }
    assert rules[-1] == ["host", "all", "all", "all", "reject"]


def test_compose_and_swarm_accept_it(environment: str) -> None:
    run(["docker", "compose", "-f", str(release(environment, "compose.yaml")), "config", "-q"])
    run(["docker", "stack", "config", "-c", str(release(environment, "stack.yaml"))])


def test_environments_share_neither_port_nor_path_nor_subnet() -> None:
    taken: dict[str, str] = {}
    for name in ENVIRONMENTS:
        document = yaml.safe_load((GOLDEN / f"{name}.compose.golden").read_text("utf-8"))
        services, networks = document["services"].values(), document["networks"].values()
        own = {str(port["published"]) for service in services for port in service.get("ports", [])}
        own |= {volume["source"] for service in services for volume in service.get("volumes", [])}
        own |= {
            config["subnet"] for network in networks for config in network.get("ipam", {}).get("config", [])
        }
        assert own
        for thing in own:
            assert thing not in taken, f"{thing} is used by {taken[thing]} and by {name}"
        taken |= dict.fromkeys(own, name)
