"""Kind `directory`: {name, kind, path[, required]}: a directory of the host, kept as files by restic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context, tree_bytes
from ansible.module_utils.n8n_platform.recovery_fetch import discard_former
from ansible.module_utils.n8n_platform.restic import SOURCE


class Directory:
    """It goes into the run's one snapshot with all others; here it is looked at."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.path = Path(item["path"])

    def forecast(self, context: Context) -> int:
        """Bytes changed since the last run: an upper bound of what the repository grows by."""
        return tree_bytes(self.path, context.since)

    def run(self, _context: Context, _staging: Path) -> list[dict[str, Any]]:
        """Nothing is put into staging. Raises BackupError when the directory is gone: its loss must not look like a
        backup of nothing."""
        if not self.path.is_dir():
            raise BackupError(f"{self.name}: {self.path} is not there")
        return [
            {
                "name": self.name,
                "kind": "directory",
                # A manifest with `..` in it is refused.
                "path": os.path.normpath(self.path),
                "snapshot_path": f"{SOURCE}/{self.name}",
                "bytes": tree_bytes(self.path),
                "details": {},
            }
        ]

    def completed(self, _context: Context) -> list[str]:
        """After a good set: what the last restore has replaced goes. One text each."""
        return discard_former(self.path)
