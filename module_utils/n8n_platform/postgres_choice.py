"""What a restore of Postgres is asked for, and the set of a pgBackRest repository that it begins with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.n8n_platform import pgbackrest, postgres_history
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.pgbackrest import Backup, PgBackRest, Repository
from ansible.module_utils.n8n_platform.postgres_history import History


@dataclass(frozen=True)
class Request:
    """`volume`, `configuration` (pgBackRest's, with the keys), `repository_path` (of the local repository), `ca_file`
    are paths on the host; `s3_path` is the repository's folder in the bucket, where it is not the configured one.

    time: aware, None for the newest moment there is; label: a certain set, empty for the one that fits; at_set: no
    further than to the end of the set `label`, without `time`; timeline: as Postgres takes it (`latest`, `current`, a
    number). `archives`: the recovered server will archive into this repository. `seconds` limits each of restore and
    recovery.
    """

    stanza: str
    major: str
    repository: str
    volume: Path
    configuration: Path
    repository_path: Path
    image: str
    s3_path: str = ""
    ca_file: Path | None = None
    network: str = "none"
    time: datetime | None = None
    label: str = ""
    at_set: bool = False
    timeline: str = "latest"
    archives: bool = True
    processes: int = 2
    seconds: float = 3600.0


def choose(client: PgBackRest, request: Request) -> tuple[Backup, str]:
    """The set, and the newest WAL of what is followed. Raises BackupError for what cannot be restored; reads only."""
    found = client.repositories([request.repository])[request.repository]
    _refuse(request, found)
    history = None if request.label else _history(client, request, found)
    newest = found.wal_max
    if history and request.timeline.isdigit():
        segments = client.segments(found.name, found.archive_id)
        newest = max((name for name in segments if int(name[:8], 16) == history.timeline), default="")
    return _backup(request, found, history), newest


def _refuse(request: Request, found: Repository) -> None:
    where = f"{request.stanza} in repository {found.name}"
    if found.problem:
        # Of an encrypted file whose passphrase is another one nothing can be read.
        wrong = any(word in found.problem for word in pgbackrest.WRONG_KEY)
        hint = " (is backup_pgbackrest_cipher the one it was written with?)" if wrong else ""
        raise BackupError(f"{where}: {found.problem}{hint}", Exit.WRONG_KEY if wrong else Exit.FAILED)
    if not found.backups:
        raise BackupError(f"{where}: holds no set")
    if found.version.split(".")[0] != request.major:
        raise BackupError(f"{where}: is of major version {found.version}, this platform's is {request.major}")


def _history(client: PgBackRest, request: Request, found: Repository) -> History | None:
    """The one that recovery follows; None: each set's own."""
    wanted = request.timeline
    begun = client.histories(found.name, found.archive_id) if found.archive_id else {}
    if wanted == postgres_history.LATEST:
        # A repository that was made anew has sets of a timeline whose history it has not.
        of_sets = (postgres_history.timeline_of(backup) for backup in found.backups)
        timeline = max([1, *begun, *(number for number in of_sets if number)])
    elif wanted.isdigit():
        timeline = int(wanted)
    else:
        return None
    if timeline not in begun:
        return History(timeline, (), begun)
    text = client.history(found.name, found.archive_id, timeline)
    return postgres_history.parse(timeline, text, begun, found.backups)


def _backup(request: Request, found: Repository, history: History | None) -> Backup:
    if request.label:
        named = [backup for backup in found.backups if backup.label == request.label]
        if not named:
            held = ", ".join(backup.label for backup in found.backups)
            raise BackupError(
                f"{request.stanza}: repository {found.name} holds no set {request.label}; it holds {held}"
            )
        return named[0]
    if history and request.timeline == postgres_history.LATEST:
        history.refuse_older(found.backups)
        if request.time:
            history.refuse_abandoned(request.time)
    backups = [backup for backup in found.backups if history is None or history.holds(backup)]
    if not backups:
        raise BackupError(
            f"restore_timeline: {request.stanza} in repository {found.name} holds no set that "
            f"timeline {request.timeline} can be reached from"
        )
    if request.time is None:
        return backups[-1]
    earlier = [backup for backup in backups if backup.stop <= request.time.timestamp()]
    if not earlier:
        oldest = datetime.fromtimestamp(backups[0].stop, timezone.utc).isoformat()
        raise BackupError(
            f"{request.stanza}: {request.time.isoformat()} is before the end of the oldest set in repository "
            f"{found.name}, {oldest}"
        )
    return earlier[-1]
