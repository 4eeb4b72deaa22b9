"""Choosing, judging and fetching a backup."""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_manifest, recovery, recovery_fetch
from ansible.module_utils.n8n_platform.backup import Definition
from ansible.module_utils.n8n_platform.backup_directory import Directory as BackupDirectory
from ansible.module_utils.n8n_platform.backup_manifest import Set, seal
from ansible.module_utils.n8n_platform.recovery import RecoveryError, Wanted, choose, parse_time, problems
from ansible.module_utils.n8n_platform.secrets import fingerprint

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
KEY = "k" * 48
DUMP = b"rdb"


def manifest(run: str = "20261122T020000Z", **changes: Any) -> dict[str, Any]:
    day = f"{run[:4]}-{run[4:6]}-{run[6:8]}"
    items = [
        {"name": "redis-queue", "kind": "redis_rdb", "file": "redis-queue.rdb", "bytes": len(DUMP)},
        {"name": "n8n-home", "kind": "directory", "path": "/src/volumes/n8n-home", "bytes": 10},
    ]
    items[0]["sha256"] = hashlib.sha256(DUMP).hexdigest()
    made = {
        "version": 1,
        "run": run,
        "environment": "production",
        "started": f"{day}T02:00:00+00:00",
        "finished": f"{day}T02:10:00+00:00",
        "items": items,
        "restic": {"local": "abc", "s3": None},
        "versions": {"n8n": "2.41.1", "postgres": "17.6"},
        "fingerprints": {"n8n_encryption_key": fingerprint(KEY)},
    }
    return seal({**made, **changes})


def found(*runs: str, broken: str = "") -> list[Set]:
    sets = [Set(run, manifest(run)) for run in runs]
    return sets + ([Set(broken, None, "the manifest is damaged")] if broken else [])


WANTED = Wanted("production", n8n="2.41.1", postgres="17")


def test_the_newest_whole_backup_is_chosen_and_a_broken_newer_one_is_named() -> None:
    sets = found("20261120T020000Z", "20261121T020000Z", broken="20261122T020000Z")
    chosen, passed = choose(sets, WANTED)
    assert chosen["run"] == "20261121T020000Z"
    assert passed == ["20261122T020000Z: the manifest is damaged"]


def test_for_a_point_in_time_the_last_backup_before_it_is_chosen() -> None:
    sets = found("20261120T020000Z", "20261121T020000Z")
    moment = datetime(2026, 11, 21, 2, 5, tzinfo=timezone.utc)
    assert choose(sets, Wanted("production", time=moment))[0]["run"] == "20261120T020000Z"


@pytest.mark.parametrize(
    ("sets", "wanted", "says"),
    [
        ([], WANTED, "no complete backup of production"),
        (found(broken="20261122T020000Z"), WANTED, "damaged or incomplete: 20261122T020000Z"),
        (found("20261120T020000Z"), Wanted("production", run="20261101T020000Z"), "no run 20261101T020000Z"),
        (found(broken="20261122T020000Z"), Wanted("production", run="20261122T020000Z"), "is no backup"),
        (
            found("20261122T020000Z"),
            Wanted("production", time=NOW.replace(hour=1)),
            "before the end of the first",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(sets: list[Set], wanted: Wanted, says: str) -> None:
    with pytest.raises(RecoveryError, match=says):
        choose(sets, wanted)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprints": {"n8n_encryption_key": fingerprint("another")}}, "needs another key"),
        ({"fingerprints": {}}, "needs another key"),
        ({"environment": "staging"}, "is of staging"),
        ({"versions": {"n8n": "2.41.1", "postgres": "16.9"}}, "major version 16.9"),
        ({"versions": {"n8n": "2.42.0", "postgres": "17.6"}}, "older 2.41.1 cannot read"),
    ],
)
def test_a_backup_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / "key").write_text(KEY)
    (problem,) = problems(manifest(**changes), WANTED, tmp_path / "key")
    assert says in problem


