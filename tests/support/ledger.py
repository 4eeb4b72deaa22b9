"""Who took which job, and the workflows that the tests call."""

from __future__ import annotations

import re
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
    """Worker service -> jobs it has taken, from the event log that each n8n process keeps (`worker-2.log`)."""
    taken: Counter[str] = Counter()
    for path in (deployment.data_root / "volumes/n8n-events").glob("worker-*.log"):
        process = re.match(r"worker-\d+", path.name)
        assert process, path
        text = path.read_text(encoding="utf-8", errors="replace")
        taken[f"n8n-{process[0]}"] += text.count('"eventName":"n8n.queue.job.dequeued"')
    return taken
