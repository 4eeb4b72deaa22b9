"""Reads back what was written: manifests, key bundles, restic's packs (a part at a time), pgBackRest's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import BackupError, Context, sha256_of
from ansible.module_utils.n8n_platform.backup_kinds import build
from ansible.module_utils.n8n_platform.backup_manifest import Set
from ansible.module_utils.n8n_platform.backup_offsite import Offsite
from ansible.module_utils.n8n_platform.restic import Restic


def verify(context: Context, part: int, parts: int) -> list[str]:
    """Everything that is damaged, in words. Of restic's data the part `part` of `parts`, so that `parts` runs read all;
    of the database's the newest set, and all of them with the last part. `parts` 1 reads everything."""
    definition = context.definition
    sets = manifests.local_sets(definition.runs)
    found = [f"local: {one.problem}" for one in sets if not one.good]
    found += _bundles(context, sets, part, parts)
    for repository in definition.repositories:
        context.progress(f"verify {repository}")
        found += _repository(context, repository, sets, f"{part}/{parts}" if parts > 1 else "100%")
    for _kind, item in build(definition):
        if hasattr(item, "verify"):
            context.progress(f"verify {item.name}")
            try:
                found += item.verify(context, part == parts)
            except BackupError as error:
                found.append(f"{item.name}: {error}")
    return found


def _bundles(context: Context, sets: list[Set], part: int, parts: int) -> list[str]:
    """Key bundles: all that are files, of those in a bucket the newest and those whose turn it is."""
    found = []
    for number, one in enumerate(sets):
        for item in one.manifest["items"] if one.manifest else []:
            if item["kind"] != "keys":
                continue
            path = str(item["path"])
            if path.startswith("s3://") and one is not sets[-1] and number % parts != part - 1:
                continue
            try:
                digest = _digest(context, path)
            except BackupError as error:
                found.append(f"key bundle {path} of run {one.run}: {error}")
                continue
            if digest != item["sha256"]:
                found.append(f"key bundle {path} of run {one.run} is {'damaged' if digest else 'missing'}")
    return found


def _digest(context: Context, path: str) -> str:
    if path.startswith("s3://"):
        return Offsite(context.definition, context.oneshots).digest(path)
    return sha256_of(Path(path)) if Path(path).is_file() else ""


def _repository(context: Context, repository: str, sets: list[Set], subset: str) -> list[str]:
    restic = Restic(context.definition, context.oneshots, repository)
    try:
        found = [f"{repository}: restic: {line}" for line in restic.check(subset, context.limit("verify"))]
        there = {str(snapshot["id"]) for snapshot in restic.snapshots()}
        if repository == "s3":
            sets = Offsite(context.definition, context.oneshots).sets(fresh=True)
            found += [f"s3: {one.problem}" for one in sets if not one.good]
    except BackupError as error:
        return [f"{repository}: {error}"]
    return found + [
        f"{repository}: the snapshot of run {run} is missing" for run in _missing(sets, repository, there)
    ]


def _missing(sets: list[Set], repository: str, there: set[str]) -> list[Any]:
    return [
        one.run for one in sets if one.manifest and one.manifest["restic"][repository] not in {None, *there}
    ]