def test_a_backup_that_fits_is_not(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    older = {"n8n": "2.9.0", "postgres": "17.0"}
    assert problems(manifest(), WANTED, tmp_path / "key") == []
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert problems(manifest(versions=older), WANTED, tmp_path / "key") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yesterday", "is not a time"),
        ("2026-11-22T10:00:00", "has no zone"),
        ("2026-11-22T12:00:01Z", "has not come yet"),
    ],
)
def test_a_time_that_means_nothing_is_refused(text: str, says: str) -> None:
    with pytest.raises(RecoveryError, match=says):
        parse_time(text, NOW)


def item(**fields: Any) -> dict[str, Any]:
    return {"name": "n8n-home", "kind": "directory", "path": "/src/volumes/n8n-home", **fields}


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([item(name="../n8n-home")], "items: name '../n8n-home' is no plain name"),
        ([item(name="..")], "items: name '..'"),
        ([item(name="")], "items: name ''"),
        ([item(name=None)], "items: name None"),
        ([item(name="n8n-home\n")], "items: name"),
        ([item(file="/etc/shadow")], "items: file '/etc/shadow' is no plain name"),
        ([item(file="../../keys/openbao.key")], "items: file '../../keys/openbao.key'"),
        ([item(file=7)], "items: file 7"),
        ([item(path="/src/volumes/../../etc")], "items: path '/src/volumes/../../etc' leads out"),
        ([item(snapshot_path="/source/..")], "items: snapshot_path '/source/..' leads out"),
        ([item(path=[])], "items: path"),
        (["n8n-home"], "items"),
        ("n8n-home", "items"),
        (None, "items"),
    ],
)
def test_a_manifest_that_names_what_lies_elsewhere_is_refused(items: Any, says: str) -> None:
    """Its checksum is no signature: who may write to the bucket makes one that fits."""
    with pytest.raises(backup_manifest.ManifestError, match=re.escape(f"s3: {says}")):
        backup_manifest.parse(backup_manifest.text_of(manifest(items=items)), "s3")


@pytest.mark.parametrize("run", ["../20261122T020000Z", "20261122T020000Z\n", None])
def test_a_manifest_of_no_run_is_refused(run: Any) -> None:
    text = backup_manifest.text_of(seal({**manifest(), "run": run}))
    with pytest.raises(backup_manifest.ManifestError, match="s3: run .* is none"):
        backup_manifest.parse(text, "s3")


def test_what_a_run_writes_is_none_of_that(tmp_path: Path) -> None:
    """The path of a bundle of keys is as the operator has given its folder, and nothing is restored from it."""
    written = BackupDirectory({"name": "n8n-data", "path": f"{tmp_path}/x/../n8n-data"})
    (tmp_path / "n8n-data").mkdir()
    (tmp_path / "x").mkdir()
    keys = {"name": "keys", "kind": "keys", "path": "/mnt/../bundles/test.age"}
    items = [*manifest()["items"], *written.run(None, tmp_path), keys]  # type: ignore[arg-type]
    made = manifest(items=items)
    assert backup_manifest.parse(backup_manifest.text_of(made), "s3") == made


def test_a_time_is_taken_with_its_offset() -> None:
    assert parse_time("2026-11-22T12:00:00+02:00", NOW) == NOW.replace(hour=10)
    assert parse_time("", NOW) is None


class FakeRestic:
    """A repository whose one snapshot holds the run's files; `content` is the dump's."""

    repository = "local"

    def __init__(self, content: bytes = DUMP) -> None:
        self.content = content
        self.restored = 0

    def restore(self, snapshot: str, target: Path, limit: float) -> None:
        assert snapshot == "abc"
        self.restored += 1
        (target / "staging").mkdir()
        (target / "staging/redis-queue.rdb").write_bytes(self.content)
        (target / "n8n-home/deep").mkdir(parents=True)
        (target / "n8n-home/deep/file").write_text("content")


@pytest.fixture
def directory(tmp_path: Path) -> recovery_fetch.Directory:
    made = recovery_fetch.Directory(tmp_path / "recovery")
    made.begin(manifest())
    return made


def fetch(directory: recovery_fetch.Directory, restic: Any, made: dict[str, Any] | None = None) -> None:
    recovery_fetch.fetch(directory, restic, made or manifest(), 60)


