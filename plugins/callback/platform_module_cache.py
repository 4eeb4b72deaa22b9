"""Keeps the archives that modules travel in from one run to the next."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: platform_module_cache
type: aggregate
short_description: Keep the archives that modules travel in
description:
  - Ansible finds out what a module imports, and packs it, once for each module and run, in a folder that ends with the
    run. This keeps that folder, one for each state of the sources, in the folder that the environment variable
    E(PLATFORM_MODULE_CACHE) names, or else in the Python environment of the checkout.
  - Does nothing where there is neither, or where it cannot be written to.
requirements:
  - enable in configuration
"""

# Locks what is installed beside Ansible; each release of the lists is another environment.
_LISTS = ("requirements*.txt", "requirements.yml")
_FOLDER = "module-cache"
_KEPT_SECONDS = 7 * 86400


def state_of_sources(root: Path, folders: list[str]) -> str:
    """Digest of the paths, sizes and times of all that may be packed: modules and their utilities in `folders`, and the
    lists in `root` of what is installed."""
    found = hashlib.sha256(sys.version.encode())
    files = [path for pattern in _LISTS for path in root.glob(pattern)]
    files += [path for folder in folders for path in Path(folder).rglob("*.py")]
    for path in sorted(files):
        stat = path.stat()
        found.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return found.hexdigest()[:16]


def share(local_tmp: Path, cache: Path, state: str) -> None:
    """Puts the folder of `state` where Ansible looks, and forgets those that no run has used for a week."""
    folder = cache / state
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.touch()
    (local_tmp / "ansiballz_cache").symlink_to(folder)
    for other in cache.iterdir():
        if other.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "platform_module_cache"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, _playbook: Any) -> None:
        own = Path(sys.prefix) / _FOLDER if sys.prefix != sys.base_prefix else ""
        if cache := os.environ.get("PLATFORM_MODULE_CACHE", own):
            # Without it everything is packed as ever.
            with suppress(OSError):
                folders = [*constants.DEFAULT_MODULE_PATH, *constants.DEFAULT_MODULE_UTILS_PATH]
                state = state_of_sources(Path(__file__).resolve().parents[2], folders)
                share(Path(constants.DEFAULT_LOCAL_TMP), Path(cache), state)
