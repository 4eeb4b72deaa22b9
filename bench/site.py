"""An unchanged site run beside `docker compose up` and beside the same roles with Ansible's own configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.samples import ROOT, Sample, command, interleaved, save, timed
from tests.support.deployment import Deployment

# Without these the roles would not be found.
PATHS = {
    "roles_path": "roles",
    "library": "library",
    "module_utils": "module_utils",
    "action_plugins": "plugins/action",
    "filter_plugins": "plugins/filter",
    "lookup_plugins": "plugins/lookup",
    "callback_plugins": "plugins/callback",
}


def measure(deployment: Deployment, form: str, rounds: int) -> None:
    release = (deployment.data_root / "releases/current").resolve()
    playbook = str(ROOT / ".venv/bin/ansible-playbook")
    site = [playbook, "-i", str(deployment.inventory), "playbooks/site.yml"]
    compose = ["docker", "compose", "-f", str(release / "compose.yaml"), "up", "-d", "--pull", "never"]
    with tempfile.TemporaryDirectory(prefix="n8n-platform-bench-") as folder:
        plain = {"ANSIBLE_CONFIG": str(plain_configuration(Path(folder)))}
        ways = {
            "site": unchanged(deployment, command(site)),
            "site, Ansible's defaults": unchanged(deployment, command(site, plain)),
            "docker compose up -d": unchanged(
                deployment, command([*compose, *sorted(deployment.containers())])
            ),
        }
        samples = interleaved(ways, rounds)
    save("site", form, samples, environment=deployment.name, containers=len(deployment.containers()))


def unchanged(deployment: Deployment, work: Callable[[], None]) -> Callable[[], Sample]:
    """A sample counts only if every container is the one that it was, and was not restarted."""

    def run() -> Sample:
        before = deployment.fingerprint()
        sample = timed(work)
        assert deployment.fingerprint() == before, "something was changed"
        return sample

    return run


def plain_configuration(folder: Path) -> Path:
    path = folder / "ansible.cfg"
    lines = [f"{key} = {ROOT / directory}" for key, directory in PATHS.items()]
    path.write_text("\n".join(["[defaults]", *lines, "interpreter_python = /usr/bin/python3", ""]))
    return path