def test_what_is_fetched_lies_apart_and_is_for_root_only(directory: recovery_fetch.Directory) -> None:
    fetch(directory, FakeRestic())
    assert (directory.staging / "redis-queue.rdb").read_bytes() == DUMP
    assert (directory.directories / "n8n-home/deep/file").read_text() == "content"
    assert directory.done("fetched") and directory.run() == "20261122T020000Z"
    assert directory.path.stat().st_mode & 0o777 == 0o700


def test_a_file_that_differs_from_the_manifest_is_not_kept(directory: recovery_fetch.Directory) -> None:
    with pytest.raises(RecoveryError, match=r"redis-queue\.rdb differs from its checksum"):
        fetch(directory, FakeRestic(b"rdB"))
    assert not directory.staging.exists() and not directory.done("fetched")
    fetch(directory, FakeRestic())
    assert directory.done("fetched")


def test_a_run_without_a_snapshot_in_the_repository_is_refused(directory: recovery_fetch.Directory) -> None:
    with pytest.raises(RecoveryError, match="no snapshot in the local"):
        fetch(directory, FakeRestic(), manifest(restic={"local": None}))


def source() -> Definition:
    roots = {"volumes_root": "/src/volumes", "data_root": "/src", "secrets_root": "/src/secrets"}
    others = {"state_root": "/src/state", "backup_root": "/b", "project": "p", "timezone": "UTC"}
    return Definition(
        {**roots, **others, "environment": "production", "images": {}, "items": [], "retention": {}}
    )


def test_directories_get_to_their_place_in_one_step_and_once(
    tmp_path: Path, directory: recovery_fetch.Directory
) -> None:
    volumes = tmp_path / "here/volumes"
    (volumes / "n8n-home").mkdir(parents=True)
    (volumes / "n8n-home/old").write_text("old")
    fetch(directory, FakeRestic())
    places = recovery_fetch.places(directory, source(), volumes, tmp_path / "here")
    assert places == {"n8n-home": volumes / "n8n-home"}
    for _ in range(2):
        recovery_fetch.place(directory, "n8n-home", volumes / "n8n-home")
        assert os.listdir(volumes / "n8n-home") == ["deep"] and directory.done("placed-n8n-home")
        assert os.listdir(volumes / "n8n-home.before-restore") == ["old"]


@pytest.mark.parametrize("killed_at", ["placed", "kept", "marked"])
def test_what_was_there_can_be_put_back_from_every_step(
    tmp_path: Path, directory: recovery_fetch.Directory, killed_at: str
) -> None:
    target = tmp_path / "volumes/n8n-home"
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    # Of a restore before this one, which must not be taken for what is there now.
    recovery_fetch.former(target).mkdir()
    fetch(directory, FakeRestic())
    recovery_fetch.put_back(directory, "n8n-home", target)
    assert os.listdir(target) == ["old"]
    if killed_at == "placed":
        recovery_fetch.place(directory, "n8n-home", target)
        assert os.listdir(target) == ["deep"]
    else:
        recovery_fetch.former(target).rmdir()
        directory.mark("kept-n8n-home")
        if killed_at == "kept":
            target.rename(recovery_fetch.former(target))
    recovery_fetch.put_back(directory, "n8n-home", target)
    assert os.listdir(target) == ["old"] and not recovery_fetch.former(target).exists()


class Killed(BaseException):
    """What no handler takes for an error."""


@pytest.mark.parametrize("killed_in", ["rename", "copytree", "rmtree"])
@pytest.mark.parametrize("made_again", [True, False])
def test_a_placement_that_was_killed_and_repeated_keeps_the_original(
    tmp_path: Path,
    directory: recovery_fetch.Directory,
    monkeypatch: pytest.MonkeyPatch,
    killed_in: str,
    made_again: bool,
) -> None:
    """Onto another file system; the folder of a volume is made anew before the command is repeated."""
    target = tmp_path / "volumes/n8n-home"
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    fetch(directory, FakeRestic())
    monkeypatch.setattr(recovery_fetch, "_same_file_system", lambda *_: False)

    def kill(path: Any, *_: Any, **_more: Any) -> None:
        if killed_in == "rmtree":
            (Path(path) / "deep/file").unlink()
        raise Killed

    with monkeypatch.context() as step, pytest.raises(Killed):
        if killed_in == "rename":
            step.setattr(recovery_fetch, "_move", kill)
        elif killed_in == "copytree":
            step.setattr("shutil.copytree", kill)
        else:
            # Of the former one's remains there are none: the first is of what was copied.
            step.setattr("shutil.rmtree", lambda path, **_: kill(path) if Path(path).exists() else None)
        recovery_fetch.place(directory, "n8n-home", target)
    if made_again:
        target.mkdir(exist_ok=True)
    recovery_fetch.place(directory, "n8n-home", target)
    assert (target / "deep/file").read_text() == "content"
    assert os.listdir(recovery_fetch.former(target)) == ["old"]
    recovery_fetch.put_back(directory, "n8n-home", target)
    assert os.listdir(target) == ["old"]


