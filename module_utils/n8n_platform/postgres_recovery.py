"""A Postgres data directory from a pgBackRest repository: made beside the one in use, recovered and looked at, then
put in its place. Until that last step, one rename, nothing of the old state is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import pgbackrest, postgres_choice
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.engine_run import Mount, OneShots, Result
from ansible.module_utils.n8n_platform.files import (
    held,
    memory_directory,
    open_regular,
    sync_directory,
    write_file,
)
from ansible.module_utils.n8n_platform.pgbackrest import KEYS, Backup, PgBackRest
from ansible.module_utils.n8n_platform.postgres_choice import Request
from ansible.module_utils.n8n_platform.postgres_generations import (
    UID,
    current_generation,
    discard_staged,
    holds_data,
    put_in_place,
    staged,
    write_current,
)

_ROOT = "/var/lib/postgresql"
_KEYS = "/run/pgbackrest"
_SPOOL = "/tmp/spool"  # noqa: S108 (of the container)
# Postgres takes a failed restore_command for the end of the archive; beyond 125 it stops instead. 1: no such segment.
_GET = 'pgbackrest %s archive-get %%f "%%p"; code=$?; [ $code -le 1 ] || exit 255; exit $code'
_SETTINGS = "postgresql.auto.conf"
_SIGNAL = "recovery.signal"
_SLACK = 1.1
_WAL_ROOM = 1 << 30


@dataclass(frozen=True)
class Recovered:
    """What lies beside the data in use and was seen to work; `switch` puts it in its place."""

    staged: str
    label: str
    system_id: str
    timeline: int
    last_lsn: str
    last_transaction: str | None
    databases: dict[str, int]
    restore_seconds: float
    recovery_seconds: float


class Recovery:
    """Raises BackupError: NO_SPACE, WRONG_KEY, DAMAGED (a checksum, missing WAL), else FAILED; the text says what."""

    def __init__(self, oneshots: OneShots, request: Request) -> None:
        self._oneshots = oneshots
        self._request = request
        self._staged = str(staged(request.volume, request.major).relative_to(request.volume))

    def choose(self) -> tuple[Backup, str]:
        """The set, and the newest WAL, or a refusal; writes nothing."""
        with self._client() as client:
            return postgres_choice.choose(client, self._request)

    def prepare(self) -> Recovered:
        """Restores beside the data in use and recovers there; the old server may run meanwhile."""
        backup, newest = self.choose()
        self._check_room(backup)
        self.discard_staged()
        target = self._request.volume / self._staged
        for directory in (target.parent, target):
            with held(self._request.volume, directory, make=True) as folder:
                os.chown(folder, UID, UID)
        started = datetime.now(timezone.utc)
        with self._client() as client:
            client.call("restore", *self._restore_options(backup), seconds=self._request.seconds)
            restored = datetime.now(timezone.utc)
            answer = self._recover(client, self._staged)
        self._check_end(answer, newest)
        return Recovered(
            self._staged,
            backup.label,
            answer["system_id"],
            answer["timeline"],
            answer["last_lsn"],
            answer["last_transaction"],
            answer["databases"],
            round((restored - started).total_seconds(), 1),
            round((datetime.now(timezone.utc) - restored).total_seconds(), 1),
        )

    def discard_staged(self) -> None:
        discard_staged(self._request.volume, self._request.major)

    def plan_switch(self) -> dict[str, str]:
        """{generation, previous}: what `current` is to name, and what it names now; "" where that holds no data."""
        major = self._request.major
        numbers = [int(path.name) for path in (self._request.volume / major).glob("[0-9]*")]
        current = current_generation(self._request.volume)
        return {
            "generation": f"{major}/{max([0, *numbers]) + 1}",
            "previous": current if holds_data(self._request.volume, current) else "",
        }

    def switch(self, generation: str) -> None:
        """Only while no server runs on the volume. May be repeated after a kill."""
        volume = self._request.volume
        put_in_place(volume, generation)
        write_current(volume, generation)

    def branch_off(self, generation: str) -> int:
        """Gives data that are used again a timeline of their own, and returns it: the archive has the restored data's
        by now, which a later restore to the newest moment would follow. Only while no server runs on the volume.

        Whatever it raises, the data are as they were: they start, on their former timeline. After a kill
        `undo_branch` makes them so."""
        volume = self._request.volume
        with _held_settings(volume, generation) as (data, kept):
            with open_regular(data / _SETTINGS) as stream:
                former = stream.read()
            write_file(kept, former, UID, UID, 0o600)
            try:
                get = self._get(f"{_ROOT}/{generation}").replace("'", "''")
                lines = f"restore_command = '{get}'\nrecovery_target_timeline = 'current'\n"
                write_file(data / _SETTINGS, former + lines.encode(), UID, UID, 0o600)
                write_file(data / _SIGNAL, "", UID, UID, 0o600)
                with self._client() as client:
                    timeline = int(self._recover(client, generation)["timeline"])
            except BaseException:
                undo_branch(volume, generation)
                raise
            kept.unlink()
        return timeline

    def _check_room(self, backup: Backup) -> None:
        needed = int(backup.database_bytes * _SLACK) + _WAL_ROOM
        free = shutil.disk_usage(self._request.volume).free
        if free < needed:
            raise BackupError(
                f"{self._request.volume}: {free >> 20} MiB free, the set {backup.label} needs {needed >> 20} MiB "
                "beside the data that is there",
                Exit.NO_SPACE,
            )

    def _overrides(self) -> tuple[str, ...]:
        """What differs from the source's configuration here."""
        request = self._request
        if request.repository != "s3":
            return ()
        path = (f"--repo2-path={request.s3_path}",) if request.s3_path else ()
        return (*path, *((f"--repo2-storage-ca-file={_KEYS}/s3-ca.pem",) if request.ca_file else ()))

    def _common(self, data: str) -> list[str]:
        return [f"--repo={KEYS[self._request.repository]}", f"--pg1-path={data}", f"--spool-path={_SPOOL}"]

    def _get(self, data: str) -> str:
        return _GET % " ".join([f"--stanza={self._request.stanza}", *self._overrides(), *self._common(data)])

    def _restore_options(self, backup: Backup) -> list[str]:
        request, data = self._request, f"{_ROOT}/{self._staged}"
        options = [*self._common(data), f"--set={backup.label}"]
        options += [
            f"--process-max={request.processes}",
            f"--recovery-option=restore_command={self._get(data)}",
        ]
        if request.time is not None:
            moment = request.time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f+00")
            options += ["--type=time", f"--target={moment}", "--target-action=promote"]
        if request.at_set:
            # What came after the set does not matter then, and may have gone another way.
            options += ["--type=immediate", "--target-action=promote"]
            options += ["--recovery-option=recovery_target_timeline=current"]
        else:
            options += [f"--target-timeline={request.timeline}"]
        return options

    def _recover(self, client: PgBackRest, generation: str) -> dict[str, Any]:
        argv = ["postgres-recover", f"{_ROOT}/{generation}", f"{self._request.seconds:.0f}"]
        argv += ["archive"] if self._request.archives else []
        result = client.run(argv, self._request.seconds + 60)
        if result.code:
            raise BackupError(f"{self._request.stanza}: cannot be recovered: {_fatal(result)}", Exit.DAMAGED)
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def _check_end(self, answer: dict[str, Any], newest: str) -> None:
        """To the newest moment: for Postgres a hole in the archive is its end, and nothing to complain of."""
        if self._request.time is not None or self._request.at_set or not newest:
            return
        high, low = (int(part, 16) for part in answer["last_lsn"].split("/"))
        reached = ((high << 32) + low - 1) >> 24
        if reached < pgbackrest.number(newest):
            raise BackupError(
                f"{self._request.stanza}: recovery ended at {answer['last_lsn']} ({answer['last_transaction']}), but "
                f"the archive goes on to {newest}: WAL between them is missing or damaged. Give an earlier moment",
                Exit.DAMAGED,
            )

    @contextmanager
    def _client(self) -> Iterator[PgBackRest]:
        """pgBackRest in containers of their own, with a copy of the configuration that their user can read."""
        request = self._request
        with tempfile.TemporaryDirectory(prefix="pgbackrest-", dir=memory_directory()) as name:
            folder = Path(name)
            os.chown(folder, UID, UID)
            for source, copy in ((request.configuration, "pgbackrest.conf"), (request.ca_file, "s3-ca.pem")):
                if source:
                    (folder / copy).touch(0o400)
                    (folder / copy).write_bytes(source.read_bytes())
                    os.chown(folder / copy, UID, UID)
            mounts = [Mount(folder, _KEYS), Mount(request.volume, _ROOT, read_only=False)]
            if request.repository == "local":
                mounts.append(Mount(request.repository_path, "/var/lib/pgbackrest"))

            def run(argv: Sequence[str], seconds: float) -> Result:
                return self._oneshots.run(
                    request.image,
                    argv,
                    mounts=mounts,
                    user=f"{UID}:{UID}",
                    network=request.network if request.repository == "s3" else "none",
                    environment={"PGBACKREST_CONFIG": f"{_KEYS}/pgbackrest.conf"},
                    timeout=seconds,
                )

            yield PgBackRest(request.stanza, run, self._overrides())


def undo_branch(volume: Path, generation: str) -> None:
    """Of a `branch_off` that did not end: the data start again. Their server would look for the archive where only the
    container of a recovery has it. Only while neither runs on the volume."""
    with _held_settings(volume, generation) as (data, kept):
        if not kept.exists():
            return
        (data / _SIGNAL).unlink(missing_ok=True)
        sync_directory(data)
        kept.replace(data / _SETTINGS)
        sync_directory(data)


@contextmanager
def _held_settings(volume: Path, generation: str) -> Iterator[tuple[Path, Path]]:
    """The data, and where their settings are kept: beside them, since a set holds all that lies in them."""
    path = volume / generation
    with held(volume, path) as data, held(volume, path.parent) as major:
        yield data, major / f".{path.name}.{_SETTINGS}"


def _fatal(result: Result) -> str:
    """The server's last words, without those to our own asking whether it is there yet."""
    lines = [line for line in result.stderr.splitlines() if re.search("FATAL|PANIC|postgres-recover:", line)]
    said = [line for line in lines if "starting up" not in line and "not accepting connections" not in line]
    return " ".join(" ".join(said).split())[-900:] or result.words()
