"""Removes what the retention plan lets go, and what killed runs have left; or only lists it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context, Exit
from ansible.module_utils.n8n_platform.backup_keys import of_environment
from ansible.module_utils.n8n_platform.backup_kinds import build
from ansible.module_utils.n8n_platform.backup_manifest import Set
from ansible.module_utils.n8n_platform.backup_offsite import Offsite, sets
from ansible.module_utils.n8n_platform.backup_retention import Plan, plan
from ansible.module_utils.n8n_platform.restic import Restic


@dataclass(frozen=True)
class Removal:
    """One thing that goes: what (`snapshot`, `manifest`, `bundle`, `pgbackrest`), its name, and of which run."""

    repository: str
    what: str
    name: str
    run: str = ""
    reason: str = "older than the window"

    def line(self) -> str:
        return f"{self.repository}: {self.what} {self.name}" + (f" ({self.reason})" if self.reason else "")


class Prune:
    """plan() lists exactly what apply() then removes. Raises BackupError; nothing a kept set needs is ever listed."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.definition = context.definition
        retention = self.definition.values["retention"]
        self.days = {"local": int(retention["local_days"]), "s3": int(retention["offsite_days"])}
        self.minimum = int(retention["minimum_sets"])
        self.plans: dict[str, Plan] = {}
        self.sets: dict[str, list[Set]] = {}

    def plan(self) -> list[Removal]:
        found: list[Removal] = []
        for repository in self.definition.repositories:
            there = self.sets[repository] = sets(self.definition, self.context.oneshots, repository)
            self.plans[repository] = plan(self.context.now, there, self.days[repository], self.minimum)
            found += self._snapshots(repository, there)
            found += [Removal(repository, "manifest", run, run) for run in self.plans[repository].gone]
        found += self._bundles()
        for kind, item in build(self.definition):
            if hasattr(item, "prune"):
                # What is kept there follows from the same days; pgBackRest knows what depends on what.
                found += [
                    Removal("", kind, line, reason="") for line in item.prune(self.context, dry_run=True)
                ]
        return found

    def apply(self, removals: list[Removal], thorough: bool = False) -> None:
        """Manifests first: a set that is half gone must not look like one. `thorough`: also what no index names."""
        for repository in self.definition.repositories:
            self._remove_manifests(
                repository, [r.name for r in removals if (r.repository, r.what) == (repository, "manifest")]
            )
            gone = [r.name for r in removals if (r.repository, r.what) == (repository, "snapshot")]
            restic = Restic(self.definition, self.context.oneshots, repository)
            if gone:
                restic.forget(gone)
            if gone or thorough:
                restic.prune(self.context.limit("prune"))
        for removal in removals:
            if removal.what == "bundle":
                Path(removal.name).unlink(missing_ok=True)
        for _kind, item in build(self.definition):
            if hasattr(item, "prune"):
                item.prune(self.context, dry_run=False)

    def kept(self) -> dict[str, dict[str, Any]]:
        """{sets: {repository: count}, window: {repository: ISO 8601}} of the good sets that stay."""
        good = {
            name: [one for one in sets if one.good and one.run in self.plans[name].keep]
            for name, sets in self.sets.items()
        }
        return {
            "sets": {name: len(sets) for name, sets in good.items()},
            "window": {name: sets[0].started.isoformat() for name, sets in good.items() if sets},
        }

    def _snapshots(self, repository: str, there: list[Set]) -> list[Removal]:
        """Of runs that go, and of runs that ended without a manifest."""
        going = set(self.plans[repository].gone)
        known = {one.run for one in there}
        pending = {one.run for one in self.sets["local"]} if repository == "s3" else set()
        found = []
        for snapshot in Restic(self.definition, self.context.oneshots, repository).snapshots():
            run, name = snapshot["run"], str(snapshot["id"])
            if run in going:
                found.append(Removal(repository, "snapshot", name, run))
            elif run and run not in known | pending and run != self.context.run_id:
                found.append(Removal(repository, "snapshot", name, run, "its run has no manifest"))
        orphans = [removal for removal in found if removal.run not in going]
        if orphans and not any(one.good for one in there):
            raise BackupError(
                f"{repository}: {len(orphans)} snapshots, but not one good manifest: nothing is pruned; "
                "were the manifests lost?",
                Exit.DAMAGED,
            )
        return found

    def _bundles(self) -> list[Removal]:
        """Where they lie as files; a bundle in another bucket is the operator's."""
        kept = {run for one in self.plans.values() for run in one.keep} | {self.context.run_id}
        folders = {self.definition.root / "keys"}
        destination = (self.definition.values.get("bundle") or {}).get("destination") or ""
        if destination and not destination.startswith("s3://"):
            folders.add(Path(destination))
        return [
            Removal("local", "bundle", str(path), run)
            for folder in sorted(folders)
            for run, path in of_environment(self.context.environment, folder).items()
            if run not in kept
        ]

    def _remove_manifests(self, repository: str, runs: list[str]) -> None:
        if repository == "s3":
            if runs:
                Offsite(self.definition, self.context.oneshots).remove_manifests(runs)
            return
        for run in runs:
            shutil.rmtree(self.definition.runs / run)