def test_what_a_restore_has_replaced_goes_with_the_next_good_set(tmp_path: Path) -> None:
    target = tmp_path / "n8n-home"
    item = BackupDirectory({"name": "n8n-home", "path": str(target)})
    assert item.completed(None) == []  # type: ignore[arg-type]
    recovery_fetch.former(target).mkdir()
    (said,) = item.completed(None)  # type: ignore[arg-type]
    assert "n8n-home.before-restore" in said and not recovery_fetch.former(target).exists()


def test_a_kill_between_the_renames_is_made_good(tmp_path: Path, directory: recovery_fetch.Directory) -> None:
    """The fetched directory is in place, the mark is not there, and what was before still is."""
    fetch(directory, FakeRestic())
    target = tmp_path / "volumes/n8n-home"
    target.parent.mkdir()
    (directory.directories / "n8n-home").rename(target)
    recovery_fetch.place(directory, "n8n-home", target)
    assert (target / "deep/file").exists() and directory.done("placed-n8n-home")


def test_a_directory_from_elsewhere_has_no_place(tmp_path: Path) -> None:
    item = {"name": "etc", "path": "/etc/n8n"}
    with pytest.raises(RecoveryError, match="/etc/n8n lies below none"):
        recovery.target_of(item, source(), tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/src/volumes/n8n-home", "v/n8n-home"),
        ("/src/volumes/./x/../n8n-home", "v/n8n-home"),
        ("/src/volumes/../seal", "d/seal"),
        ("/src/volumes/../../etc", ""),
        ("/src/../etc", ""),
        ("../src/volumes/n8n-home", ""),
    ],
)
def test_a_directory_is_put_below_the_root_that_it_was_below(tmp_path: Path, path: str, target: str) -> None:
    given = item(path=path), source(), tmp_path / "v", tmp_path / "d"
    if target:
        assert recovery.target_of(*given) == tmp_path / target
        return
    with pytest.raises(RecoveryError, match="n8n-home: .* lies below none of volumes_root, data_root"):
        recovery.target_of(*given)


def test_room_is_asked_for_before(tmp_path: Path) -> None:
    huge = manifest(items=[{"name": "db", "kind": "pgbackrest", "bytes": 1 << 60}])
    with pytest.raises(RecoveryError, match="GB are free"):
        recovery_fetch.check_room(huge, tmp_path / "state", tmp_path / "not/there/yet")
    recovery_fetch.check_room(manifest(), tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("disks", "free", "full"),
    [
        ({"state": 1, "volumes": 1}, {"state": 130, "volumes": 130}, "volumes: 0.1 GB"),
        ({"state": 1, "volumes": 1}, {"state": 160, "volumes": 160}, ""),
        # A dump stays where it is fetched; a directory is copied to another disk; a database is written there.
        ({"state": 1, "volumes": 2}, {"state": 40, "volumes": 130}, "state: 0.0 GB"),
        ({"state": 1, "volumes": 2}, {"state": 60, "volumes": 120}, "volumes: 0.1 GB"),
        ({"state": 1, "volumes": 2}, {"state": 60, "volumes": 130}, ""),
    ],
)
def test_each_disk_needs_room_for_what_comes_onto_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disks: dict[str, int], free: dict[str, int], full: str
) -> None:
    sizes = {"pg_dump": 30, "directory": 15, "pgbackrest": 100}
    made = manifest(items=[{"name": kind, "kind": kind, "bytes": n * 10**6} for kind, n in sizes.items()])
    monkeypatch.setattr(recovery_fetch, "_disk", lambda path: disks[path.name])
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[path.name] * 10**6))
    places = [tmp_path / name for name in disks]
    for path in places:
        path.mkdir()
    if not full:
        recovery_fetch.check_room(made, *places)
        return
    with pytest.raises(RecoveryError, match=full):
        recovery_fetch.check_room(made, *places)


