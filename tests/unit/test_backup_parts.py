"""Manifests, locks, state and metrics, the installed archive, and what `info` makes of them; without an engine."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_lock as backup_lock_module
from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import BackupError, Definition, Exit, run_id
from ansible.module_utils.n8n_platform.backup_info import describe, is_this_host, offsite, summary
from ansible.module_utils.n8n_platform.backup_kinds import build, check_items, settle
from ansible.module_utils.n8n_platform.backup_lock import backup_lock, boot_id, refuse_while_working
from ansible.module_utils.n8n_platform.backup_service import Service
from ansible.module_utils.n8n_platform.backup_state import State, metrics
from ansible.module_utils.n8n_platform.file_lock import file_lock

from tests.support.backup_lab import platform_program

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = platform_program()
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def definition(root: Path, **changes: Any) -> Definition:
    values = {
        "environment": "test",
        "project": "n8n-test",
        "timezone": "Europe/Berlin",
        "volumes_root": str(root / "volumes"),
        "secrets_root": str(root / "secrets"),
        "state_root": str(root / "state"),
        "backup_root": str(root / "backups"),
        "images": {"backup": "backup:1"},
        "items": [],
        "retention": {"local_days": 7, "offsite_days": 30, "minimum_sets": 2},
        **changes,
    }
    return Definition(values)


def manifest(moment: datetime, **changes: Any) -> dict[str, Any]:
    run = run_id(moment)
    values = {
        "version": 1,
        "run": run,
        "type": "full",
        "items": [{"name": "files", "kind": "directory", "bytes": 10}],
        "locations": {"local": f"/backups/runs/{run}", "s3": None},
        "pgbackrest": {},
        "problems": [],
    }
    return manifests.seal({**values, **changes})


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = manifest(NOW)
    path = manifests.write(tmp_path, written)
    assert manifests.read(tmp_path, written["run"]) == written
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_run_killed_while_it_writes_its_manifest_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(manifests, "write_file", power_cut)
        manifests.write(tmp_path, manifest(NOW))
    assert manifests.local_sets(tmp_path) == []
    later = manifest(NOW + timedelta(hours=1))
    manifests.write(tmp_path, later)
    manifests.write(tmp_path, later)
    assert [one.run for one in manifests.local_sets(tmp_path) if one.good] == [later["run"]]
    assert [path.name for path in tmp_path.iterdir()] == [later["run"]]


def test_every_flipped_bit_of_a_manifest_is_found() -> None:
    content = manifests.text_of(manifest(NOW)).encode()
    unnoticed = []
    for position in range(len(content)):
        for bit in (0, 5):
            damaged = content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
            try:
                found = manifests.parse(damaged, "x", run_id(NOW))
            except (manifests.ManifestError, UnicodeDecodeError):
                continue
            if found != json.loads(content):
                unnoticed.append(position)
    assert unnoticed == []


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"sha256": "1"}', b'{"sha256": 1, "version": 1}']
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(manifests.ManifestError, match="here"):
        manifests.parse(content, "here")


def test_a_manifest_of_another_run_or_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(manifests.ManifestError, match="manifest of run"):
        manifests.parse(manifests.text_of(manifest(NOW)), "here", "20000101T000000Z")
    with pytest.raises(manifests.ManifestError, match="version 9"):
        manifests.parse(manifests.text_of(manifest(NOW, version=9)), "here")


def test_a_run_without_a_manifest_is_no_backup(tmp_path: Path) -> None:
    manifests.write(tmp_path, manifest(NOW))
    (tmp_path / "20261121T120000Z").mkdir()
    (tmp_path / "not-a-run").mkdir()
    assert [(one.run, one.good) for one in manifests.local_sets(tmp_path)] == [
        ("20261121T120000Z", False),
        (run_id(NOW), True),
    ]


def test_a_second_holder_is_told_who_has_the_lock(tmp_path: Path) -> None:
    with backup_lock(tmp_path, "run full", NOW, "schedule") as former:
        assert former is None
        words = "run full of schedule, process .* since 2026-11-22T12"
        with pytest.raises(BackupError, match=words) as refused, backup_lock(tmp_path, "prune", NOW, "me"):
            pass
        assert refused.value.code == Exit.LOCKED
    with backup_lock(tmp_path, "prune", NOW, "me") as former:
        assert former is None, "who has ended well leaves nothing behind"


@pytest.mark.parametrize(
    "former", ["", '{"pid": 0, "boot_id": "", "since": "", "what": "run full", "by": "a dead one"}']
)
def test_a_holder_that_has_not_said_its_name_yet_is_waited_for(tmp_path: Path, former: str) -> None:
    (tmp_path / "backup.lock").write_text(former)
    name = {"pid": os.getpid(), "boot_id": boot_id(), "since": "now", "what": "run full", "by": "schedule"}
    with file_lock(tmp_path / "backup.lock", patience=0):
        late = threading.Timer(0.3, (tmp_path / "backup.lock").write_text, [json.dumps(name)])
        late.start()
        with (
            pytest.raises(BackupError, match="run full of schedule"),
            backup_lock(tmp_path, "prune", NOW, "me"),
        ):
            pass
        late.join()


def test_a_holder_that_ends_without_a_name_leaves_the_lock_to_who_waits(tmp_path: Path) -> None:
    held = (tmp_path / "backup.lock").open("a+")
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.3, held.close).start()
    with backup_lock(tmp_path, "prune", NOW, "me") as former:
        assert former is None


def test_a_holder_without_a_name_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_lock_module, "_NAME_SECONDS", 0.1)
    words = pytest.raises(BackupError, match="has not said its name yet")
    with file_lock(tmp_path / "backup.lock", patience=0), words as refused:
        refuse_while_working(tmp_path)
    assert refused.value.code == Exit.LOCKED


def test_a_dead_holders_lock_is_free_and_its_words_remain(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal, datetime; from pathlib import Path; import ansible.module_utils as m\n"
        f"m.__path__.append({str(ROOT / 'module_utils')!r})\n"
        "from ansible.module_utils.n8n_platform.backup_lock import backup_lock\n"
        "now = datetime.datetime.now(datetime.timezone.utc)\n"
        "with backup_lock(Path(sys.argv[1]), 'run incr', now, 'cron'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with backup_lock(tmp_path, "run full", NOW, "me") as former:
        assert former and (former["what"], former["by"]) == ("run incr", "cron")


def test_nothing_runs_while_something_is_restored(tmp_path: Path) -> None:
    (tmp_path / "restore.json").write_text('{"by": "ops"}')
    with pytest.raises(BackupError, match=r'"by": "ops"') as refused, backup_lock(tmp_path, "run", NOW):
        pass
    assert refused.value.code == Exit.RESTORING


def test_a_run_that_began_before_a_restore_is_named_to_it(tmp_path: Path) -> None:
    refuse_while_working(tmp_path)
    with backup_lock(tmp_path, "run diff", NOW, "schedule"):
        (tmp_path / "restore.json").write_text("{}")
        with pytest.raises(
            BackupError, match="run diff of schedule, process .* since 2026-11-22T12"
        ) as refused:
            refuse_while_working(tmp_path)
    assert refused.value.code == Exit.LOCKED
    refuse_while_working(tmp_path)


def test_only_what_takes_long_gives_way_to_the_service(tmp_path: Path) -> None:
    class Engine:
        socket = "/run/docker.sock"

        def service(self, project: str, service: str) -> dict[str, Any]:
            return {"Id": f"{project}-{service}", "State": {"Status": "running"}}

    found = Service(definition(tmp_path), NOW).context("full")
    context = replace(found, engine=Engine())
    assert (context.inside("postgres").nice, context.inside("postgres", gives_way=True).nice) == (0, 19)


def test_a_run_knows_the_newest_set_before_it(tmp_path: Path) -> None:
    service = Service(definition(tmp_path), NOW)
    assert service.context("full").newest == ""
    manifests.write(tmp_path / "backups/runs", manifest(NOW - timedelta(hours=2)))
    (tmp_path / "backups/runs" / run_id(NOW - timedelta(hours=1))).mkdir()
    assert service.context("full").newest == run_id(NOW - timedelta(hours=2))


@pytest.mark.parametrize("restoring", [False, True])
def test_the_way_back_of_a_restore_that_is_under_way_stays(tmp_path: Path, restoring: bool) -> None:
    former = tmp_path / "home.before-restore"
    former.mkdir()
    (tmp_path / "state").mkdir()
    if restoring:
        (tmp_path / "state/restore.json").write_text("{}")
    wanted = definition(
        tmp_path, items=[{"name": "home", "kind": "directory", "path": str(tmp_path / "home")}]
    )
    settle(Service(wanted, NOW).context("diff"))
    assert former.exists() is restoring


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"name": "a", "kind": "tape"}], "item a: kind 'tape' is none of"),
        ([{"name": "a", "kind": "keys"}, {"name": "a", "kind": "keys"}], "two are named a"),
        ([{"kind": "keys"}], "one has no name"),
        ([{"name": "a", "kind": "directory"}], "item a: path is missing"),
    ],
)
def test_items_that_make_no_sense_are_refused_by_name(tmp_path: Path, items: list[Any], words: str) -> None:
    with pytest.raises(BackupError, match=words) as refused:
        check_items(definition(tmp_path, items=items))
        build(definition(tmp_path, items=items))
    assert refused.value.code == Exit.USAGE


def test_a_folder_of_bundles_that_is_not_there_is_told_by_its_variable(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    wanted = definition(tmp_path, bundle={"recipients": ["age1"], "destination": str(folder)})
    [told] = [text for text in describe(wanted, NOW)["warnings"] if text.startswith("key bundle")]
    assert (
        told
        == f"key bundle: none (backup_bundle_destination: {folder} is not there; mount it, or make the folder)"
    )
    folder.mkdir()
    assert not [text for text in describe(wanted, NOW)["warnings"] if text.startswith("key bundle")]


def test_an_hourly_run_takes_no_dump(tmp_path: Path) -> None:
    items = [
        {"name": "dump", "kind": "pg_dump", "service": "postgres", "database": "n8n"},
        {"name": "home", "kind": "directory", "path": "/home"},
    ]
    assert [kind for kind, _ in build(definition(tmp_path, items=items), "incr")] == ["directory"]
    assert [kind for kind, _ in build(definition(tmp_path, items=items), "diff")] == ["pg_dump", "directory"]


def test_a_damaged_state_file_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "backup-state.json").write_text("{")
    state = State(tmp_path)
    assert state.values == {}
    state.update(since=NOW.isoformat())
    assert State(tmp_path).since(NOW + timedelta(days=1)) == NOW


def test_metrics_are_in_the_text_format() -> None:
    values = {
        "success": {"local": {"finished": NOW.isoformat(), "bytes": 5}},
        "last_run": {"code": 3, "seconds": 1.5, "finished": NOW.isoformat()},
        "drill": {"finished": NOW.isoformat(), "ok": False},
    }
    lines = metrics(values, 'a"b').splitlines()
    success = 'n8n_platform_backup_last_success_timestamp_seconds{environment="a\\"b",repository="local"}'
    assert f"{success} {NOW.timestamp()}" in lines
    assert 'n8n_platform_backup_last_run_exit_code{environment="a\\"b"} 3' in lines
    assert 'n8n_platform_backup_last_drill_ok{environment="a\\"b"} 0' in lines
    assert all(line.startswith(("# ", "n8n_platform_backup_")) for line in lines)


@pytest.mark.parametrize(
    ("s3", "settings", "expected"),
    [
        ({}, {}, "none"),
        ({"endpoint": "https://object-storage:8333"}, {"external": False}, "local-store"),
        ({"endpoint": "https://127.0.0.1:9000"}, {"external": True}, "local-store"),
        ({"endpoint": "https://localhost:9000"}, {"external": True}, "local-store"),
        ({"endpoint": "https://127.0.0.1:9000"}, {"external": True, "same_host": True}, "off-site"),
        ({"endpoint": "https://192.0.2.7:9000"}, {"external": True}, "off-site"),
    ],
)
def test_a_store_on_this_host_is_no_off_site_copy(
    tmp_path: Path, s3: dict[str, Any], settings: dict[str, Any], expected: str
) -> None:
    assert offsite(definition(tmp_path, s3=s3, offsite=settings), [])["state"] == expected


def test_an_address_that_cannot_be_resolved_is_somebody_elses() -> None:
    assert not is_this_host("no-such-host.invalid")


def test_info_tells_what_there_is_and_what_is_wrong(tmp_path: Path) -> None:
    runs = tmp_path / "backups/runs"
    for days in (9, 3):
        manifests.write(runs, manifest(NOW - timedelta(days=days)))
    (runs / run_id(NOW - timedelta(days=1))).mkdir()
    State(tmp_path / "state").update(
        since=(NOW - timedelta(days=20)).isoformat(), drill={"ok": False, "problem": "x"}
    )
    info = describe(definition(tmp_path, drill_maximum_age_days=8), NOW)
    assert [one["good"] for one in info["sets"]] == [False, True, True]
    assert info["newest"] == {"run": run_id(NOW - timedelta(days=3)), "age_seconds": 3 * 86400}
    assert info["window"]["local"]["from"] == (NOW - timedelta(days=9)).isoformat()
    assert [text.split(":")[0][:24] for text in info["problems"]] == [
        "the newest backup is 72.",
        "the last restore drill f",
        f"set {run_id(NOW - timedelta(days=1))}"[:24],
    ]
    assert "off-site: none" in info["warnings"]
    lines = summary(info)
    assert any(line.startswith("problem: the newest backup") for line in lines)
    listed = [line.split("  ")[-2].strip() for line in lines if line.startswith("  2")]
    assert listed == ["3 d old", "9 d old"]


def test_a_fresh_environment_is_given_its_time(tmp_path: Path) -> None:
    State(tmp_path / "state").update(since=NOW.isoformat())
    wanted = definition(tmp_path, drill_maximum_age_days=8)
    assert describe(wanted, NOW + timedelta(hours=20))["problems"] == []
    assert len(describe(wanted, NOW + timedelta(hours=30))["problems"]) == 1
    assert len(describe(wanted, NOW + timedelta(days=9))["problems"]) == 2


BUCKET = {"endpoint": "https://192.0.2.7:9000", "bucket": "b"}
AWAY = ["postgres-n8n: repository s3: no", "off-site: no"]


@pytest.mark.parametrize(
    ("s3", "sets", "says"),
    [
        # Hours since each set, whether it is in the bucket, and what its manifest says.
        (BUCKET, [(1, True, [])], ""),
        (
            BUCKET,
            [(30, True, []), (25, False, AWAY), (1, False, AWAY)],
            "off-site: no backup has come there for 30.0 h",
        ),
        (BUCKET, [(20, True, []), (1, False, AWAY)], ""),
        (BUCKET, [(30, False, AWAY), (1, False, AWAY)], "for 30.0 h"),
        # The first ones have their time.
        (BUCKET, [(1, False, AWAY)], ""),
        # Those from before there was a bucket are no failures of it.
        (BUCKET, [(50, False, []), (1, False, [])], ""),
        (BUCKET, [(50, False, []), (1, False, AWAY)], ""),
        (BUCKET, [(50, False, []), (27, False, AWAY), (1, False, AWAY)], "for 27.0 h"),
        # Its bundle is something else.
        (BUCKET, [(50, False, ["keys: no"]), (1, False, AWAY)], ""),
        ({}, [(50, False, AWAY), (1, False, AWAY)], ""),
    ],
)
def test_copies_that_do_not_leave_the_host_are_told_like_late_backups(
    tmp_path: Path, s3: dict[str, str], sets: list[tuple[int, bool, list[str]]], says: str
) -> None:
    for hours, there, problems in sets:
        where = {"local": "here", "s3": "s3://b" if there else None}
        written = manifest(NOW - timedelta(hours=hours), locations=where, problems=problems)
        manifests.write(tmp_path / "backups/runs", written)
    found = describe(definition(tmp_path, s3=s3), NOW)["problems"]
    assert len(found) == bool(says) and says in "".join(found)


def test_a_copy_of_long_ago_counts_though_nothing_here_remembers_it(tmp_path: Path) -> None:
    finished = (NOW - timedelta(days=3)).isoformat()
    State(tmp_path / "state").update(success={"s3": {"run": "x", "finished": finished, "bytes": 1}})
    manifests.write(tmp_path / "backups/runs", manifest(NOW - timedelta(hours=1), problems=AWAY))
    [problem] = describe(definition(tmp_path, s3=BUCKET), NOW)["problems"]
    assert "for 72.0 h, backup_maximum_age_hours is 26" in problem


BUNDLE = {"name": "keys", "kind": "keys", "path": "/b", "bytes": 1, "sha256": "0", "details": {}}


@pytest.mark.parametrize(
    ("recipients", "sets", "told"),
    [
        # Hours since each set, whether it has a bundle, and what its manifest says.
        (["age1"], [(2, True, []), (1, False, ["keys: mount it"])], False),
        (["age1"], [(30, True, []), (1, False, ["keys: mount it"])], True),
        (["age1"], [(2, False, ["keys: mount it"]), (1, False, [])], True),
        (["age1"], [(1, False, ["off-site: no"])], False),
        # It was made before anybody wanted one.
        (["age1"], [(1, False, [])], False),
        ([], [(1, False, ["keys: mount it"])], False),
    ],
)
def test_it_is_said_when_no_recent_set_has_a_bundle_of_keys(
    tmp_path: Path, recipients: list[str], sets: list[tuple[int, bool, list[str]]], told: bool
) -> None:
    for hours, has, problems in sets:
        moment, items = NOW - timedelta(hours=hours), [BUNDLE] if has else []
        manifests.write(tmp_path / "backups/runs", manifest(moment, problems=problems, items=items))
    found = describe(definition(tmp_path, bundle={"recipients": recipients}), NOW)["problems"]
    assert found == (["no recent set has a key bundle: mount it"] if told else [])


def test_the_installed_archive_is_the_same_each_time_and_runs_alone(tmp_path: Path) -> None:
    content = PROGRAM.archive("backup_cli")
    assert content == PROGRAM.archive("backup_cli")
    program = tmp_path / "platform-backup"
    program.write_bytes(content)
    done = subprocess.run(
        ["/usr/bin/python3", "-I", program, "info"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == Exit.USAGE
    assert f"definition: {tmp_path}/backup.json cannot be read" in done.stderr
    assert set(PROGRAM.sources("backup_cli")) >= {
        "backup",
        "backup_service",
        "engine",
        "http",
        "restic",
    }
    assert "slots" not in PROGRAM.sources("backup_cli")
