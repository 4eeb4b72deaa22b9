"""Who took which job, and the workflows that the tests call."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

from tests.support.deployment import ROOT, Deployment


def deploy_test_workflows(deployment: Deployment) -> None:
    """Deploys molecule/core/workflows through the project's own module."""
    subprocess.run(
        [
            ROOT / ".venv/bin/ansible-playbook",
            "-i",
            deployment.inventory,
            ROOT / "molecule/core/deploy_workflows.yml",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )


def dequeued_by(deployment: Deployment) -> Counter[str]:
    """Worker service -> jobs it has taken, from the event logs that each n8n process keeps."""
    hosts = {
        c.attrs["Config"]["Hostname"]: service for service, c in deployment.containers(stopped=True).items()
    }
    taken: Counter[str] = Counter()
    for path in (deployment.data_root / "volumes/n8n-events").rglob("*.log"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"n8n.queue.job.dequeued"' not in line:
                continue
            host = json.loads(line)["payload"].get("hostId", "")
            service = next((name for hostname, name in hosts.items() if hostname in host), path.stem)
            taken[service] += 1
    return taken
