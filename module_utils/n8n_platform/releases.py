"""Releases: `<root>/<id>/` with compose.yaml, stack.yaml and index.json; `current` names the one in force."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import config
from ansible.module_utils.n8n_platform.compose import slots, tiers, to_stack
from ansible.module_utils.n8n_platform.compose_cli import INDEX
from ansible.module_utils.n8n_platform.compose_policy import LABEL
from ansible.module_utils.n8n_platform.compose_yaml import dump
from ansible.module_utils.n8n_platform.files import write_file

COMPOSE = "compose.yaml"
_HISTORY = "history.json"


def index(model: dict[str, Any]) -> dict[str, Any]:
    """For tools that cannot parse YAML: {tiers: {tier: [service]}, slots: {slot: [service]}, networks:
    {name: hash}}."""
    return {
        "tiers": tiers(model),
        "slots": slots(model),
        "networks": {
            name: network["labels"][LABEL + "definition"] for name, network in model["networks"].items()
        },
    }


def render(model: dict[str, Any]) -> dict[str, str]:
    """The files of a release."""
    return {
        COMPOSE: dump(model),
        "stack.yaml": dump(to_stack(model)),
        INDEX: json.dumps(index(model), indent=1) + "\n",
    }


def release_id(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


class Releases:
    """The releases directory of one environment."""

    def __init__(self, root: Path, keep: int = 5) -> None:
        self._root = root
        self._keep = keep

    def path(self, release: str) -> Path:
        return self._root / release

    def current(self) -> str:
        """Id of the release in force, empty on a first run."""
        link = self._root / config.CURRENT
        return str(link.readlink()) if link.is_symlink() else ""

    def compose_text(self, release: str) -> str:
        path = self.path(release) / COMPOSE
        return path.read_text("utf-8") if release and path.exists() else ""

    def temporary(self, release: str) -> Path:
        return self._root / f".{release}.new"

    def keep(self, release: str) -> None:
        """Gives the finished temporary directory its name."""
        self.temporary(release).replace(self.path(release))

    def switch(self, release: str) -> None:
        """Records the release as the latest and puts it in force."""
        history = [*(known for known in self._history() if known != release), release]
        write_file(self._root / _HISTORY, json.dumps(history[-self._keep :]) + "\n", mode=0o644)
        config.switch(self._root / config.CURRENT, release)

    def stale(self, upcoming: str) -> list[Path]:
        """Release directories beyond the last `keep` different ones, once `upcoming` is in force."""
        history = [*(known for known in self._history() if known != upcoming), upcoming]
        kept = {*history[-self._keep :], self.current() or upcoming, config.CURRENT}
        return [path for path in config.versions(self._root) if path.name not in kept]

    def kept_texts(self, upcoming: str) -> list[str]:
        """The compose files of the releases that stay, for finding what they name."""
        gone = set(self.stale(upcoming))
        return [self.compose_text(path.name) for path in config.versions(self._root) if path not in gone]

    def remove(self, paths: list[Path]) -> None:
        for path in paths:
            shutil.rmtree(path)

    def _history(self) -> list[str]:
        path = self._root / _HISTORY
        known = json.loads(path.read_text("utf-8")) if path.exists() else []
        return [release for release in known if self.path(release).is_dir()]
