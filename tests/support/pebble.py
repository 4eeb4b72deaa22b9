"""Pebble, the ACME authority for tests: built once a machine, outside of any checkout."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "v2.10.0"
PROGRAMS = ("pebble", "pebble-challtestsrv")
MODULE = "github.com/letsencrypt/pebble/v2/cmd"
_DEFAULT = "/var/cache/n8n-platform" if os.geteuid() == 0 else Path.home() / ".cache/n8n-platform"
_CACHE = Path(os.environ.get("PLATFORM_CACHE", _DEFAULT))


def pebble() -> tuple[str, str]:
    """Paths of pebble and pebble-challtestsrv, from PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN or built here.

    Raises AssertionError with the compiler's words.
    """
    given = tuple(os.environ.get(name, "") for name in ("PEBBLE_BIN", "PEBBLE_CHALLTESTSRV_BIN"))
    if all(given):
        return given[0], given[1]
    folder = _CACHE / f"test-pebble-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all((folder / name).exists() for name in PROGRAMS):
            _build(folder)
    return str(folder / PROGRAMS[0]), str(folder / PROGRAMS[1])


def _build(folder: Path) -> None:
    # What the toolchain leaves beside the programs is several times their size.
    work = folder / "work"
    environment = os.environ | {"GOBIN": str(work / "bin"), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    environment |= {
        "GOCACHE": str(work / "cache"),
        "GOMODCACHE": str(work / "modules"),
        "GOFLAGS": "-modcacherw",
    }
    command = [_go(), "install", *(f"{MODULE}/{name}@{VERSION}" for name in PROGRAMS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pebble cannot be built: {done.stderr[-3000:]}"
    for name in PROGRAMS:
        (work / "bin" / name).replace(folder / name)
    shutil.rmtree(work)


def _go() -> str:
    """The toolchain of the development requirements."""
    return str(Path(sys.executable).with_name("go"))
