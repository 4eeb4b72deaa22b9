"""The manifest of a run: written last, so that a run without one is no backup.

{version: 1, run, environment, started, finished (ISO 8601, UTC), type, items: [artefacts],
restic: {local, s3: snapshot id or null}, pgbackrest: {stanza: {local, s3: label or null, wal_start, wal_stop,
system_id}}, versions, migrations: {last, count}, fingerprints: {secret: hex}, locations: {local, s3}, problems: [text],
sha256 (of all the rest)}.
An artefact is {name, kind, file|label|path, bytes, sha256, details}.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import RUN_ID, BackupError, run_moment
from ansible.module_utils.n8n_platform.files import sync_directory, write_file

VERSION = 1
NAME = "manifest.json"
# Of one writer, who holds the lock; what a killed one has left there is written over.
_NEW = ".new"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ManifestError(BackupError):
    """A manifest that cannot be trusted: not there, cut off, changed, or of a version that we do not know."""


@dataclass(frozen=True)
class Set:
    """A run as found in a repository; `manifest` is None when it is missing or cannot be trusted (`problem`)."""

    run: str
    manifest: dict[str, Any] | None
    problem: str = ""

    @property
    def started(self) -> datetime:
        return run_moment(self.run)

    @property
    def good(self) -> bool:
        return self.manifest is not None


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """With its own checksum."""
    return {**manifest, "sha256": _digest(manifest)}


def text_of(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def parse(text: str | bytes, where: str, run: str = "") -> dict[str, Any]:
    """A manifest that is whole, and whose names and paths stay where they belong. Raises ManifestError that names
    `where`."""
    try:
        manifest: dict[str, Any] = json.loads(text)
        stated = manifest["sha256"]
    except (ValueError, KeyError, TypeError):
        raise ManifestError(f"{where}: the manifest is damaged (no JSON with a checksum)") from None
    if _digest(manifest) != stated:
        raise ManifestError(f"{where}: the manifest is damaged (its checksum does not fit)")
    if manifest.get("version") != VERSION:
        raise ManifestError(f"{where}: version {manifest.get('version')} of a manifest is not known here")
    if run and manifest.get("run") != run:
        raise ManifestError(f"{where}: this is the manifest of run {manifest.get('run')}")
    _check_names(manifest, where)
    return manifest


def _check_names(manifest: dict[str, Any], where: str) -> None:
    """The checksum is no signature: who may write to the bucket must not say where root writes here."""
    if not RUN_ID.fullmatch(str(manifest.get("run"))):
        raise ManifestError(f"{where}: run {manifest.get('run')!r} is none")
    items = manifest.get("items", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ManifestError(f"{where}: items: no list of artefacts")
    for item in items:
        for field in ("name", *({"file"} & item.keys())):
            if not isinstance(item.get(field), str) or not _PLAIN.fullmatch(item[field]):
                raise ManifestError(f"{where}: items: {field} {item.get(field)!r} is no plain name")
        # Of keys, a folder as the operator has given it; nothing is restored from there.
        paths = set() if item.get("kind") == "keys" else {"path", "snapshot_path"} & item.keys()
        for field in sorted(paths):
            if not isinstance(item[field], str) or ".." in item[field].split("/"):
                raise ManifestError(f"{where}: items: {field} {item[field]!r} leads out of its folder")


def write(runs: Path, manifest: dict[str, Any]) -> Path:
    """Into `runs`/<id>/, in one step: what has a folder of that name is taken for a run, with a manifest or without."""
    folder, new = runs / manifest["run"], runs / _NEW
    if folder.is_dir():
        write_file(folder / NAME, text_of(manifest), mode=0o600)
        return folder / NAME
    new.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(new / NAME, text_of(manifest), mode=0o600)
    new.replace(folder)
    sync_directory(runs)
    return folder / NAME


def read(runs: Path, run: str) -> dict[str, Any]:
    path = runs / run / NAME
    try:
        return parse(path.read_bytes(), str(path), run)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from None


def local_sets(runs: Path) -> list[Set]:
    """All runs below a folder, oldest first; damaged and incomplete ones too."""
    if not runs.is_dir():
        return []
    return [_local(runs, path.name) for path in sorted(runs.iterdir()) if RUN_ID.match(path.name)]


def labels(manifest: dict[str, Any], repository: str) -> dict[str, str]:
    """pgBackRest's label by stanza in one repository."""
    found = {stanza: entry.get(repository) for stanza, entry in manifest.get("pgbackrest", {}).items()}
    return {stanza: label for stanza, label in found.items() if label}


def _local(runs: Path, run: str) -> Set:
    try:
        return Set(run, read(runs, run))
    except ManifestError as error:
        return Set(run, None, str(error))


def _digest(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
