"""The copy of a run in the bucket: snapshot, manifest, and what an earlier run could not bring there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import RUN_ID, BackupError, Context, Definition, Exit
from ansible.module_utils.n8n_platform.backup_keys import run_of
from ansible.module_utils.n8n_platform.backup_manifest import ManifestError, Set
from ansible.module_utils.n8n_platform.backup_s3 import S3, S3Error
from ansible.module_utils.n8n_platform.engine_run import OneShots
from ansible.module_utils.n8n_platform.files import replacing, unfinished, write_file
from ansible.module_utils.n8n_platform.restic import CREDENTIALS, Restic

# Manifests of the bucket that were read before; an object is never changed under its name.
_CACHE = "offsite-manifests"
# What a problem begins with that concerns the bundle of keys, which is not in this bucket.
KEYS_PROBLEM = "keys"


class Offsite:
    """Everything raises BackupError (NOT_OFFSITE)."""

    def __init__(self, definition: Definition, oneshots: OneShots, limit: float = 3600.0) -> None:
        self.definition = definition
        self.oneshots = oneshots
        self.limit = limit
        self.restic = Restic(definition, oneshots, "s3")

    def copy(self, manifest: dict[str, Any]) -> str:
        """Brings the run's snapshot there, with those of earlier runs that are missing; its id in the bucket."""
        self.refuse_unreachable()
        known = {snapshot["run"] for snapshot in self.restic.snapshots()}
        wanted = {manifest["run"]: manifest["restic"]["local"]}
        for one in manifests.local_sets(self.definition.runs):
            if one.manifest and one.run not in known:
                wanted[one.run] = one.manifest["restic"]["local"]
        self.restic.copy_from_local(sorted(wanted.values()), self.limit)
        found = self._snapshot_of(manifest["run"])
        if not found:
            raise BackupError("the snapshot is not in the bucket after it was copied", Exit.NOT_OFFSITE)
        return found

    def refuse_unreachable(self) -> None:
        """restic tries for a quarter of an hour; a store that does not answer at all is known within a minute."""
        try:
            self._store().head("runs")
        except S3Error as error:
            raise BackupError(str(error), Exit.NOT_OFFSITE) from None

    def publish(self, sealed: dict[str, Any]) -> dict[str, Any]:
        """Puts the manifest there and says so in the local one; then those of earlier runs that are complete by now.
        Staging has to be there."""
        published = self._put(sealed)
        for one in manifests.local_sets(self.definition.runs):
            if one.manifest and not one.manifest["locations"]["s3"] and database_is_there(one.manifest):
                snapshot = self._snapshot_of(one.run)
                if snapshot:
                    restic = {**one.manifest["restic"], "s3": snapshot}
                    # Its way to the bucket is mended by now; its bundle of keys is not.
                    left = [text for text in one.manifest["problems"] if text.startswith(f"{KEYS_PROBLEM}:")]
                    self._put(manifests.seal({**one.manifest, "restic": restic, "problems": left}))
        return published

    def sets(self, fresh: bool = False) -> list[Set]:
        """All runs of the bucket, oldest first; those whose manifest cannot be trusted too. `fresh`: read all again."""
        cache = self.definition.root / _CACHE
        if fresh:
            shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            objects = self._store().list("runs/")
        except S3Error as error:
            raise BackupError(str(error), Exit.NOT_OFFSITE) from None
        parts = [(item["key"].split("/"), item) for item in objects]
        found = [
            (path[1], item) for path, item in parts if path[2:] == [manifests.NAME] and RUN_ID.match(path[1])
        ]
        return [self._set(cache, run, item) for run, item in sorted(found, key=lambda pair: pair[0])]

    def remove_manifests(self, runs: list[str]) -> None:
        try:
            self._store("prune").delete([_key(run) for run in runs])
        except S3Error as error:
            raise BackupError(str(error), Exit.NOT_PRUNED) from None

    def _set(self, cache: Path, run: str, item: dict[str, Any]) -> Set:
        file = cache / f"{run}-{item['etag']}.json"
        try:
            if not file.exists():
                self._store().get(_key(run), file)
            return Set(run, manifests.parse(file.read_bytes(), f"s3: {_key(run)}", run))
        except ManifestError as error:
            return Set(run, None, str(error))
        except S3Error as error:
            if error.temporary:
                raise BackupError(str(error), Exit.NOT_OFFSITE) from None
            return Set(run, None, str(error))

    def _put(self, sealed: dict[str, Any]) -> dict[str, Any]:
        s3, key = self.definition.s3, _key(sealed["run"])
        where = "s3://" + "/".join(part.strip("/") for part in (s3["bucket"], s3["prefix"], key) if part)
        published = manifests.seal({**sealed, "locations": {**sealed["locations"], "s3": where}})
        file = self.definition.staging / manifests.NAME
        write_file(file, manifests.text_of(published), mode=0o600)
        try:
            self._store().put(file, key)
        except S3Error as error:
            raise BackupError(str(error), Exit.NOT_OFFSITE) from None
        # Last: one that is killed before is brought there by the next run, which skips what is said to be there.
        manifests.write(self.definition.runs, published)
        return published

    def _snapshot_of(self, run: str) -> str:
        return next((str(one["id"]) for one in self.restic.snapshots() if one["run"] == run), "")

    def _store(self, profile: str = "default", target: dict[str, Any] | None = None) -> S3:
        definition = self.definition
        credentials = str(definition.secret_file(CREDENTIALS))
        return S3(self.oneshots, definition.image("backup"), target or definition.s3, credentials, profile)

    def deliver(self, path: Path, destination: str) -> str:
        """A file into another bucket, s3://bucket/prefix; where it lies then."""
        store = self._elsewhere(destination)
        if store.target["bucket"] == self.definition.s3["bucket"]:
            raise BackupError(
                "backup_bundle_destination: the bucket of the data must not hold its keys", Exit.USAGE
            )
        try:
            store.put(path, path.name)
        except S3Error as error:
            raise BackupError(str(error), Exit.NOT_OFFSITE) from None
        return f"{destination.rstrip('/')}/{path.name}"

    def digest(self, where: str) -> str:
        """sha256 of what deliver() has put there, read again; empty when it is gone."""
        folder, _, name = where.rpartition("/")
        store = self._elsewhere(folder)
        with tempfile.TemporaryDirectory(dir=self.definition.root) as copy:
            try:
                return str(store.get(name, Path(copy) / name)["sha256"]) if store.head(name) else ""
            except S3Error as error:
                if error.code == "Corrupt":
                    return str(error)
                raise BackupError(str(error), Exit.NOT_OFFSITE) from None

    def _elsewhere(self, folder: str) -> S3:
        if not self.definition.s3:
            raise BackupError(f"{folder}: a bucket, and platform_object_storage is none", Exit.USAGE)
        bucket, _, prefix = folder.removeprefix("s3://").partition("/")
        return self._store(target={**self.definition.s3, "bucket": bucket, "prefix": prefix})


