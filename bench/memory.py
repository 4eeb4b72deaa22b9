"""Memory of an idle environment, container by container."""

from __future__ import annotations

from bench.cgroup import memory_mb
from bench.samples import save
from tests.support.deployment import Deployment


def measure(deployment: Deployment, form: str, subject: str = "memory") -> None:
    used = {service: memory_mb(container) for service, container in sorted(deployment.containers().items())}
    assert used, f"{deployment.name} is not deployed"
    save(subject, form, {"idle": [used]}, unit="MiB")
    print(f"{sum(used.values()):.0f} MiB in {len(used)} containers: {used}", flush=True)
