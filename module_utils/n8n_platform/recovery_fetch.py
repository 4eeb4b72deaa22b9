"""Fetching what is restored into the recovery directory, and putting the directories of the source in their place.

The recovery directory: `manifest.json`, `moment` (the one asked for in UTC, empty for the newest), `keys/` (see
SourceDefinition), `staging/` (dumps and snapshots, compared with the manifest), `directories/<item>/`, `steps/` (an
empty file for each done step). A killed run goes on from there. `<directory>.returning` beside it: taken back.
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import backup_manifest
from ansible.module_utils.n8n_platform.backup import Definition, Exit, sha256_of
from ansible.module_utils.n8n_platform.files import make_directory, write_file
from ansible.module_utils.n8n_platform.recovery import RecoveryError, target_of
from ansible.module_utils.n8n_platform.restic import Restic

# File in `keys/` -> where a running source has it: a root of its definition and the path below.
SOURCE_KEYS = {
    "openbao.key": ("data_root", "seal/openbao.key"),
    "openbao.json": ("state_root", "openbao.json"),
    "n8n_encryption_key": ("secrets_root", "n8n-main/n8n_encryption_key"),
    "backup_restic_password": ("secrets_root", "host/backup_restic_password"),
    "backup_s3_credentials": ("secrets_root", "host/backup_s3_credentials"),
    "s3-ca.pem": ("state_root", "s3-ca.pem"),
}
# The source's definition, which a bundle of keys brings along.
DEFINITION = "backup.json"
_MOMENT = "moment"
_OPTIONAL_KEYS = ("backup_s3_credentials", "s3-ca.pem", "openbao.key", "openbao.json")


class Directory:
    """The recovery directory and its steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = path / "keys"
        self.staging = path / "staging"
        self.directories = path / "directories"
        # Beside, so that it is there for as long as anything of the directory is.
        self.returning = path.with_name(f"{path.name}.returning")

    def done(self, step: str) -> bool:
        return (self.path / "steps" / step).exists()

    def mark(self, step: str) -> None:
        make_directory(self.path / "steps", 0o700)
        write_file(self.path / "steps" / step, "", mode=0o600)

    def run(self) -> str:
        """The run that was begun here, "" for none."""
        return str(self.manifest().get("run", "")) if (self.path / backup_manifest.NAME).exists() else ""

    def manifest(self) -> dict[str, Any]:
        path = self.path / backup_manifest.NAME
        return backup_manifest.parse(path.read_bytes(), str(path))

    def begin(self, manifest: dict[str, Any], moment: str = "") -> None:
        make_directory(self.path, 0o700)
        write_file(self.path / _MOMENT, moment, mode=0o600)
        write_file(self.path / backup_manifest.NAME, backup_manifest.text_of(manifest), mode=0o600)

    def refuse_other(self, run: str, moment: str) -> None:
        """Raises RecoveryError when the restore of another run ("" for any) or to another moment was begun here: what
        is done already would be taken for what is asked now. So are steps that a way back has undone."""
        if self.returning.exists():
            raise RecoveryError(f"{self.path} holds a restore that is being taken back: restore_target=back")
        begun = self.run()
        if not begun:
            return
        way = "continue it, or take it away first (restore_target=remove, in place restore_target=back)"
        if run and run != begun:
            raise RecoveryError(
                f"restore_run: {self.path} holds the restore of {begun} that was begun; {way}"
            )
        path = self.path / _MOMENT
        held = path.read_text(encoding="utf-8") if path.exists() else moment
        if moment != held:
            to = held or "the newest moment"
            raise RecoveryError(f"restore_time: {self.path} holds a restore to {to} that was begun; {way}")

    def holds_keys(self) -> bool:
        """Whether the keys that lie here are the right ones: of a bundle, or of the restore that was begun. Others are
        what a killed run has left, and the source may have got new ones since."""
        return bool(self.run()) or (self.keys / DEFINITION).exists()

    def take_keys(self, source: dict[str, Any]) -> list[str]:
        """Copies the keys of a source on this host; their names. Raises RecoveryError."""
        make_directory(self.path, 0o700)
        if not self.holds_keys():
            shutil.rmtree(self.keys, ignore_errors=True)
        return copy_keys(source, self.keys)


def copy_keys(source: dict[str, Any], keys: Path) -> list[str]:
    """Those of a source on this host that are not there; their names. Raises RecoveryError."""
    taken = []
    origins = {name: Path(source[root]) / below for name, (root, below) in SOURCE_KEYS.items()}
    of_postgres = Path(source["secrets_root"]).glob("postgres-*/pgbackrest_*")
    origins |= {path.name: path for path in of_postgres}
    for name, origin in origins.items():
        if (keys / name).exists():
            continue
        if not origin.is_file():
            if name in _OPTIONAL_KEYS:
                continue
            raise RecoveryError(f"key {name}: {origin} is not there", Exit.WRONG_KEY)
        make_directory(keys, 0o700)
        write_file(keys / name, origin.read_text(encoding="utf-8"))
        taken.append(name)
    return taken


def needed_bytes(manifest: dict[str, Any]) -> dict[tuple[str, str], int]:
    """By name and kind of item, of what is fetched, and of the databases as they are written from their compressed
    sets, which stay where they are."""
    sizes: dict[tuple[str, str], int] = {}
    for item in manifest["items"]:
        size = (item.get("details") or {}).get("database_bytes") or item.get("bytes")
        # Each repository has its own set of the same database.
        key = item["name"], item["kind"]
        sizes[key] = max(sizes.get(key, 0), int(size or 0))
    return sizes


