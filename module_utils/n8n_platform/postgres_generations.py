"""The generations of a Postgres volume: <major>/<number>, of which the file `current` names the one in use.

The volume is the server's, while root works in it here: a symlink below it is nobody's data, and is never followed.
"""

from __future__ import annotations

import re
import shutil
import struct
from contextlib import suppress
from pathlib import Path

from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.files import held, open_regular, sync_directory, write_file
from ansible.module_utils.n8n_platform.recovery import RecoveryError

UID = 2001
# In ControlFileData: ThisTimeLineID of checkPointCopy.
_TIMELINE_AT = 48
_STAGED = ".new.restore"
_GENERATION = re.compile(r"[0-9]+/[0-9]+")


def write_current(volume: Path, generation: str) -> None:
    """What the next start of the server uses. Raises BackupError when it is not there."""
    if not holds_data(volume, generation):
        raise BackupError(f"{volume}: {generation} holds no data")
    write_file(volume / "current", f"{generation}\n", UID, UID, 0o644)


def holds_data(volume: Path, generation: str) -> bool:
    """Of "", the generation of a volume that had none: no."""
    try:
        with held(volume, volume / generation) as data:
            return bool(generation) and (data / "PG_VERSION").exists()
    except (FileNotFoundError, NotADirectoryError):
        return False


def refuse_removed(volume: Path, previous: str) -> None:
    """Raises RecoveryError when the data from before a restore are gone, so that there is no way back. Where there were
    none, in "", the restored ones stay."""
    if previous and not holds_data(volume, previous):
        raise RecoveryError(f"{volume}: {previous} from before was removed; repeat the restore")


def current_generation(volume: Path) -> str:
    """`17/1`; empty when there is no data, or none is named. Raises OSError."""
    try:
        with open_regular(volume / "current") as stream:
            named = stream.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
    return named if _GENERATION.fullmatch(named) else ""


def timeline(data: Path) -> int:
    """Of the last checkpoint; 0 when it cannot be read."""
    try:
        with held(data.parents[1], data / "global") as folder, open_regular(folder / "pg_control") as stream:
            return int(struct.unpack_from("=I", stream.read(), _TIMELINE_AT)[0])
    except (OSError, struct.error):
        return 0


def staged(volume: Path, major: str) -> Path:
    """Where a restore makes the next generation, beside the one in use."""
    return volume / major / _STAGED


def discard_staged(volume: Path, major: str) -> None:
    """Raises OSError."""
    path = staged(volume, major)
    with suppress(FileNotFoundError), held(volume, path.parent) as folder, held(volume, path):
        shutil.rmtree(folder / path.name)


def put_in_place(volume: Path, generation: str) -> None:
    """What is staged becomes `generation`, if it has not yet. Raises OSError."""
    major, _, number = generation.partition("/")
    with held(volume, volume / major) as folder:
        if (folder / _STAGED).exists():
            (folder / _STAGED).rename(folder / number)
            sync_directory(folder)


def former_generations(volume: Path) -> list[Path]:
    """Data directories that are not the one in use: what a restore has left for a way back."""
    current = current_generation(volume)
    if not current:
        return []
    return [
        path
        for major in _majors(volume)
        for path in _folders(major)
        if path.name.isdigit() and f"{major.name}/{path.name}" != current
    ]


def set_archived(volume: Path, generation: str, archived: bool) -> None:
    """Whether all of its data is in the archive too, as it goes out of use: what is not is nowhere else."""
    if not holds_data(volume, generation):
        return
    data = volume / generation
    with held(volume, data.parent) as major:
        mark = major / _mark(data).name
        if archived:
            mark.unlink(missing_ok=True)
        else:
            write_file(mark, "", UID, UID, 0o600)


def is_archived(data: Path) -> bool:
    return not _mark(data).exists()


def half_removed(volume: Path) -> list[Path]:
    """What a kill has left of `remove`."""
    return [
        path for major in _majors(volume) for path in _folders(major) if path.name.startswith(".removed.")
    ]


def remove(data: Path) -> None:
    """A generation, or what is left of one; half removed it must not be taken for data. Raises OSError, of what is
    reached through a symlink NotADirectoryError."""
    volume = data.parents[1]
    with held(volume, data.parent) as major, held(volume, data):
        gone = major / data.name
        if data.name.isdigit():
            gone = major / f".removed.{data.name}"
            shutil.rmtree(gone, ignore_errors=True)
            (major / data.name).rename(gone)
            sync_directory(major)
            (major / _mark(data).name).unlink(missing_ok=True)
        shutil.rmtree(gone)


def _majors(volume: Path) -> list[Path]:
    return [path for path in _folders(volume) if path.name.isdigit()]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _mark(data: Path) -> Path:
    """Beside the data: a set holds all that lies in them."""
    return data.with_name(f".{data.name}.not-archived")
