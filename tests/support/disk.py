"""A disk of its own for a nested host."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Disk:
    """A file system in a file, mounted at `folder`: it goes with one file, where the images in a volume, hundreds of
    thousands of files, take a minute. Only what is written takes space."""

    def __init__(self, folder: Path, gigabytes: int = 20) -> None:
        self.folder, self._file, self._bytes = folder, folder.with_suffix(".img"), gigabytes * 10**9

    def make(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("wb") as file:
            file.truncate(self._bytes)
        subprocess.run(["mkfs.ext4", "-q", str(self._file)], check=True)
        # It need not outlive this machine.
        subprocess.run(
            ["mount", "-o", "loop,noatime,barrier=0", str(self._file), str(self.folder)], check=True
        )
        return self.folder

    def remove(self) -> None:
        if self.folder.is_mount():
            subprocess.run(["umount", str(self.folder)], check=True)
        self._file.unlink(missing_ok=True)
