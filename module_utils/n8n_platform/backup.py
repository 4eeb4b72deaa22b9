"""What a backup is made from, and what all parts that make one share: definition, context, errors.

The definition is one JSON file without secrets, written by the role backup: environment, project, timezone, data_root,
volumes_root, secrets_root, state_root, backup_root, images {backup, postgres, redis}, s3 (null or {endpoint, bucket,
region, prefix, uri_style, ca_file, network}), items (what the roles contribute), calendar {full, diff, incr},
retention {local_days, offsite_days, minimum_sets}, timeouts {seconds by kind or step, default}, notify {mail},
bundle {recipients, destination}, versions, maximum_age_hours.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.engine_run import OneShots

RUN_ID = re.compile(r"^\d{8}T\d{6}Z$")
_RUN_FORMAT = "%Y%m%dT%H%M%SZ"
_REQUIRED = (
    "environment",
    "project",
    "timezone",
    "volumes_root",
    "secrets_root",
    "state_root",
    "backup_root",
    "images",
    "items",
    "retention",
)
_BLOCK = 1 << 20
_GIVES_WAY = 19


class Exit(IntEnum):
    """What the command ends with. Everything but DONE means that somebody should look."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_OFFSITE = 3
    DAMAGED = 4
    LATE = 5
    NOT_PRUNED = 6
    NO_SPACE = 10
    LOCKED = 11
    WRONG_KEY = 12
    RESTORING = 13
    INTERRUPTED = 130


class BackupError(Exception):
    """A step failed; the text names it and what is wrong, never a secret. `code` is the command's exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


class Definition:
    """The definition by its parts. Raises BackupError (USAGE) that names the missing key."""

    def __init__(self, values: dict[str, Any]) -> None:
        for key in _REQUIRED:
            if key not in values:
                raise BackupError(f"definition: {key} is missing", Exit.USAGE)
        self.values = values
        self.environment: str = values["environment"]
        self.project: str = values["project"]
        self.zone = ZoneInfo(values["timezone"])
        self.volumes_root = Path(values["volumes_root"])
        self.secrets_root = Path(values["secrets_root"])
        self.state_root = Path(values["state_root"])
        self.root = Path(values["backup_root"])
        self.items: list[dict[str, Any]] = values["items"]
        self.s3: dict[str, Any] = values.get("s3") or {}

    @classmethod
    def load(cls, path: Path) -> Definition:
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise BackupError(f"definition: {path} cannot be read: {error}", Exit.USAGE) from None

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def repositories(self) -> list[str]:
        """`local`, and `s3` where there is a bucket."""
        return ["local", "s3"] if self.s3 else ["local"]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.items if item["kind"] == kind]

    def image(self, name: str) -> str:
        try:
            return str(self.values["images"][name])
        except KeyError:
            raise BackupError(f"definition: images.{name} is missing", Exit.USAGE) from None

    def secret_file(self, name: str) -> Path:
        """The file that root reads a secret from. Raises BackupError when it is not there."""
        path = self.secrets_root / "host" / name
        if not path.is_file():
            raise BackupError(
                f"secret {name}: {path} is missing: run the site playbook, or restore it from a key bundle",
                Exit.WRONG_KEY,
            )
        return path

    def bundle_problem(self) -> str:
        """Why bundles of keys cannot go to their folder, in words. What should be mounted is not made on this disk."""
        destination = (self.values.get("bundle") or {}).get("destination") or ""
        if not destination or destination.startswith("s3://") or Path(destination).is_dir():
            return ""
        return f"backup_bundle_destination: {destination} is not there; mount it, or make the folder"

    def limit(self, step: str) -> float:
        """Seconds that a step may take."""
        timeouts = self.values.get("timeouts") or {}
        return float(timeouts.get(step, timeouts.get("default", 3600)))


@dataclass(frozen=True)
class Context:
    """One run: `now` is its start (aware, UTC) and what every decision about time uses; `type` is full, diff or incr.

    `progress` says in a few words what is being done; it never gets a secret. `since`: Unix time of the last good run;
    `newest`: its id, empty when there is none, None when nobody has looked.
    """

    definition: Definition
    engine: Engine
    oneshots: OneShots
    run_id: str
    now: datetime
    type: str
    progress: Callable[[str], None]
    since: float = 0.0
    newest: str | None = None

    @property
    def project(self) -> str:
        return self.definition.project

    @property
    def environment(self) -> str:
        return self.definition.environment

    def limit(self, step: str) -> float:
        return self.definition.limit(step)

    def container(self, service: str) -> dict[str, Any]:
        """The inspected, running container of a service. Raises BackupError."""
        found = self.engine.service(self.project, service)
        if not found or found["State"]["Status"] != "running":
            raise BackupError(f"service {service}: no running container in project {self.project}")
        return found

    def stopped(self, service: str) -> bool:
        """By somebody, or not there: one that crashes is started again by the engine."""
        found = self.engine.service(self.project, service)
        return not found or found["State"]["Status"] in ("created", "exited")

    def inside(self, service: str, gives_way: bool = False) -> Inside:
        """Programs in the container of a service; what takes long gives way to what serves. Raises BackupError."""
        nice = _GIVES_WAY if gives_way else 0
        return Inside(self.container(service)["Id"], self.engine.socket, self.oneshots.docker, nice)


def run_id(moment: datetime) -> str:
    """`20261122T020000Z`, which sorts as time does."""
    return moment.astimezone(timezone.utc).strftime(_RUN_FORMAT)


def run_moment(name: str) -> datetime:
    """The start of a run by its id. Raises ValueError."""
    return datetime.fromisoformat(name)


def sha256_of(path: Path) -> str:
    """Hex digest of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_artefact(name: str, kind: str, path: Path, **details: Any) -> dict[str, Any]:
    """How a file in staging stands in the manifest."""
    return {
        "name": name,
        "kind": kind,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "details": details,
    }


def tree_bytes(path: Path, since: float = 0.0) -> int:
    """Bytes of the regular files below a path that were changed after `since` (Unix time), links not followed."""
    total = 0
    for folder, _folders, files in os.walk(path):
        for file in files:
            try:
                stat = os.lstat(os.path.join(folder, file))
            except FileNotFoundError:
                continue
            if stat.st_mtime >= since:
                total += stat.st_size
    return total
