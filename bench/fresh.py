"""From nothing: a bare host, a clone, `make up` by a user with sudo, to a smoke workflow that answered."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.samples import load, save, timed
from tests.support.fresh_clone import HOME, fresh_clone, operator

# Of the images that the host builds, with what is needed meanwhile.
DISK_GB = 40


def measure(form: str) -> None:
    """Python environment, engine, images from packages, deployment; the smoke workflow is the last thing that `make up`
    does. Ansible's CPU seconds are those of the host, which are not counted."""
    with tempfile.TemporaryDirectory() as folder, fresh_clone(Path(folder), DISK_GB) as host:
        password = (Path(folder) / "password").read_bytes()
        host.put(f"{HOME}/password", password, owner=1000)
        said: list[str] = []

        def up() -> None:
            file = f"{HOME}/password"
            code, output, messages = operator(
                host, "cd platform && make up", ANSIBLE_BECOME_PASSWORD_FILE=file
            )
            said.append(output)
            assert code == 0, output[-6000:] + messages[-2000:]

        busy = load()
        sample = {"seconds": timed(up)["seconds"], "load": busy}
        assert "Environment local on localhost: healthy" in said[0], said[0][-3000:]
        containers = len(host.inside("docker ps -q")[1].split())
    save("fresh", form, {"from nothing": [sample]}, containers=containers)