def sets(definition: Definition, oneshots: OneShots, repository: str) -> list[Set]:
    """All runs of `local` or `s3`, oldest first. Raises BackupError."""
    if repository == "local":
        return manifests.local_sets(definition.runs)
    return Offsite(definition, oneshots).sets()


def deliver_bundle(context: Context, path: Path, destination: str) -> str:
    """Where the bundle lies in the end: `destination` is empty (beside the backups), a folder, or s3://bucket/prefix."""
    if destination.startswith("s3://"):
        return Offsite(context.definition, context.oneshots).deliver(path, destination)
    if problem := context.definition.bundle_problem():
        raise BackupError(problem, Exit.NOT_OFFSITE)
    target = (Path(destination) if destination else context.definition.root / "keys") / path.name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Of a run that was killed while it wrote.
    for left, name in unfinished(target.parent):
        if run_of(context.environment, name):
            left.unlink()
    with path.open("rb") as source, replacing(target, mode=0o600) as copy:
        shutil.copyfileobj(source, copy)
    path.unlink()
    return str(target)


def _key(run: str) -> str:
    return f"runs/{run}/{manifests.NAME}"


def database_is_there(manifest: dict[str, Any]) -> bool:
    """Whether the bucket holds the run's set of every database."""
    return all(entry.get("s3") for entry in manifest["pgbackrest"].values())