def test_the_room_is_that_of_the_database_and_not_of_its_compressed_sets() -> None:
    files = {"name": "n8n-home", "kind": "directory", "bytes": 10}
    common = {"name": "postgres-n8n", "kind": "pgbackrest", "details": {"database_bytes": 5000}}
    made = [{**common, "repository": name, "bytes": 70} for name in ("local", "s3")]
    failed = {**common, "name": "postgres-other", "repository": "local", "bytes": 30, "details": {}}
    wanted = {("n8n-home", "directory"): 10, ("postgres-n8n", "pgbackrest"): 5000}
    assert recovery_fetch.needed_bytes(manifest(items=[files, *made])) == wanted
    wanted |= {("postgres-other", "pgbackrest"): 30}
    assert recovery_fetch.needed_bytes(manifest(items=[files, *made, failed])) == wanted


def test_keys_of_a_running_source_are_copied_for_root_only(
    tmp_path: Path, directory: recovery_fetch.Directory
) -> None:
    roots = {name: str(tmp_path / name) for name in ("data_root", "state_root", "secrets_root")}
    (tmp_path / "secrets_root/n8n-main").mkdir(parents=True)
    (tmp_path / "secrets_root/n8n-main/n8n_encryption_key").write_text(KEY)
    with pytest.raises(RecoveryError, match="backup_restic_password"):
        directory.take_keys(roots)
    (tmp_path / "secrets_root/host").mkdir()
    (tmp_path / "secrets_root/host/backup_restic_password").write_text("p")
    assert directory.take_keys(roots) == ["backup_restic_password"]
    assert (directory.keys / "n8n_encryption_key").stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize(
    ("run", "moment", "says"),
    [
        (
            "20261121T020000Z",
            "2026-11-22T10:00:00+00:00",
            "restore_run: .* of 20261122T020000Z that was begun",
        ),
        ("", "2026-11-22T11:00:00+00:00", r"restore_time: .* to 2026-11-22T10:00:00\+00:00 that was begun"),
        ("", "", "restore_time: .* that was begun"),
    ],
)
def test_what_was_begun_is_not_taken_for_something_else(
    tmp_path: Path, run: str, moment: str, says: str
) -> None:
    begun = recovery_fetch.Directory(tmp_path / "recovery")
    begun.refuse_other("20261121T020000Z", "")
    begun.begin(manifest(), "2026-11-22T10:00:00+00:00")
    begun.refuse_other("", "2026-11-22T10:00:00+00:00")
    with pytest.raises(RecoveryError, match=says):
        begun.refuse_other(run, moment)


def test_what_is_finished_and_half_removed_has_no_way_back(
    directory: recovery_fetch.Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark of what was kept would put it back."""

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.name != "keys" and not ignore_errors:
            raise KeyboardInterrupt

    (directory.keys / "k").parent.mkdir()
    (directory.keys / "k").write_text("")
    directory.mark("kept-redis-queue")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(recovery_fetch.shutil, "rmtree", killed)
        recovery_fetch.finish(directory, tmp_path / "reports", NOW)
    assert directory.run() == "" and not directory.done("kept-redis-queue")
    directory.begin(manifest())
    directory.mark("fetched")
    (directory.keys / "k").parent.mkdir()
    (directory.keys / "k").write_text("")
    recovery_fetch.finish(directory, tmp_path / "reports", NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reports"]


def test_a_changed_manifest_of_the_recovery_is_noticed(directory: recovery_fetch.Directory) -> None:
    path = directory.path / backup_manifest.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "run": "20261101T020000Z"}))
    with pytest.raises(backup_manifest.ManifestError, match="checksum does not fit"):
        directory.run()
