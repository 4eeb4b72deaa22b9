"""Memory of an idle environment: usage of each container's cgroup without the file cache that the kernel can drop."""

from __future__ import annotations

from pathlib import Path

from bench.samples import save
from tests.support.deployment import Deployment

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def measure(deployment: Deployment, form: str) -> None:
    used = {
        service: used_mb(container.attrs["State"]["Pid"])
        for service, container in sorted(deployment.containers().items())
    }
    save("memory", form, {"idle": [used]}, unit="MiB")
    print(f"{sum(used.values()):.0f} MiB in {len(used)} containers: {used}", flush=True)


def used_mb(pid: int) -> float:
    """Of the cgroup of a process, version 1 or 2."""
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    groups = dict(line.split(":", 2)[1:] for line in lines)
    if "memory" in groups:
        folder, usage, cache = (
            V1 / groups["memory"].lstrip("/"),
            "memory.usage_in_bytes",
            "total_inactive_file",
        )
    else:
        folder, usage, cache = V2 / groups[""].lstrip("/"), "memory.current", "inactive_file"
    details = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return round((int((folder / usage).read_text()) - int(details[cache])) / 2**20, 1)
