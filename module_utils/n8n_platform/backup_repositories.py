"""restic's repositories, here and in the bucket: made where there are none, unlocked after a run that ended badly."""

from __future__ import annotations

from ansible.module_utils.n8n_platform.backup import BackupError, Definition
from ansible.module_utils.n8n_platform.backup_kinds import check_items
from ansible.module_utils.n8n_platform.backup_offsite import Offsite
from ansible.module_utils.n8n_platform.engine_run import OneShots
from ansible.module_utils.n8n_platform.restic import Restic


def make_missing(definition: Definition, oneshots: OneShots, dry_run: bool) -> list[str]:
    """Those that were missing and now are there, by name. Raises BackupError, also for items that make no sense."""
    made: list[str] = []
    check_items(definition)
    if dry_run and not (definition.root / "restic/config").exists():
        # A first run: secrets and bucket may not be there yet, either.
        return list(definition.repositories)
    if not dry_run:
        # Others pass through to what is theirs, but see nothing.
        definition.root.mkdir(mode=0o711, parents=True, exist_ok=True)
    for repository in definition.repositories:
        if repository == "s3":
            Offsite(definition, oneshots).refuse_unreachable()
        restic = Restic(definition, oneshots, repository)
        if not restic.exists():
            made.append(repository)
            if not dry_run:
                restic.initialise()
    return made


def unlock(definition: Definition, oneshots: OneShots) -> list[str]:
    """Takes away what a restic that was stopped has left, for the caller holds the platform's lock; what could not be
    unlocked, in words."""
    problems = []
    for repository in definition.repositories:
        try:
            if repository == "s3":
                Offsite(definition, oneshots).refuse_unreachable()
            Restic(definition, oneshots, repository).unlock()
        except BackupError as error:
            problems.append(f"{repository}: {error}")
    return problems
