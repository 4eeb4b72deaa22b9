"""From nothing: a bare host, a clone, `make up` by a user with sudo, to a smoke workflow that answered."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.samples import load, save, timed
from tests.support.fresh_clone import DEPLOYMENT_GB, HEALTHY, fresh_clone, make


def measure(form: str) -> None:
    """Python environment, engine, images from packages, deployment; the smoke workflow is the last thing that `make up`
    does. Ansible's CPU seconds are those of the host, which are not counted."""
    with tempfile.TemporaryDirectory() as folder, fresh_clone(Path(folder), DEPLOYMENT_GB) as host:
        said: list[str] = []
        busy = load()
        sample = {"seconds": timed(lambda: said.append(make(host, "up")))["seconds"], "load": busy}
        assert HEALTHY in said[0], said[0][-3000:]
        containers = len(host.inside("docker ps -q")[1].split())
    save("fresh", form, {"from nothing": [sample]}, containers=containers)
