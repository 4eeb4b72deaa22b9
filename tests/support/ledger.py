"""Who took which job, and the workflows that the tests call."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass

from tests.support.deployment import ROOT, Deployment
from tests.support.n8n_rest import events_of


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


@dataclass(frozen=True)
class RunOf:
    """One execution; seconds since the epoch, `stopped` 0 while it runs."""

    id: str
    status: str
    started: float
    stopped: float


def runs_of(deployment: Deployment, workflow: str) -> list[RunOf]:
    """The workflow's executions, oldest first."""
    rows = deployment.sql(
        'SELECT id, status, coalesce(extract(epoch FROM "startedAt"), 0), coalesce(extract(epoch FROM "stoppedAt"), 0)'
        f" FROM execution_entity WHERE \"workflowId\" = '{workflow}' ORDER BY id"
    )
    return [
        RunOf(identifier, status, float(started), float(stopped))
        for identifier, status, started, stopped in rows
    ]


def finished_on(deployment: Deployment, workflow: str, process: str, since: str) -> bool:
    """Whether an execution of the workflow (by name) that began after `since` has succeeded on the process."""
    rows = deployment.sql(
        'SELECT e.id FROM execution_entity e JOIN workflow_entity w ON w.id = e."workflowId"'
        f" WHERE w.name = '{workflow}' AND e.status = 'success' AND e.\"startedAt\" > '{since}'"
        " ORDER BY e.id DESC LIMIT 20"
    )
    return any(
        events_of(deployment, identifier).get("n8n.queue.job.dequeued") == process for (identifier,) in rows
    )
