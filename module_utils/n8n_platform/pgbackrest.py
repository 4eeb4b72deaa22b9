"""pgBackRest of one stanza: the commands it is given, and its answers as data. Decides nothing."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.engine_exec import TIMED_OUT
from ansible.module_utils.n8n_platform.engine_run import Result

# Names of repositories and pgBackRest's own keys, as the role postgres configures them.
KEYS = {"local": 1, "s3": 2}
LOCK_HELD = 50
# Wrong passphrase, or none: what is read is then no text of pgBackRest's.
WRONG_KEY = ("CryptoError", "FormatError", "cipher", "unable to flush", "invalid checksum")
_NOISE = re.compile(r"^(P\d+\s+)?(INFO|DETAIL|WARN|ERROR):\s*", re.MULTILINE)
# Of a request that failed: its headers and the whole answer.
_HTTP = re.compile(r"\*\*\* Request Headers \*\*\*.*?(<Code>(\w+)</Code>.*?</Error>|$)", re.DOTALL)
_SEGMENT = re.compile(r"^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$")

# argv, seconds -> the program's result
Runner = Callable[[Sequence[str], float], Result]


class PgBackRestError(BackupError):
    """`status` is pgBackRest's exit code (its manual: 50 lock held, 82 WAL not archived in time, 103 a path is
    missing, ...)."""

    def __init__(self, message: str, status: int, code: Exit = Exit.FAILED) -> None:
        super().__init__(message, code)
        self.status = status


@dataclass(frozen=True)
class Backup:
    """One set. Times are Unix seconds, sizes bytes: of the database, and what the set added to the repository."""

    label: str
    type: str
    start: int
    stop: int
    wal_start: str
    wal_stop: str
    database_bytes: int
    repository_bytes: int
    damaged: bool
    references: tuple[str, ...]
    annotations: dict[str, str]
    lsn_stop: str = ""

    @property
    def full_label(self) -> str:
        """The full set that it rests on; its own label when it is one."""
        return self.label.split("_")[0]


@dataclass(frozen=True)
class Repository:
    """`problem` is empty when it can be read and holds the stanza; wal_min and wal_max are empty without archive."""

    name: str
    problem: str
    created: bool
    backups: tuple[Backup, ...] = ()
    archive_id: str = ""
    wal_min: str = ""
    wal_max: str = ""
    system_id: str = ""
    version: str = ""

    @property
    def fulls(self) -> list[Backup]:
        return [backup for backup in self.backups if backup.type == "full"]


@dataclass(frozen=True)
class PgBackRest:
    """Raises PgBackRestError with pgBackRest's own words, and what a wrong passphrase looks like as such.

    `options` go to every command, over what its configuration says.
    """

    stanza: str
    run: Runner = field(repr=False)
    options: tuple[str, ...] = ()

    def call(self, command: str, *options: str, seconds: float = 600.0) -> str:
        argv = ["pgbackrest", f"--stanza={self.stanza}", *self.options, *options, command]
        return self._checked(self.run(argv, seconds), command, seconds)

    def repositories(self, names: Iterable[str], seconds: float = 120.0) -> dict[str, Repository]:
        """What each repository holds; one that does not answer has its `problem` said and raises nothing. One alone is
        asked alone: it does not wait for another."""
        names = list(names)
        alone = [f"--repo={KEYS[name]}" for name in names if len(names) == 1]
        answer = self._parsed("info", self.call("info", "--output=json", *alone, seconds=seconds))
        stanza: dict[str, Any] = next((entry for entry in answer if entry["name"] == self.stanza), {})
        return {name: _repository(name, stanza) for name in names}

    def listing(
        self, name: str, path: str, seconds: float = 300.0, options: tuple[str, ...] = ("--recurse",)
    ) -> dict[str, dict[str, Any]]:
        """Entries below a path of a repository, by relative path: {type, size, time}."""
        argv = [
            "pgbackrest",
            *self.options,
            f"--repo={KEYS[name]}",
            "--output=json",
            *options,
            "repo-ls",
            path,
        ]
        answer: dict[str, dict[str, Any]] = self._parsed(
            "repo-ls", self._checked(self.run(argv, seconds), "repo-ls", seconds)
        )
        return answer

    def segments(self, name: str, archive_id: str) -> list[str]:
        """Names of the archived WAL segments, in order."""
        entries = self.listing(name, f"archive/{self.stanza}/{archive_id}")
        names = {path.rpartition("/")[2][:24] for path, entry in entries.items() if entry["type"] == "file"}
        return sorted(found for found in names if _SEGMENT.match(found))

    def histories(self, name: str, archive_id: str) -> dict[int, float]:
        """Timelines that began with a recovery, and when each was archived, Unix seconds."""
        found = self.listing(name, f"archive/{self.stanza}/{archive_id}", options=("--filter=\\.history$",))
        return {int(path[:8], 16): float(entry["time"]) for path, entry in found.items()}

    def history(self, name: str, archive_id: str, timeline: int) -> str:
        """What Postgres has written of the timeline's origin."""
        path = f"archive/{self.stanza}/{archive_id}/{timeline:08X}.history"
        argv = ["pgbackrest", *self.options, f"--repo={KEYS[name]}", "repo-get", path]
        return self._checked(self.run(argv, 300.0), "repo-get", 300.0)

    def _parsed(self, command: str, said: str) -> Any:
        """pgBackRest always says something; a busy engine cuts off what a program in a container has said."""
        try:
            # Not strict: of a file that another passphrase was written with, a message quotes what came out.
            return json.loads(said, strict=False)
        except ValueError:
            raise PgBackRestError(
                f"pgBackRest {command} of {self.stanza}: its answer did not arrive as a whole", 0
            ) from None

    def _checked(self, result: Result, command: str, seconds: float) -> str:
        if result.code == 0:
            return result.stdout
        if result.code in TIMED_OUT:
            raise PgBackRestError(
                f"pgBackRest {command} of {self.stanza}: not done within its time limit of {seconds:.0f} s",
                result.code,
            )
        raise failure(command, self.stanza, result)


