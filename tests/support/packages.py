"""Programs that some tests need beside what a host has."""

from __future__ import annotations

import os
import shutil
import subprocess


def program(name: str, package: str) -> str:
    """Path of a program, its Debian package installed first where that is possible; fails naming the package."""
    found = shutil.which(name)
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=environment)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
            check=True,
            env=environment,
        )
        found = shutil.which(name)
    assert found, f"these tests need {name}: install the package {package}"
    return found
