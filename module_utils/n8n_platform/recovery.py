"""Which backup is restored, and whether it may be: nothing in here writes.

A restore reads the source by its definition (see backup.py) and by keys that lie in one directory: those of the running
source, or what a bundle of keys held.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Definition, Exit
from ansible.module_utils.n8n_platform.backup_manifest import Set
from ansible.module_utils.n8n_platform.secrets import fingerprint

ENCRYPTION_KEY = "n8n_encryption_key"
_RELATIVE_ROOTS = ("volumes_root", "data_root")


class RecoveryError(BackupError):
    """The backup cannot be restored as asked; the text names the variable, file or version."""


class SourceDefinition(Definition):
    """The source's definition, with what differs where it is restored.

    keys: directory of the files that `secret_file` names; image: of the tools, as this host has it.
    """

    def __init__(self, values: dict[str, Any], keys: Path, image: str) -> None:
        images = {**values.get("images", {}), **({"backup": image} if image else {})}
        super().__init__({**values, "images": images})
        self.keys = keys

    def secret_file(self, name: str) -> Path:
        path = self.keys / name
        if not path.is_file():
            raise RecoveryError(f"key {name}: {path} is not there", Exit.WRONG_KEY)
        return path


@dataclass(frozen=True)
class Wanted:
    """What is asked for. run: id or "" for the newest; time: point in time of Postgres, None for the newest state;
    n8n, postgres: versions that will run here ("" = not compared)."""

    environment: str
    run: str = ""
    time: datetime | None = None
    n8n: str = ""
    postgres: str = ""


def parse_time(text: str, now: datetime) -> datetime | None:
    """`2026-11-22T10:00:00Z` or with an offset; None for "". Raises RecoveryError: no zone, no time, or to come."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RecoveryError(
            f"restore_time: {text!r} is not a time such as 2026-11-22T10:00:00Z", Exit.USAGE
        ) from None
    if moment.tzinfo is None:
        raise RecoveryError(
            f"restore_time: {text} has no zone; add Z for UTC, or an offset such as +01:00", Exit.USAGE
        )
    if moment > now:
        raise RecoveryError(f"restore_time: {text} has not come yet", Exit.USAGE)
    return moment.astimezone(timezone.utc)


def choose(sets: Sequence[Set], wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    """The manifest to restore from, and what was passed over. Raises RecoveryError."""
    found = [entry for entry in sets if not wanted.run or entry.run == wanted.run]
    if wanted.run:
        if not found:
            raise RecoveryError(f"restore_run: there is no run {wanted.run}")
        if found[0].manifest is None:
            raise RecoveryError(f"restore_run: {wanted.run} is no backup: {found[0].problem}", Exit.DAMAGED)
    good = [entry for entry in found if entry.manifest is not None and _fits(entry.manifest, wanted)]
    if not good:
        raise RecoveryError(_nothing_found(found, wanted))
    newest = good[-1]
    passed = [f"{entry.run}: {entry.problem}" for entry in found if not entry.good and entry.run > newest.run]
    assert newest.manifest is not None
    return newest.manifest, passed


def _fits(manifest: dict[str, Any], wanted: Wanted) -> bool:
    return wanted.time is None or datetime.fromisoformat(manifest["finished"]) <= wanted.time


def _nothing_found(found: Sequence[Set], wanted: Wanted) -> str:
    good = [entry for entry in found if entry.good]
    if not good:
        broken = f"; damaged or incomplete: {', '.join(entry.run for entry in found)}" if found else ""
        return f"there is no complete backup of {wanted.environment}{broken}"
    first = good[0].manifest or {}
    return f"restore_time: {wanted.time} lies before the end of the first backup, {first.get('finished')}"


def problems(manifest: dict[str, Any], wanted: Wanted, key_file: Path) -> list[str]:
    """Why this backup must not be restored here; [] if nothing speaks against it."""
    found = []
    if manifest.get("environment") != wanted.environment:
        found.append(
            f"environment: the backup is of {manifest.get('environment')}, not of {wanted.environment}"
        )
    stated = (manifest.get("fingerprints") or {}).get(ENCRYPTION_KEY)
    if stated != fingerprint(key_file.read_text(encoding="utf-8").strip()):
        found.append(f"{ENCRYPTION_KEY}: the backup needs another key than the one in {key_file}")
    versions = manifest.get("versions") or {}
    theirs, ours = str(versions.get("postgres", "")), wanted.postgres
    if ours and theirs.split(".")[0] != ours.split(".")[0]:
        found.append(
            f"postgres: the backup is of major version {theirs or 'unknown'}, this platform has {ours}"
        )
    if wanted.n8n and _version(str(versions.get("n8n", ""))) > _version(wanted.n8n):
        found.append(
            f"n8n: the backup is of version {versions['n8n']}, which the older {wanted.n8n} cannot read"
        )
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split(".") if part.isdigit())


def target_of(item: dict[str, Any], source: Definition, volumes_root: Path, data_root: Path) -> Path:
    """Where a directory of the source lies here: at the same place below the same root, whatever `..` is in its path.
    Raises RecoveryError."""
    path = Path(os.path.normpath(item["path"]))
    roots = dict(zip(_RELATIVE_ROOTS, (volumes_root, data_root), strict=True))
    for name, here in roots.items():
        theirs = source.values.get(name) and os.path.normpath(source.values[name])
        if theirs and path.is_relative_to(theirs):
            return here / path.relative_to(theirs)
    raise RecoveryError(
        f"{item['name']}: {path} lies below none of {', '.join(_RELATIVE_ROOTS)} of the source"
    )
