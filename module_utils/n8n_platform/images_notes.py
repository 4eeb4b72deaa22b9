"""What an environment leaves on its host so that pruning, by whomever, knows what it needs."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from ansible.module_utils.n8n_platform import images_prune
from ansible.module_utils.n8n_platform.files import write_file

PROGRAM = "platform-prune-images"


class Notes:
    """The note of one environment (images_prune says what is in it), and the program that the schedule calls.

    folder: the images' folder of the cache; contexts: name of the build contexts' folder in it.
    """

    def __init__(self, folder: Path, environment: str, releases: str, contexts: str, refs: list[str]) -> None:
        note = {"releases": releases, "refs": sorted(refs), "contexts": contexts}
        self._wanted = {
            folder / PROGRAM: inspect.getsource(images_prune),
            folder / images_prune.NOTES / f"{environment}.json": json.dumps(note) + "\n",
        }

    def plan(self) -> list[Path]:
        """Files that are not as they should be."""
        return [path for path, text in self._wanted.items() if not path.is_file() or path.read_text() != text]

    def write(self, paths: list[Path]) -> None:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, self._wanted[path], mode=0o644)
