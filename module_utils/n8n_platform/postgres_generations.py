"""The generations of a Postgres volume: <major>/<number>, of which the file `current` names the one in use."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.files import sync_directory, write_file
from ansible.module_utils.n8n_platform.recovery import RecoveryError

UID = 2001
# In ControlFileData: ThisTimeLineID of checkPointCopy.
_TIMELINE_AT = 48


def write_current(volume: Path, generation: str) -> None:
    """What the next start of the server uses. Raises BackupError when it is not there."""
    if not holds_data(volume, generation):
        raise BackupError(f"{volume}: {generation} holds no data")
    write_file(volume / "current", f"{generation}\n", UID, UID, 0o644)


def holds_data(volume: Path, generation: str) -> bool:
    """Of "", the generation of a volume that had none: no."""
    return bool(generation) and (volume / generation / "PG_VERSION").exists()


def refuse_removed(volume: Path, previous: str) -> None:
    """Raises RecoveryError when the data from before a restore are gone, so that there is no way back. Where there were
    none, in "", the restored ones stay."""
    if previous and not holds_data(volume, previous):
        raise RecoveryError(f"{volume}: {previous} from before was removed; repeat the restore")


def current_generation(volume: Path) -> str:
    """`17/1`; empty when there is no data."""
    try:
        return (volume / "current").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def timeline(data: Path) -> int:
    """Of the last checkpoint; 0 when it cannot be read."""
    try:
        return int(struct.unpack_from("=I", (data / "global/pg_control").read_bytes(), _TIMELINE_AT)[0])
    except (OSError, struct.error):
        return 0


def staged(volume: Path, major: str) -> Path:
    """Where a restore makes the next generation, beside the one in use."""
    return volume / major / ".new.restore"


def former_generations(volume: Path) -> list[Path]:
    """Data directories that are not the one in use: what a restore has left for a way back."""
    current = current_generation(volume)
    if not current:
        return []
    return [
        path
        for major in volume.iterdir()
        if major.name.isdigit()
        for path in sorted(major.iterdir())
        if path.name.isdigit() and f"{major.name}/{path.name}" != current
    ]


def set_archived(volume: Path, generation: str, archived: bool) -> None:
    """Whether all of its data is in the archive too, as it goes out of use: what is not is nowhere else."""
    mark = _mark(volume / generation)
    if archived:
        mark.unlink(missing_ok=True)
    elif holds_data(volume, generation):
        write_file(mark, "", UID, UID, 0o600)


def is_archived(data: Path) -> bool:
    return not _mark(data).exists()


def half_removed(volume: Path) -> list[Path]:
    """What a kill has left of `remove`."""
    return sorted(volume.glob("[0-9]*/.removed.*"))


def remove(data: Path) -> None:
    """A generation, or what is left of one; half removed it must not be taken for data."""
    gone = data
    if data.name.isdigit():
        gone = data.with_name(f".removed.{data.name}")
        shutil.rmtree(gone, ignore_errors=True)
        data.rename(gone)
        sync_directory(gone.parent)
        _mark(data).unlink(missing_ok=True)
    shutil.rmtree(gone)


def _mark(data: Path) -> Path:
    """Beside the data: a set holds all that lies in them."""
    return data.with_name(f".{data.name}.not-archived")
