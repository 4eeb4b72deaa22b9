"""The installed command against a real store, Redis and repositories: complete sets, and honest failures."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.backup_manifest import local_sets
from ansible.module_utils.n8n_platform.engine import ENVIRONMENT_LABEL, Engine
from ansible.module_utils.n8n_platform.engine_run import ONESHOT_LABEL, Mount
from ansible.module_utils.n8n_platform.recovery import RecoveryError, Wanted, choose
from ansible.module_utils.n8n_platform.recovery_fetch import Directory, fetch
from ansible.module_utils.n8n_platform.restic import Restic

from tests.support.backup_lab import BackupLab
from tests.support.deployment import wait_until
from tests.support.depth import smoke_and_full

SEED = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
# What a run leaves on its way, by the share of its time that is over: a dump in staging; restic at work; the bundle of
# keys; the manifest, after which what is too old goes.
MARKS = {10: "staging/*.rdb", 50: "restic/locks/*", 90: "keys/*.age", 99: "runs/2*/manifest.json"}
# A smoke run takes one, another one each time.
PERCENT = random.Random(SEED).choice([*MARKS])


@pytest.fixture(scope="module")
def lab(images: dict[str, str]) -> Iterator[BackupLab]:
    # A socket's path must be short.
    with BackupLab(Path("/var/tmp/n8n-test-backup-lab"), images) as found:
        found.redis_cli("MSET", "bull:jobs:1", "a", "bull:jobs:2", "b")
        found.install()
        found.service().initialise()
        yield found


def sets(lab: BackupLab) -> list[str]:
    return [one.run for one in local_sets(lab.backups / "runs") if one.good]


def made(lab: BackupLab, *arguments: str) -> str:
    """A run that has to succeed; its id."""
    done = lab.command(*arguments, "run", "--type", "full")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[0]


def orphans(lab: BackupLab) -> str:
    """Files of the repository that no index names, in restic's words; empty for none."""
    checked = lab.restic("check", "--no-lock")
    assert checked.code == 0, checked.words()
    said = (checked.stdout + checked.stderr).splitlines()
    return "".join(line for line in said if "additional files" in line)


def left_over(lab: BackupLab) -> list[Any]:
    return [
        *Engine().containers({ENVIRONMENT_LABEL: lab.name, ONESHOT_LABEL: "backup"}),
        *(lab.backups / "staging").glob("*"),
        *lab.backups.rglob("*.new"),
    ]


def log(lab: BackupLab) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (lab.state / "backup.log").read_text().splitlines()]


def snapshots(lab: BackupLab) -> set[str]:
    found = json.loads(lab.restic("snapshots", "--json", "--no-lock").stdout)
    return {tag.removeprefix("run=") for one in found for tag in one["tags"]}