def check_room(manifest: dict[str, Any], fetched: Path, volumes: Path) -> None:
    """Raises RecoveryError when a disk has no room for what comes onto it: a second copy of everything, where the
    recovery directory `fetched` and the volumes lie on the same one."""
    # From one disk to another a directory is copied, else renamed.
    places = {"pgbackrest": (volumes,), "directory": (fetched, volumes)}
    for disk, place in {_disk(path): path for path in (fetched, volumes)}.items():
        needed = sum(
            size
            for (_, kind), size in needed_bytes(manifest).items()
            if disk in map(_disk, places.get(kind, (fetched,)))
        )
        free = shutil.disk_usage(_existing(place)).free
        # A tenth more: databases grow while their WAL is replayed.
        if free < needed * 1.1:
            raise RecoveryError(
                f"{place}: {needed / 1e9:.1f} GB are restored beside what is there, only {free / 1e9:.1f} GB are free",
                Exit.NO_SPACE,
            )


def _disk(path: Path) -> int:
    return _existing(path).stat().st_dev


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def fetch(directory: Directory, restic: Restic, manifest: dict[str, Any], limit: float) -> None:
    """Fills `staging/` and `directories/`. Raises BackupError; what is there is whole or not there at all."""
    snapshot = (manifest.get("restic") or {}).get(restic.repository)
    if not snapshot:
        raise RecoveryError(f"run {manifest['run']} has no snapshot in the {restic.repository} repository")
    incoming = directory.path / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    make_directory(incoming, 0o700)
    restic.restore(snapshot, incoming, limit)
    check_files(manifest, incoming / "staging")
    for old in (directory.staging, directory.directories):
        shutil.rmtree(old, ignore_errors=True)
    (incoming / "staging").rename(directory.staging)
    incoming.rename(directory.directories)
    directory.mark("fetched")


def check_files(manifest: dict[str, Any], staging: Path) -> None:
    """Raises RecoveryError that names each file which is missing or differs from the manifest."""
    found = []
    for item in manifest["items"]:
        if "file" not in item:
            continue
        path = staging / item["file"]
        if not path.is_file():
            found.append(f"{item['file']} is missing")
        elif sha256_of(path) != item["sha256"]:
            found.append(f"{item['file']} differs from its checksum")
    if found:
        raise RecoveryError(f"run {manifest['run']}: {', '.join(found)}", Exit.DAMAGED)


def places(directory: Directory, source: Definition, volumes_root: Path, data_root: Path) -> dict[str, Path]:
    """Name of each directory in the run -> where it belongs here."""
    return {
        item["name"]: target_of(item, source, volumes_root, data_root)
        for item in directory.manifest()["items"]
        if item["kind"] == "directory"
    }


def place(directory: Directory, name: str, target: Path) -> None:
    """Puts one directory in its place in one step; what was there is kept, see `former`.

    A nested one (n8n-data/files) is part of the one around it, which comes first.
    """
    fetched = directory.directories / name
    if fetched.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if directory.done(f"kept-{name}") and former(target).exists():
            # A killed run has kept what was there; what is there now is its, or a folder made since.
            shutil.rmtree(target, ignore_errors=True)
        elif target.exists():
            shutil.rmtree(former(target), ignore_errors=True)
            directory.mark(f"kept-{name}")
            target.rename(former(target))
        _move(fetched, target)
    directory.mark(f"placed-{name}")


def former(target: Path) -> Path:
    """Where what a restore has replaced is kept until the next good daily or weekly backup."""
    return target.with_name(f"{target.name}.before-restore")


def discard_former(target: Path) -> list[str]:
    """What a restore has replaced goes; one text each."""
    gone = former(target)
    if not gone.exists():
        return []
    shutil.rmtree(gone)
    return [f"removed {gone}, which a restore has replaced"]


def put_back(directory: Directory, name: str, target: Path) -> None:
    """What was there before `place`, from every step of it; a directory that was not there is left."""
    if directory.done(f"kept-{name}") and former(target).exists():
        shutil.rmtree(target, ignore_errors=True)
        former(target).rename(target)


def finish(directory: Directory, reports: Path, now: datetime) -> dict[str, Any]:
    """Writes `<reports>/<run>/report.json` and removes the directory, keys first; {seconds}."""
    begun = min(path.stat().st_mtime for path in directory.keys.iterdir())
    report = {
        "run": directory.run(),
        "started": datetime.fromtimestamp(begun, timezone.utc).isoformat(),
        "finished": now.isoformat(),
        "seconds": round(now.timestamp() - begun, 1),
    }
    folder = reports / directory.run()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(folder / "report.json", json.dumps(report, indent=1) + "\n", mode=0o600)
    shutil.rmtree(directory.keys)
    # Half removed it must not be taken for a restore that can go on, or back.
    gone = directory.path.with_name(f".{directory.path.name}.finished")
    shutil.rmtree(gone, ignore_errors=True)
    directory.path.rename(gone)
    shutil.rmtree(gone)
    return {"seconds": report["seconds"]}


def _move(source: Path, target: Path) -> None:
    """Into place with one rename, from another file system too."""
    if _same_file_system(source, target.parent):
        source.rename(target)
        return
    copy_tree(source, target)
    # Half removed it must not be taken for what was fetched.
    moved = source.with_name(f".moved-{source.name}")
    source.rename(moved)
    shutil.rmtree(moved)


def _same_file_system(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def copy_tree(source: Path, target: Path) -> None:
    """A copy with owners and modes, which takes its name when it is whole."""
    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside, symlinks=True)
    for folder, folders, files in os.walk(source):
        for name in [".", *folders, *files]:
            owner = os.lstat(os.path.join(folder, name))
            copied = beside / Path(folder).relative_to(source) / name
            os.chown(copied, owner.st_uid, owner.st_gid, follow_symlinks=False)
    beside.rename(target)
