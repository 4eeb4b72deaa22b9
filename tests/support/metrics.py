"""What the platform tells Prometheus of its backups."""

from __future__ import annotations

import re

from tests.support.deployment import Deployment

SAMPLE = re.compile(r'^n8n_platform_backup_(\w+)\{environment="([^"]*)"(?:,\w+="([^"]*)")?\} (\S+)$')


def metrics(deployment: Deployment) -> dict[str, float]:
    """Samples by name, without the prefix; `name{value}` where there is a label besides the environment."""
    text = (deployment.data_root / "state/metrics/backup.prom").read_text()
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        sample = SAMPLE.match(line)
        assert sample and sample[2] == deployment.name, line
        found[f"{sample[1]}{{{sample[3]}}}" if sample[3] else sample[1]] = float(sample[4])
    return found
