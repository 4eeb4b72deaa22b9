"""No secret of the environment shows up where it does not belong."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.deployment import ROOT, Deployment

# A shorter value would be found by chance.
SHORTEST = 16


@pytest.fixture(scope="module")
def canaries(core: Deployment) -> dict[bytes, str]:
    """Every secret value of the environment (single lines; of a key file its second line) -> its name."""
    values: dict[bytes, str] = {}
    for path in (core.data_root / "secrets").rglob("*"):
        if not path.is_file() or path.suffix in (".crt", ".ca"):
            continue
        lines = path.read_bytes().splitlines()
        value = lines[0] if len(lines) == 1 else lines[1] if path.suffix == ".key" else b""
        if len(value) >= SHORTEST:
            values[value] = path.name
    assert {"n8n_encryption_key", "postgres_n8n_app_password"} <= set(values.values())
    return values


def found_in(canaries: dict[bytes, str], content: bytes) -> set[str]:
    return {name for value, name in canaries.items() if value in content}


def test_the_search_finds_a_planted_one(canaries: dict[bytes, str]) -> None:
    value, name = next(iter(canaries.items()))
    assert found_in(canaries, b"..." + value + b"...") == {name}


def test_container_configuration_logs_and_image_history(core: Deployment, canaries: dict[bytes, str]) -> None:
    for service, container in core.containers(stopped=True).items():
        assert not found_in(canaries, json.dumps(container.attrs).encode()), f"inspect of {service}"
        assert not found_in(canaries, container.logs()), f"log of {service}"
        assert not found_in(canaries, json.dumps(container.image.history()).encode()), (
            f"image history of {service}"
        )


def test_engine_events(core: Deployment, canaries: dict[bytes, str]) -> None:
    events = core.engine.api.events(since=int(time.time()) - 24 * 3600, until=int(time.time()))
    assert not found_in(canaries, b"".join(events))


def test_process_environments_and_command_lines(core: Deployment, canaries: dict[bytes, str]) -> None:
    for service, container in core.containers().items():
        for process in container.top()["Processes"]:
            for name in ("environ", "cmdline"):
                path = Path("/proc") / process[1] / name
                content = path.read_bytes() if path.exists() else b""
                assert not found_in(canaries, content), f"{name} of a process of {service}"


def test_rendered_files(core: Deployment, canaries: dict[bytes, str]) -> None:
    for folder in ("config", "releases", "bin", "state/schedule"):
        for path in (core.data_root / folder).rglob("*"):
            if path.is_file():
                assert not found_in(canaries, path.read_bytes()), path


def test_a_verbose_run_and_what_it_leaves(core: Deployment, canaries: dict[bytes, str]) -> None:
    result = subprocess.run(
        [ROOT / ".venv/bin/ansible-playbook", "-vvv", "--diff", "-i", core.inventory, "playbooks/site.yml"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:].decode()
    assert not found_in(canaries, result.stdout + result.stderr)
    for leftover in (ROOT / ".ansible", Path.home() / ".ansible/tmp"):
        for path in leftover.rglob("*") if leftover.exists() else []:
            if path.is_file():
                assert not found_in(canaries, path.read_bytes()), path


def test_the_checkout(canaries: dict[bytes, str]) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            assert not found_in(canaries, path.read_bytes()), name


def test_logs_and_support_bundle(core: Deployment, canaries: dict[bytes, str]) -> None:
    run = core.run("support")
    assert run.rc == 0, run.failures()
    bundle = core.data_root / "support" / f"{core.project}.tar.gz"
    content = subprocess.run(["tar", "-xzOf", bundle], capture_output=True, check=True).stdout
    assert b"services:" in content and b'"healthy": true' in content
    assert not found_in(canaries, content)
    logs = core.run("logs", platform_logs_services=["n8n-main"])
    assert logs.rc == 0, logs.failures()
    assert not found_in(canaries, logs.stdout.encode())
