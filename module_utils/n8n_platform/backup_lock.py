"""One backup at a time per environment, and none while something is being restored."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TextIO

from ansible.module_utils.n8n_platform.backup import BackupError, Exit

LOCK = "backup.lock"
RESTORE = "restore.json"
# Longer than any restore takes: one that is still there was killed, or has failed, and nobody looked.
_RESTORE_PATIENCE = timedelta(hours=4)
# A holder writes its name as soon as it has the lock; until then an earlier one's may stand there, which was killed.
_NAME_SECONDS = 5.0
_POLL_SECONDS = 0.02
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def backup_lock(state: Path, what: str, now: datetime, by: str = "") -> Iterator[dict[str, Any] | None]:
    """Holds the lock; yields what a holder that was killed had written ({pid, boot_id, since, what, by}), else None.

    The kernel gives a dead holder's lock back, so nothing is ever taken over; only its words are left.
    Raises BackupError: LOCKED names the holder and since when, RESTORING the restore.
    """
    with _opened(state) as stream:
        _take(stream)
        refuse_while_restoring(state)
        former = _read(stream)
        _write(
            stream,
            {
                "pid": os.getpid(),
                "boot_id": boot_id(),
                "since": now.isoformat(),
                "what": what,
                "by": by or _user(),
            },
        )
        try:
            yield former
        finally:
            _write(stream, None)


def refuse_while_working(state: Path) -> None:
    """Raises BackupError (LOCKED) that names the run at work. Asked while RESTORE is there, none begins after it."""
    with _opened(state) as stream:
        _take(stream)


def refuse_while_restoring(state: Path) -> None:
    """Raises BackupError (RESTORING): what is half restored must not become a backup."""
    path = state / RESTORE
    if path.exists():
        raise BackupError(
            f"a restore is in progress ({path}): {path.read_text(encoding='utf-8', errors='replace')[:300].strip()}; "
            "let it finish, or repeat it",
            Exit.RESTORING,
        )


def stuck_restore(state: Path, now: datetime) -> str:
    """What to say of a restore that has kept backups from running for too long; empty while there is none."""
    try:
        begun = datetime.fromtimestamp((state / RESTORE).stat().st_mtime, timezone.utc)
    except FileNotFoundError:
        return ""
    if now - begun <= _RESTORE_PATIENCE:
        return ""
    return (
        f"no backup is made since {begun.isoformat(timespec='seconds')}, when a restore in place was begun "
        f"({state / RESTORE}): repeat it, or put back what was before (restore_target=back)"
    )


def boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _opened(state: Path) -> TextIO:
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    return (state / LOCK).open("a+", encoding="utf-8")


def _take(stream: TextIO) -> None:
    """Until the stream is closed. Raises BackupError as soon as a holder has said its name."""
    deadline = time.monotonic() + _NAME_SECONDS
    while True:
        try:
            return fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(stream)
            if holder or time.monotonic() > deadline:
                said = holder or "it has not said its name yet"
                raise BackupError(f"another run holds the lock {stream.name}: {said}", Exit.LOCKED) from None
        time.sleep(_POLL_SECONDS)


def _holder(stream: TextIO) -> str:
    found = _read(stream)
    if not found or not _alive(found):
        return ""
    return f"{found['what']} of {found['by']}, process {found['pid']}, since {found['since']}"


def _alive(holder: dict[str, Any]) -> bool:
    return holder["boot_id"] == boot_id() and Path(f"/proc/{holder['pid']}").exists()


def _read(stream: TextIO) -> dict[str, Any] | None:
    stream.seek(0)
    try:
        return dict(json.loads(stream.read()))
    except ValueError:
        return None


def _write(stream: TextIO, content: dict[str, Any] | None) -> None:
    stream.seek(0)
    stream.truncate()
    if content:
        stream.write(json.dumps(content))
    stream.flush()


def _user() -> str:
    return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
