"""Removes what the retention plan lets go, and what killed runs have left; or only lists it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import RUN_ID, BackupError, Context, Exit
from ansible.module_utils.n8n_platform.backup_keys import of_environment
from ansible.module_utils.n8n_platform.backup_kinds import build
from ansible.module_utils.n8n_platform.backup_manifest import Set
from ansible.module_utils.n8n_platform.backup_offsite import Offsite, sets
from ansible.module_utils.n8n_platform.backup_retention import Plan, plan
from ansible.module_utils.n8n_platform.backup_state import State
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.http import HttpError
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
    """plan() lists exactly what apply() then removes; nothing a kept set needs is ever listed.

    plan() raises BackupError for what lies here, since by that all the rest is judged. A bucket that does not answer
    costs only its own pruning, as what fails while it is removed does: `problems` says so, by repository.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.definition = context.definition
        retention = self.definition.values["retention"]
        self.days = {"local": int(retention["local_days"]), "s3": int(retention["offsite_days"])}
        self.minimum = int(retention["minimum_sets"])
        self.unfinished = set(State(self.definition.state_root).unfinished)
        self.plans: dict[str, Plan] = {}
        self.sets: dict[str, list[Set]] = {}
        self.problems: list[str] = []

    def plan(self) -> list[Removal]:
        found = self._plan("local")
        if self.definition.s3:
            with self._problems_of("s3"):
                found += self._plan("s3")
        # One of a repository that could not be asked may still be wanted.
        return found + (self._bundles() if not self.problems else [])

    def apply(self, removals: list[Removal], thorough: bool = False) -> list[Removal]:
        """What went; of a repository with a problem nothing is said to. `thorough`: also what no index names."""
        gone: list[Removal] = []
        bundles = [one for one in removals if one.what == "bundle"]
        for repository in self.plans:
            of_it = [one for one in removals if one.repository == repository and one not in bundles]
            with self._problems_of(repository):
                self._remove(repository, of_it, thorough)
                gone += of_it
        # Without its bundle a set that could not be removed would be of no use.
        if not self.problems:
            with self._problems_of("local"):
                for bundle in bundles:
                    Path(bundle.name).unlink(missing_ok=True)
                    gone.append(bundle)
        return gone

    def kept(self, former: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """{sets: {repository: count}, window: {repository: ISO 8601}} of the good sets that stay; of a repository that
        could not be asked what `former` says."""
        good = {
            name: [one for one in self.sets[name] if one.good and one.run in plan.keep]
            for name, plan in self.plans.items()
        }
        found: dict[str, dict[str, Any]] = {
            "sets": {name: len(sets) for name, sets in good.items()},
            "window": {name: sets[0].started.isoformat() for name, sets in good.items() if sets},
        }
        unknown = set(self.definition.repositories) - set(self.plans)
        return {
            key: {name: value for name, value in (former.get(key) or {}).items() if name in unknown} | values
            for key, values in found.items()
        }

    def still_unfinished(self, former: list[str]) -> list[str]:
        """Runs that have left no set, for the next time: none once all is pruned. What went here takes along the proof
        that it never was a set of the bucket, which its snapshot there may still need."""
        if not self.problems:
            return []
        gone = {run for run in self._never_published("s3") if not (self.definition.runs / run).exists()}
        return list(dict.fromkeys([*former, *sorted(gone)]))

    def _plan(self, repository: str) -> list[Removal]:
        there = self.sets[repository] = sets(self.definition, self.context.oneshots, repository)
        made = plan(self.context.now, there, self.days[repository], self.minimum)
        found = self._snapshots(repository, there, set(made.gone))
        found += [Removal(repository, "manifest", run, run) for run in made.gone]
        for kind, item in build(self.definition):
            if hasattr(item, "prune"):
                # What is kept there follows from the same days; pgBackRest knows what depends on what.
                lines = item.prune(self.context, repository, dry_run=True)
                found += [Removal(repository, kind, line, reason="") for line in lines]
        self.plans[repository] = made
        return found

    def _remove(self, repository: str, removals: list[Removal], thorough: bool) -> None:
        """Manifests first: a set that is half gone must not look like one."""
        self._remove_manifests(repository, [one.name for one in removals if one.what == "manifest"])
        for _kind, item in build(self.definition):
            if hasattr(item, "prune"):
                item.prune(self.context, repository, dry_run=False)
        gone = [one.name for one in removals if one.what == "snapshot"]
        restic = Restic(self.definition, self.context.oneshots, repository)
        if gone:
            restic.forget(gone)
        if gone or thorough:
            restic.prune(self.context.limit("prune"))

    def _snapshots(self, repository: str, there: list[Set], going: set[str]) -> list[Removal]:
        """Of runs that go, and of runs that ended without a manifest."""
        known = {one.run for one in there} | {self.context.run_id}
        pending = set(self.plans["local"].keep) if repository == "s3" else set()
        found = []
        for snapshot in Restic(self.definition, self.context.oneshots, repository).snapshots():
            run, name = snapshot["run"], str(snapshot["id"])
            if run in going:
                found.append(Removal(repository, "snapshot", name, run))
            elif RUN_ID.match(run) and run not in known | pending:
                found.append(Removal(repository, "snapshot", name, run, "its run has no manifest"))
        self._refuse_lost_manifests(repository, there, {one.run for one in found} - going)
        return found

    def _refuse_lost_manifests(self, repository: str, there: list[Set], orphans: set[str]) -> None:
        """A run that is older than every good set may have been one, unless it is known that it came to nothing. It is
        in doubt as long as it would stay if it were one."""
        oldest = min((one.run for one in there if one.good), default=self.context.run_id)
        doubtful = {
            run for run in orphans - self.unfinished - self._never_published(repository) if run < oldest
        }
        as_sets = [*there, *(Set(run, {}) for run in doubtful)]
        lost = doubtful & set(plan(self.context.now, as_sets, self.days[repository], self.minimum).keep)
        if lost:
            raise BackupError(
                f"{repository}: {len(lost)} snapshots without a manifest are older than every good set: "
                f"{', '.join(sorted(lost))}: nothing is pruned; were their manifests lost?",
                Exit.DAMAGED,
            )

    def _never_published(self, repository: str) -> set[str]:
        """Of the bucket the runs whose own manifest says that they are not a set there."""
        if repository == "local":
            return set()
        return {one.run for one in self.sets["local"] if one.manifest and not one.manifest["locations"]["s3"]}

    @contextmanager
    def _problems_of(self, repository: str) -> Iterator[None]:
        try:
            yield
        except (BackupError, EngineError, HttpError, OSError) as error:
            self.problems.append(f"{repository}: {str(error).removeprefix(f'{repository}: ')}")

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
