"""One run: every item into staging, one snapshot of it, a copy in the bucket, the key bundle, and last the manifest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import BackupError, Context, Exit
from ansible.module_utils.n8n_platform.backup_directory import Directory
from ansible.module_utils.n8n_platform.backup_keys import Keys, bundle_artefact
from ansible.module_utils.n8n_platform.backup_kinds import KEYS, STAGED, Kind, build
from ansible.module_utils.n8n_platform.backup_offsite import (
    KEYS_PROBLEM,
    Offsite,
    database_is_there,
    deliver_bundle,
)
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.restic import Restic

# Indexes, manifests, a bundle, and what the file system itself needs.
_RESERVE = 256 << 20


@dataclass
class Outcome:
    """What a run has come to; `manifest` is None when nothing of it counts."""

    code: Exit
    manifest: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    durations: dict[str, float] = field(default_factory=dict)
    required: int = 0
    free: int = 0

    def measured(self) -> dict[str, Any]:
        return {"durations": self.durations, "required_bytes": self.required, "free_bytes": self.free}


class Run:
    """Made while the lock is held. execute() raises BackupError when no backup was made; staging is left empty."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.definition = context.definition
        self.kinds = build(context.definition, context.type)
        self.keys = Keys(context.definition.of_kind(KEYS))
        self.local = Restic(context.definition, context.oneshots, "local")
        self.outcome = Outcome(Exit.DONE)

    def execute(self) -> Outcome:
        context, staging = self.context, self.definition.staging
        # First what needs no room: a wrong key is refused before anything is written.
        with self._step("keys"):
            bundle = self.keys.collect(context)
        with self._step("repository"):
            if not self.local.exists():
                raise BackupError(f"{self.local.folder} is no repository: run the site playbook")
        with self._step("forecast"):
            self.refuse_little_space()
        empty(staging)
        try:
            artefacts = self._collect(staging)
            with self._step("snapshot"):
                summary = self._snapshot(staging)
            manifest = self._manifest(artefacts, summary, bundle)
            return self._finish(manifest, bundle)
        finally:
            empty(staging)

    def forecast(self) -> tuple[int, int]:
        """Bytes that the run may need below backup_root, and bytes that are free there."""
        needed = _RESERVE
        for kind, item in self.kinds:
            needed += item.forecast(self.context) * (2 if kind in STAGED else 1)
        free = shutil.disk_usage(self.definition.root).free
        self.outcome.required, self.outcome.free = needed, free
        return needed, free

    def refuse_little_space(self) -> None:
        needed, free = self.forecast()
        if free < needed:
            raise BackupError(
                f"backup_root: {self.definition.root} has {free} bytes free, this backup may need {needed}; "
                "nothing was written",
                Exit.NO_SPACE,
            )

    def _collect(self, staging: Path) -> list[dict[str, Any]]:
        artefacts: list[dict[str, Any]] = []
        for kind, item in self.kinds:
            self.context.progress(f"{item.name} ({kind})")
            with self._step(item.name):
                artefacts += item.run(self.context, staging)
        return artefacts

    def _snapshot(self, staging: Path) -> dict[str, Any]:
        self.context.progress("snapshot")
        directories = {item.name: item.path for _, item in self.kinds if isinstance(item, Directory)}
        return self.local.backup(
            {"staging": staging, **directories},
            f"run={self.context.run_id}",
            self.context.now,
            self.context.limit("restic"),
        )

    def _manifest(
        self, artefacts: list[dict[str, Any]], summary: dict[str, Any], bundle: dict[str, Any]
    ) -> dict[str, Any]:
        failed = [artefact for artefact in artefacts if artefact.get("error")]
        migrations = [a["details"] for a in artefacts if (a["kind"], a["name"]) == ("facts", "migrations")]
        return {
            "version": manifests.VERSION,
            "run": self.context.run_id,
            "environment": self.context.environment,
            "started": self.context.now.isoformat(),
            "type": self.context.type,
            "items": [artefact for artefact in artefacts if not artefact.get("error")],
            "restic": {"local": summary["snapshot_id"], "s3": None},
            "pgbackrest": _pgbackrest(artefacts),
            "versions": self.definition.values.get("versions") or {},
            "migrations": migrations[0] if migrations else {},
            "fingerprints": bundle["fingerprints"],
            "locations": {"local": str(self.definition.runs / self.context.run_id), "s3": None},
            "problems": [f"{artefact['name']}: {artefact['error']}" for artefact in failed],
        }

    def _finish(self, manifest: dict[str, Any], bundle: dict[str, Any]) -> Outcome:
        with self._step("bundle"):
            self._bundle(manifest, bundle)
        if self.definition.s3:
            self.context.progress("copy to the bucket")
            with self._step("offsite"):
                self._copy(manifest)
        manifest["finished"] = datetime.now(timezone.utc).isoformat()
        sealed = manifests.seal(manifest)
        manifests.write(self.definition.runs, sealed)
        if self.definition.s3:
            sealed = self._publish(sealed)
        self.outcome.manifest, self.outcome.problems = sealed, list(sealed["problems"])
        if self.outcome.problems:
            self.outcome.code = Exit.NOT_OFFSITE
        return self.outcome

    def _bundle(self, manifest: dict[str, Any], bundle: dict[str, Any]) -> None:
        settings = self.definition.values.get("bundle") or {}
        recipients = settings.get("recipients") or []
        if not recipients:
            # Said by `info` and `verify` each time: without it only this host opens these backups.
            return
        path = self.keys.write(self.context, bundle, recipients)
        artefact = bundle_artefact(path)
        try:
            where = deliver_bundle(self.context, path, settings.get("destination") or "")
        except BackupError as error:
            if error.code is not Exit.NOT_OFFSITE:
                raise
            manifest["problems"].append(f"{KEYS_PROBLEM}: {error}")
        else:
            manifest["items"].append({**artefact, "path": where})

    def _copy(self, manifest: dict[str, Any]) -> None:
        try:
            manifest["restic"]["s3"] = self._offsite().copy(manifest)
        except (BackupError, EngineError, HttpError) as error:
            manifest["problems"].append(f"off-site: {error}")

    def _publish(self, sealed: dict[str, Any]) -> dict[str, Any]:
        """The manifest goes to the bucket only when all that it names is there; the bundle of keys lies elsewhere."""
        if not sealed["restic"]["s3"] or not database_is_there(sealed):
            return sealed
        try:
            return self._offsite().publish(sealed)
        except (BackupError, EngineError, HttpError) as error:
            sealed = manifests.seal({**sealed, "problems": [*sealed["problems"], f"off-site: {error}"]})
            manifests.write(self.definition.runs, sealed)
            return sealed

    def _offsite(self) -> Offsite:
        return Offsite(self.definition, self.context.oneshots, self.context.limit("offsite"))

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except (EngineError, HttpError, OSError) as error:
            raise BackupError(f"{name}: {error}") from error
        finally:
            self.outcome.durations[name] = round(time.monotonic() - started, 3)


def empty(folder: Path) -> None:
    """There, root's alone, and with nothing in it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)


def _pgbackrest(artefacts: list[dict[str, Any]]) -> dict[str, Any]:
    """{stanza: {local, s3: label or null, wal_start, wal_stop, system_id}} of the per-repository artefacts."""
    found: dict[str, dict[str, Any]] = {}
    for artefact in artefacts:
        if artefact["kind"] != "pgbackrest" or not artefact.get("label"):
            continue
        details = artefact["details"]
        entry = found.setdefault(artefact["stanza"], {"local": None, "s3": None})
        entry[artefact["repository"]] = artefact["label"]
        for key in ("wal_start", "wal_stop", "system_id"):
            entry.setdefault(key, details.get(key))
    return found


def items_sizes(manifest: dict[str, Any]) -> dict[str, int]:
    """Bytes by item; pgBackRest's are per repository and the local one counts."""
    return {
        item["name"]: item.get("bytes") or 0 for item in manifest["items"] if item.get("repository") != "s3"
    }


__all__ = ["Kind", "Outcome", "Run", "empty", "items_sizes"]
