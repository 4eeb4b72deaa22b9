"""What the kernel counts for a container: memory and CPU of its cgroup, version 1 or 2."""

from __future__ import annotations

from pathlib import Path

from docker.models.containers import Container

ROOT = Path("/sys/fs/cgroup")


def memory_mb(container: Container) -> float:
    """In use, without the file cache that the kernel can drop."""
    folder, first = _folder(container, "memory")
    usage, cache = (
        ("memory.usage_in_bytes", "total_inactive_file") if first else ("memory.current", "inactive_file")
    )
    details = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return round((int((folder / usage).read_text()) - int(details[cache])) / 2**20, 1)


def cpu_seconds(container: Container) -> float:
    """Since it was started."""
    folder, first = _folder(container, "cpuacct")
    if first:
        return int((folder / "cpuacct.usage").read_text()) / 1e9
    details = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
    return int(details["usage_usec"]) / 1e6


def _folder(container: Container, controller: str) -> tuple[Path, bool]:
    """And whether it is of version 1."""
    lines = Path(f"/proc/{container.attrs['State']['Pid']}/cgroup").read_text(encoding="utf-8").splitlines()
    groups = dict(line.split(":", 2)[1:] for line in lines)
    for names, path in groups.items():
        if controller in names.split(","):
            return ROOT / controller / path.lstrip("/"), True
    return ROOT / groups[""].lstrip("/"), False