def failure(command: str, stanza: str, result: Result) -> PgBackRestError:
    said = _HTTP.sub(lambda match: match.group(2) or "", result.stderr.strip() or result.stdout.strip())
    words = " ".join(_NOISE.sub("", said[max(0, said.find("ERROR:")) :]).split())[:900]
    code = Exit.FAILED
    if result.code in (95, 29, 28) or "CryptoError" in words:
        code = Exit.WRONG_KEY
    elif "No space left" in words or "not enough space" in words:
        code = Exit.NO_SPACE
    return PgBackRestError(
        f"pgBackRest {command} of {stanza}: {words or f'exit code {result.code}'}", result.code, code
    )


def gaps(segments: Sequence[str], segment_bytes: int = 16 << 20) -> list[tuple[str, str]]:
    """(last before, first after) of each hole within a timeline; `segments` in order."""
    found = []
    for before, after in itertools.pairwise(segments):
        if before[:8] == after[:8] and number(after, segment_bytes) != number(before, segment_bytes) + 1:
            found.append((before, after))
    return found


def number(segment: str, segment_bytes: int = 16 << 20) -> int:
    """A segment's place in its timeline. Raises ValueError for what is no segment's name."""
    match = _SEGMENT.match(segment)
    if not match:
        raise ValueError(f"{segment!r} is no WAL segment")
    return int(match.group(2), 16) * ((1 << 32) // segment_bytes) + int(match.group(3), 16)


def _repository(name: str, stanza: dict[str, Any]) -> Repository:
    key = KEYS[name]
    state = next((entry for entry in stanza.get("repo", []) if entry["key"] == key), None)
    if state is None:
        return Repository(name, "is not configured", created=False)
    code, message = state["status"]["code"], state["status"]["message"]
    # 2: no backups yet; 1 and 3: no stanza yet.
    if code not in (0, 2):
        return Repository(name, message.splitlines()[0].rstrip(":"), created=False)
    databases = [entry for entry in stanza["db"] if entry["repo-key"] == key]
    current = databases[-1] if databases else {}
    archives = [entry for entry in stanza["archive"] if entry["database"]["repo-key"] == key]
    archive = archives[-1] if archives else {}
    backups = [entry for entry in stanza["backup"] if entry["database"]["repo-key"] == key]
    return Repository(
        name,
        "",
        created=True,
        backups=tuple(sorted((_backup(entry) for entry in backups), key=lambda backup: backup.stop)),
        archive_id=archive.get("id") or "",
        wal_min=archive.get("min") or "",
        wal_max=archive.get("max") or "",
        system_id=str(current.get("system-id", "")),
        version=str(current.get("version", "")),
    )


def _backup(entry: dict[str, Any]) -> Backup:
    return Backup(
        label=entry["label"],
        type=entry["type"],
        start=entry["timestamp"]["start"],
        stop=entry["timestamp"]["stop"],
        wal_start=entry["archive"]["start"] or "",
        wal_stop=entry["archive"]["stop"] or "",
        database_bytes=entry["info"]["size"],
        repository_bytes=entry["info"]["repository"].get("delta", 0),
        damaged=bool(entry.get("error")),
        references=tuple(entry.get("reference") or ()),
        annotations=entry.get("annotation") or {},
        lsn_stop=(entry.get("lsn") or {}).get("stop") or "",
    )