def test_a_set_holds_everything_that_was_there(lab: BackupLab, tmp_path: Path) -> None:
    run = made(lab)
    manifest = json.loads((lab.backups / "runs" / run / "manifest.json").read_text())
    items = {item["name"]: item for item in manifest["items"]}
    assert set(items) == {"redis-queue", "openbao", "n8n-home", "traefik-acme", "keys"}
    assert items["redis-queue"]["details"]["keys"] == 2
    assert manifest["versions"] == lab.definition()["versions"]
    assert set(manifest["fingerprints"]) and manifest["started"] < manifest["finished"]
    assert manifest["locations"] == {"local": str(lab.backups / "runs" / run), "s3": None}

    target = tmp_path / "restored"
    target.mkdir()
    snapshot = manifest["restic"]["local"]
    mount = Mount(target, "/restored", False)
    argv = ["restore", "--no-lock", f"{snapshot}:/source", "--target", mount.target]
    restored = lab.restic(*argv, mounts=(mount,), capabilities=("CHOWN", "DAC_OVERRIDE", "FOWNER"))
    assert restored.code == 0, restored.words()
    for folder in (lab.home, lab.certificates):
        for file in filter(Path.is_file, folder.rglob("*")):
            copy = target / folder.name / file.relative_to(folder)
            assert copy.read_bytes() == file.read_bytes()
            assert (copy.stat().st_mode, copy.stat().st_uid) == (file.stat().st_mode, file.stat().st_uid)
    assert (target / "traefik-acme/acme.json").stat().st_mode & 0o777 == 0o600, "it holds private keys"
    for name in ("redis-queue", "openbao"):
        content = (target / "staging" / items[name]["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == items[name]["sha256"]

    bundle_file = Path(items["keys"]["path"])
    assert bundle_file.stat().st_mode & 0o777 == 0o600
    bundle = lab.open_bundle(bundle_file)
    assert bundle["secrets"]["n8n_encryption_key"] == lab.secrets["n8n_encryption_key"]
    assert bundle["files"]["openbao.key"] == (lab.root / "seal/openbao.key").read_text()
    assert bundle["fingerprints"] == manifest["fingerprints"]
    assert left_over(lab) == []


def test_nothing_that_is_written_in_clear_holds_a_secret(lab: BackupLab) -> None:
    record = json.loads((lab.state / "openbao.json").read_text())
    values = [*lab.secrets.values(), record["recovery_key"], record["secret_id"]]
    files = [lab.state / "backup.log", lab.state / "backup-state.json", lab.state / "metrics/backup.prom"]
    files += list(lab.backups.glob("runs/*/manifest.json"))
    assert [path for path in files for value in values if value in path.read_text()] == []


@pytest.mark.full
def test_a_lost_backup_folder_is_made_anew_and_filled(lab: BackupLab) -> None:
    """By what a site run does, and the next full set; nothing of the former ones is missed."""
    lost = lab.root / "lost"
    lab.backups.rename(lost)
    try:
        lab.service().initialise()
        run = made(lab)
        assert sets(lab) == [run] and snapshots(lab) == {run}
        assert orphans(lab) == "" and left_over(lab) == []
    finally:
        shutil.rmtree(lab.backups)
        lost.rename(lab.backups)


def test_of_ten_starters_one_works_and_the_others_name_it(lab: BackupLab) -> None:
    before = sets(lab)
    with ThreadPoolExecutor(10) as pool:
        done = list(
            pool.map(lambda n: lab.command("--by", f"starter-{n}", "run", "--type", "full"), range(10))
        )
    assert sorted(each.returncode for each in done) == [0, *[int(Exit.LOCKED)] * 9]
    winner = next(n for n, each in enumerate(done) if each.returncode == 0)
    for each in done:
        if each.returncode:
            assert f"run full of starter-{winner}, process " in each.stderr, each.stderr
    assert len(sets(lab)) == len(before) + 1


@pytest.mark.parametrize("percent", smoke_and_full(MARKS, [PERCENT]))
def test_a_killed_run_loses_nothing_and_the_next_one_is_clean(lab: BackupLab, percent: int) -> None:
    before, there = sets(lab), {*lab.backups.glob(MARKS[percent])}
    process = subprocess.Popen([lab.program, "run", "--type", "full"], stdout=subprocess.DEVNULL)
    wait_until(lambda: {*lab.backups.glob(MARKS[percent])} - there, MARKS[percent], 60, every=0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    # One that is killed when its manifest is there has made a set; at 90 it may be a moment from it.
    more = {10: {0}, 50: {0}, 90: {0, 1}, 99: {1}}[percent]
    assert len(sets(lab)) - len(before) in more and {*before} <= {*sets(lab)}

    run = made(lab)
    assert left_over(lab) == []
    assert run in sets(lab)
    # What the killed one has left in the repository is gone, and nothing else.
    assert snapshots(lab) == set(sets(lab)) and orphans(lab) == ""
    checked = lab.command("verify", "--full")
    assert checked.returncode == 0, checked.stdout


def test_what_a_run_without_a_manifest_has_left_goes_at_the_next_pruning(lab: BackupLab) -> None:
    made(lab)
    before = sets(lab)
    run = made(lab)
    shutil.rmtree(lab.backups / "runs" / run)
    assert run in snapshots(lab)
    listed = lab.command("prune", "--dry-run").stdout
    assert listed == lab.command("prune").stdout
    assert "its run has no manifest" in listed
    assert snapshots(lab) == set(sets(lab)) == set(before)
    assert not list(lab.backups.glob(f"keys/*{run}*"))


def test_an_interrupted_run_tidies_up_and_says_so(lab: BackupLab) -> None:
    process = subprocess.Popen([lab.program, "run", "--type", "full"])
    deadline = time.monotonic() + 60
    while not list((lab.backups / "staging").glob("*.rdb")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == Exit.INTERRUPTED
    assert left_over(lab) == []
    assert json.loads((lab.state / "backup-state.json").read_text())["last_run"]["code"] == Exit.INTERRUPTED
    made(lab)


def test_a_bundle_that_its_folder_does_not_take_costs_no_set_and_is_said(lab: BackupLab) -> None:
    gone = lab.root / "mount/bundles"
    lab.write_definition(bundle={"recipients": [lab.recipient], "destination": str(gone)})
    before, done = sets(lab), lab.command("run", "--type", "incr")
    lab.write_definition()
    assert done.returncode == Exit.NOT_OFFSITE, done.stderr
    assert f"keys: backup_bundle_destination: {gone} is not there" in done.stdout
    assert len(sets(lab)) == len(before) + 1 and not gone.parent.exists()


def test_no_run_begins_while_something_is_restored(lab: BackupLab) -> None:
    marker = lab.state / "restore.json"
    marker.write_text('{"what": "in place"}')
    done = lab.command("run", "--type", "incr")
    marker.unlink()
    assert done.returncode == Exit.RESTORING
    assert "a restore is in progress" in done.stderr


def test_too_little_space_is_said_before_anything_is_written(lab: BackupLab) -> None:
    before = sets(lab)
    with small_disk(lab, 200):
        done = lab.command("run", "--type", "full")
        assert done.returncode == Exit.NO_SPACE
        words = done.stderr.split()
        assert str(lab.backups) in words
        free, needed = (int(word) for word in done.stderr.replace(";", "").split() if word.isdigit())
        assert free < needed
        assert "keys" not in os.listdir(lab.backups)
    assert sets(lab) == before


def test_a_disk_that_fills_up_meanwhile_loses_no_older_set(lab: BackupLab) -> None:
    with small_disk(lab, 400, copy=True):
        before = sets(lab)
        filler = lab.backups / "filler"

        def fill(text: str) -> None:
            if text == "snapshot":
                (lab.home / "nodes/more.bin").write_bytes(os.urandom(4 << 20))
                free = shutil.disk_usage(lab.backups).free
                with filler.open("wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, free - (1 << 20))

        service = lab.service()
        service._say = fill
        with pytest.raises(BackupError, match="no space left"):
            service.run("full")
        filler.unlink()
        assert sets(lab) == before
        assert left_over(lab) == []
        made(lab)
        assert snapshots(lab) == set(sets(lab))
        assert orphans(lab) == ""
        assert lab.command("verify", "--full").returncode == 0


def test_one_flipped_byte_is_found_and_never_restored(lab: BackupLab, tmp_path: Path) -> None:
    # What is new in the repository after a run is of its snapshot, whatever other runs have left there.
    before = packs(lab)
    (lab.home / "nodes/fresh.bin").write_bytes(os.urandom(1 << 20))
    # The bundle is one of a set whose manifest is whole: only such a manifest says what it has to be.
    whole = json.loads((lab.backups / "runs" / made(lab) / "manifest.json").read_text())
    bundle = next(Path(item["path"]) for item in whole["items"] if item["kind"] == "keys")
    pack = max(packs(lab) - before, key=lambda file: file.stat().st_size)
    damaged = made(lab)
    with flipped_bytes([lab.backups / "runs" / damaged / "manifest.json", bundle, pack]):
        done = lab.command("verify", "--full")
        assert done.returncode == Exit.DAMAGED, done.stdout
        for name in (damaged, bundle.name, pack.name[:8]):
            assert name in done.stdout, done.stdout
        assert verified(lab) == "0"
        found = local_sets(lab.backups / "runs")
        with pytest.raises(RecoveryError, match=f"{damaged} is no backup") as refused:
            choose(found, Wanted(lab.name, run=damaged))
        assert refused.value.code == Exit.DAMAGED
        manifest, passed = choose(found, Wanted(lab.name))
        assert manifest == whole and [text.split(":")[0] for text in passed] == [damaged]
        context = lab.service().context("full")
        recovery = Directory(tmp_path / "recovery")
        with pytest.raises(BackupError, match="restic restore"):
            fetch(recovery, Restic(context.definition, context.oneshots, read_only=True), manifest, 120)
        assert not recovery.staging.exists() and not recovery.done("fetched")
    assert lab.command("verify", "--full").returncode == 0
    assert verified(lab) == "1"


def packs(lab: BackupLab) -> set[Path]:
    return {*lab.backups.glob("restic/data/*/*")}


def verified(lab: BackupLab) -> str:
    """The metric that tells whether the last verification found nothing."""
    lines = (lab.state / "metrics/backup.prom").read_text().splitlines()
    return next(line for line in lines if line.startswith("n8n_platform_backup_last_verified_ok{")).split()[
        -1
    ]


@contextmanager
def flipped_bytes(paths: Iterable[Path]) -> Iterator[None]:
    intact = {path: (path.read_bytes(), path.stat().st_mode) for path in paths}
    for path, (content, _) in intact.items():
        path.chmod(0o600)
        path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    try:
        yield
    finally:
        for path, (content, mode) in intact.items():
            path.write_bytes(content)
            path.chmod(mode)


def test_the_log_is_one_object_a_line_and_names_the_runs_that_failed(lab: BackupLab) -> None:
    aside = lab.home.rename(lab.home.with_name("aside"))
    assert lab.command("run", "--type", "incr").returncode == Exit.FAILED
    aside.rename(lab.home)
    entries = log(lab)
    assert all({"time", "level", "run", "event"} <= set(entry) for entry in entries)
    assert {entry["level"] for entry in entries} <= {"info", "warning", "error"}
    assert [datetime.fromisoformat(entry["time"]).tzinfo for entry in entries].count(None) == 0
    failed = [entry for entry in entries if entry["event"] == "run failed"][-1]
    assert (failed["level"], failed["code"]) == ("error", int(Exit.FAILED)) and "n8n-home" in failed[
        "problem"
    ]
    finished = {entry["run"] for entry in entries if entry["event"] == "run finished"}
    assert sets(lab)[-1] in finished and failed["run"] not in finished


def test_another_password_is_refused_before_anything_is_written(lab: BackupLab) -> None:
    file = lab.root / "secrets/host/backup_restic_password"
    right = file.read_text()
    before = sorted(str(path) for path in lab.backups.rglob("*"))
    for wrong, words in (("not it", "backup_restic_password"), (None, "backup_restic_password")):
        file.unlink() if wrong is None else file.write_text(wrong)
        done = lab.command("run", "--type", "full")
        assert done.returncode == Exit.WRONG_KEY, done.stderr
        assert words in done.stderr
    file.write_text(right)
    assert sorted(str(path) for path in lab.backups.rglob("*")) == before


def test_a_key_that_is_not_the_stores_is_refused(lab: BackupLab) -> None:
    file = lab.root / "secrets/n8n-main/n8n_encryption_key"
    right = file.read_text()
    file.write_text("another key")
    done = lab.command("run", "--type", "full")
    file.write_text(right)
    assert done.returncode == Exit.WRONG_KEY
    assert f"{file} is not the n8n_encryption_key of the secret store" in done.stderr


def test_a_missing_directory_is_no_backup_of_nothing(lab: BackupLab) -> None:
    before = sets(lab)
    aside = lab.home.rename(lab.home.with_name("aside"))
    done = lab.command("run", "--type", "incr")
    aside.rename(lab.home)
    assert done.returncode == Exit.FAILED
    assert f"n8n-home: {lab.home} is not there" in done.stderr
    assert sets(lab) == before


def test_an_unknown_kind_is_refused_by_name(lab: BackupLab) -> None:
    definition = lab.definition()
    definition["items"].append({"name": "tape", "kind": "tape_robot"})
    path = lab.root / "other.json"
    path.write_text(json.dumps(definition))
    done = lab.command("--definition", str(path), "run", "--type", "full")
    assert done.returncode == Exit.USAGE
    assert "item tape: kind 'tape_robot' is none of" in done.stderr


def test_a_redis_that_does_not_save_in_time_fails_the_run(lab: BackupLab) -> None:
    # Microseconds for each of two keys.
    lab.redis_cli("CONFIG", "SET", "rdb-key-save-delay", "4000000")
    service = lab.service(timeouts={"default": 300, "redis_rdb": 3})
    with pytest.raises(BackupError, match="BGSAVE was not done within its time limit of 3 s"):
        service.run("incr")
    lab.redis_cli("CONFIG", "SET", "rdb-key-save-delay", "0")
    assert "n8n_platform_backup_last_run_exit_code" in (lab.state / "metrics/backup.prom").read_text()
    made(lab)


def small_disk(lab: BackupLab, megabytes: int, copy: bool = False) -> Any:
    """The backups on a file system of their own of this size; with `copy` those that are there go along."""
    return _SmallDisk(lab, megabytes, copy)


class _SmallDisk:
    def __init__(self, lab: BackupLab, megabytes: int, copy: bool) -> None:
        self.lab, self.megabytes, self.copy = lab, megabytes, copy
        self.aside = lab.backups.with_name("backups-aside")

    def __enter__(self) -> None:
        backups = self.lab.backups
        backups.rename(self.aside)
        backups.mkdir()
        size = f"size={self.megabytes}m,mode=0711"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", backups], check=True)
        parts = ["restic", "runs", "keys", "staging"] if self.copy else ["restic"]
        for name in parts:
            if (self.aside / name).exists():
                shutil.copytree(self.aside / name, backups / name)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.lab.backups], check=True)
        self.lab.backups.rmdir()
        self.aside.rename(self.lab.backups)
