"""Postgres with pgBackRest and both repositories for real: sets, moments, damage, kills, keys, a bucket that fails."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_service, pgbackrest, postgres_generations
from ansible.module_utils.n8n_platform.backup import BackupError, Exit
from ansible.module_utils.n8n_platform.backup_info import describe
from ansible.module_utils.n8n_platform.backup_service import Service
from ansible.module_utils.n8n_platform.backup_watch import watch
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.postgres_recovery import Recovery, undo_branch
from botocore.exceptions import ClientError

from tests.support.deployment import wait_until
from tests.support.depth import smoke_and_full
from tests.support.postgres_lab import ITEM, PostgresLab
from tests.support.s3 import S3Store
from tests.support.s3_faults import Fault, FaultProxy

SEED = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
MOMENTS = 10 if os.environ.get("TEST_NIGHTLY") else 2
FAULT_SECONDS = 60
# Less than a step's limit in the lab: it ends by itself.
RESTORE_FAULT_SECONDS = 290
FAULTS = {
    "500": Fault("status", 500),
    "403": Fault("status", 403),
    "503": Fault("status", 503),
    "200": Fault("error200"),
    "stall": Fault("stall"),
    "reset": Fault("reset"),
}
# Of each list a smoke run takes one, another one each time.
FAULT = random.Random(SEED).choice([name for name in FAULTS if name != "403"])
RESTORE_FAULT = random.Random(SEED).choice(["500", "stall", "reset"])
PERCENT = random.Random(SEED).choice([10, 50, 90, 99])


@pytest.fixture(scope="module")
def proxy(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A bucket behind a proxy that can fail."""
    with S3Store(
        tmp_path_factory.mktemp("s3"), images["object_storage"], name="n8n-test-postgres-s3"
    ) as store:
        files = store.directory / "secrets"
        pair = files / "object_storage_tls.crt", files / "object_storage_tls.key"
        with FaultProxy(store.endpoint, store.ca_file, *pair, address=store.host) as found:
            found.store, found.images = store, images  # type: ignore[attr-defined]
            yield found


@pytest.fixture(scope="module")
def lab(proxy: Any) -> Iterator[PostgresLab]:
    variables = {"platform_s3_endpoint": proxy.endpoint, "postgres_archive_queue_max_mb": 64}
    found = PostgresLab(Path("/var/tmp/n8n-test-pg"), "test-pg", proxy.images, proxy.store, variables)
    try:
        found.create()
        found.sql("INSERT INTO rows (id, filling) SELECT i, md5(i::text) FROM generate_series(1, 2000) i")
        found.back_up("full")
        yield found
    finally:
        found.remove()


@pytest.fixture(autouse=True)
def _healthy(proxy: FaultProxy) -> Iterator[None]:
    yield
    proxy.fault = None


def moment(lab: PostgresLab) -> datetime:
    text = lab.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')")
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ids(lab: PostgresLab) -> list[int]:
    return [int(line) for line in lab.sql("SELECT id FROM rows ORDER BY id").split()]


def labels(lab: PostgresLab) -> dict[str, list[str]]:
    found = ITEM.repositories(lab.context())
    return {name: [backup.label for backup in repository.backups] for name, repository in found.items()}


def flip(path: Path, at: float = 0.5) -> None:
    """One bit of one byte."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def listing(volume: Path) -> list[str]:
    return sorted(path.name for path in volume.iterdir()) + sorted(
        path.name for path in (volume / "17").iterdir()
    )


def test_each_repository_gets_sets_of_its_own_and_is_sound(lab: PostgresLab) -> None:
    made = lab.back_up("incr")
    assert {name: artefact["details"]["type"] for name, artefact in made.items()} == {
        "local": "incr",
        "s3": "incr",
    }
    assert made["local"]["details"]["references"] and made["local"]["details"]["wal_start"]
    daily = lab.back_up("diff")
    fulls = {name: sets[0] for name, sets in labels(lab).items()}
    for name, artefact in daily.items():
        assert artefact["details"]["type"] == "diff"
        # On the full set alone, whatever came between.
        assert artefact["details"]["references"] == [fulls[name]]
    lab.switch_wal()
    assert ITEM.verify(lab.context()) == []
    state = ITEM.status(lab.context())
    assert state["waiting"] == 0 and [found["wal_gaps"] for found in state["repositories"].values()] == [
        [],
        [],
    ]


def test_rows_deleted_at_a_moment_are_there_a_second_before_it(lab: PostgresLab) -> None:
    print(f"TEST_SEED={SEED}")
    choice = random.Random(SEED)
    history = []
    for number in range(MOMENTS + 1):
        first = 10_000 * (number + 1)
        lab.sql(f"INSERT INTO rows (id) SELECT generate_series({first}, {first + choice.randrange(1, 50)})")
        time.sleep(choice.uniform(1.1, 2.5))
        before, deleted_at = ids(lab), moment(lab)
        lab.sql(f"DELETE FROM rows WHERE id % {choice.randrange(2, 5)} = 0")
        history.append((deleted_at - timedelta(seconds=1), before))
    lab.switch_wal()
    for target, expected in choice.sample(history, MOMENTS):
        repository = choice.choice(["local", "s3"])
        # What came after the moment lies on the timeline from before the restore.
        done = lab.restore(time=target, repository=repository, timeline="1")
        assert ids(lab) == expected, (target, repository, done)
        assert lab.volume.joinpath("current").read_text().strip() == done["generation"] != done["previous"]
    lab.switch_wal()
    lab.back_up("full")


def test_the_newest_state_is_restored_and_the_former_one_kept_until_it_is_discarded(lab: PostgresLab) -> None:
    lab.sql("INSERT INTO rows (id) VALUES (777777)")
    lab.switch_wal()
    expected = ids(lab)
    done = lab.restore(repository="s3")
    assert ids(lab) == expected
    former = postgres_generations.former_generations(lab.volume)
    assert str(lab.volume / done["previous"]) in map(str, former)
    lab.sql("INSERT INTO rows (id) VALUES (888888)")
    lab.switch_wal()
    lab.compose("stop")
    # The way back. The newest state is then its, not that of the restored data, which are in the archive, too.
    postgres_generations.write_current(lab.volume, done["previous"])
    assert lab.recovery().branch_off(done["previous"]) > done["timeline"]
    lab.start()
    assert ids(lab) == expected
    lab.sql("INSERT INTO rows (id) VALUES (999999)")
    lab.switch_wal()
    lab.restore()
    assert ids(lab) == [*expected, 999999]
    current = lab.volume / (lab.volume / "current").read_text().strip()
    assert postgres_generations.former_generations(lab.volume)
    # What the run does after a good set.
    lab.back_up("full")
    assert ITEM.completed(lab.context())
    assert postgres_generations.former_generations(lab.volume) == [] == ITEM.completed(lab.context())
    assert (current / "PG_VERSION").exists() and ids(lab) == [*expected, 999999]


def test_what_a_restore_has_left_is_reached_by_its_timeline_only(lab: PostgresLab) -> None:
    left = lab.sql("SELECT timeline_id FROM pg_control_checkpoint()")
    lab.sql("TRUNCATE rows; INSERT INTO rows (id) VALUES (1)")
    lab.back_up("incr")
    first = moment(lab)
    lab.sql("INSERT INTO rows (id) VALUES (2)")
    between = moment(lab)
    lab.sql("INSERT INTO rows (id) VALUES (3)")
    abandoned = lab.back_up("incr")["local"]["label"]
    lab.switch_wal()
    lab.restore(time=first)
    assert ids(lab) == [1]
    lab.sql("INSERT INTO rows (id) VALUES (4)")
    lab.switch_wal()
    for repository in ("local", "s3"):
        with pytest.raises(BackupError, match=f"restore_timeline={left},"):
            lab.recovery(time=between, repository=repository).prepare()
    # The newest set is one of the other history.
    assert labels(lab)["local"][-1] == abandoned != lab.restore()["label"]
    assert ids(lab) == [1, 4]
    with pytest.raises(BackupError, match=f"restore_timeline={left},"):
        lab.recovery(time=between).choose()
    assert postgres_generations.timeline(lab.volume / lab.volume.joinpath("current").read_text().strip()) > 2
    lab.restore(time=between, timeline=left)
    assert ids(lab) == [1, 2]
    lab.switch_wal()
    lab.restore(timeline=left)
    assert ids(lab) == [1, 2, 3]
    lab.switch_wal()
    lab.back_up("full")


def test_going_back_does_not_depend_on_the_bucket_and_a_killed_way_back_is_undone(
    lab: PostgresLab, proxy: FaultProxy
) -> None:
    lab.switch_wal()
    expected, done = ids(lab), lab.restore(repository="s3")
    previous = done["previous"]
    lab.compose("stop")
    postgres_generations.write_current(lab.volume, previous)
    proxy.fault = Fault("status", 500)
    with pytest.raises(BackupError):
        lab.recovery(repository="s3").branch_off(previous)
    lab.start()
    assert ids(lab) == expected
    proxy.fault = None
    # The archive's newest timeline is that of the restored data, which nobody uses.
    used, made = postgres_generations.timeline(lab.volume / previous), lab.back_up("incr")
    with pytest.raises(BackupError, match=f"restore_timeline={used},"):
        lab.recovery().choose()
    assert lab.recovery(timeline=str(used)).choose()[0].label == made["local"]["label"]
    lab.compose("stop")

    proxy.fault = Fault("stall")
    recovery = lab.recovery(repository="s3")
    run = multiprocessing.get_context("fork").Process(target=recovery.branch_off, args=(previous,))
    run.start()
    wait_until((lab.volume / previous / "postmaster.pid").exists, "a recovery that waits", 60, every=0.05)
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    assert recovery._oneshots.remove_left_over() and (lab.volume / previous / "recovery.signal").exists()
    undo_branch(lab.volume, previous)
    proxy.fault = None
    lab.start()
    assert ids(lab) == expected
    lab.compose("stop")
    assert lab.recovery(repository="s3").branch_off(previous) > done["timeline"]
    lab.start()
    assert ids(lab) == expected
    lab.switch_wal()
    assert lab.recovery().choose()[0].label == made["local"]["label"]


@pytest.mark.parametrize("file", ["data", "wal"])
def test_a_flipped_byte_is_found_and_never_restored(lab: PostgresLab, tmp_path: Path, file: str) -> None:
    newest = ITEM.repositories(lab.context())["local"].backups[-1]
    patterns = {
        "data": f"backup/n8n/{newest.label}/bundle/1",
        "wal": f"archive/n8n/*/*/{newest.wal_stop}-*",
    }
    path = next((lab.backups / "pgbackrest").glob(patterns[file]))
    intact = path.read_bytes()
    flip(path)
    try:
        assert ITEM.verify(lab.context(s3=None)) != []
        assert ITEM.verify(lab.context(s3=None), everything=False) != [], "it is of the newest set"
        with pytest.raises(BackupError) as refused:
            lab.recovery(label=newest.label, configuration=hasty(lab, tmp_path)).prepare()
        # Which of them says so first depends on the byte: the checksum, or the decompression.
        assert [w for w in ("checksum", "corruption", newest.wal_stop) if w in str(refused.value)]
    finally:
        path.write_bytes(intact)
        lab.recovery().discard_staged()


def test_flipped_bytes_in_what_says_what_there_is_are_found_and_cost_nothing(lab: PostgresLab) -> None:
    repository, label = lab.backups / "pgbackrest", labels(lab)["local"][-1]
    names = (f"backup/n8n/{label}/backup.manifest", "backup/n8n/backup.info", "archive/n8n/archive.info")
    intact, expected = {name: (repository / name).read_bytes() for name in names}, ids(lab)
    lab.sql("INSERT INTO rows (id) VALUES (654321)")
    lab.switch_wal()
    for name in names:
        flip(repository / name)
    try:
        found = ITEM.verify(lab.context(s3=None))
        assert [name for name in names if name in str(found)] == list(names), found
        # pgBackRest has a second copy of each, which is whole. Of a run's set, what came after it is not wanted.
        lab.restore(label=label, at_set=True)
        assert ids(lab) == expected
    finally:
        for name, content in intact.items():
            (repository / name).write_bytes(content)


@pytest.mark.parametrize("file", smoke_and_full(["data", "wal", "manifest", "info"], ["data"]))
def test_a_flipped_byte_in_the_bucket_is_found_never_restored_and_the_local_set_stays_good(
    lab: PostgresLab, proxy: Any, tmp_path: Path, file: str
) -> None:
    store, repository = proxy.store, ITEM.repository(lab.context(), "s3")
    newest = repository.backups[-1]
    set_, segments = (
        f"backup/n8n/{newest.label}",
        f"archive/n8n/{repository.archive_id}/{newest.wal_stop[:16]}",
    )
    prefix = {
        "data": f"{set_}/bundle/",
        "wal": f"{segments}/{newest.wal_stop}-",
        "manifest": f"{set_}/backup.manifest",
        "info": "backup/n8n/backup.info",
    }[file]
    listed = store.client().list_objects_v2(Bucket=store.bucket, Prefix=f"{lab.name}/pgbackrest/{prefix}")
    place = {"Bucket": store.bucket, "Key": listed["Contents"][0]["Key"]}
    content = store.client().get_object(**place)["Body"].read()
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    store.client().put_object(**place, Body=bytes(flipped))
    try:
        found = ITEM.verify(lab.context(), everything=False)
        assert found and not [text for text in found if not text.startswith(f"{ITEM.name}: s3: ")], found
        # Of a file that says what there is pgBackRest has a second copy, and takes it.
        if file in ("data", "wal"):
            configuration = hasty(lab, tmp_path)
            with pytest.raises(BackupError):
                lab.recovery(repository="s3", label=newest.label, configuration=configuration).prepare()
    finally:
        store.client().put_object(**place, Body=content)
        lab.recovery().discard_staged()
    assert ITEM.verify(lab.context(), everything=False) == []


def hasty(lab: PostgresLab, folder: Path) -> Path:
    """The server's configuration, without a quarter of a minute between two attempts to read what is damaged."""
    text = (lab.secrets / "pgbackrest_n8n").read_text()
    path = folder / "pgbackrest.conf"
    path.write_text(text.replace("[global]\n", "[global]\njob-retry-interval=1\n"))
    assert path.read_text() != text
    return path


# Where pgBackRest itself is killed, and not only who has called it.
WITH_PGBACKREST = (50, 99)


@pytest.mark.parametrize("percent", smoke_and_full([10, 50, 90, 99], [PERCENT]))
def test_a_killed_backup_leaves_earlier_sets_whole_and_the_next_run_clean(
    lab: PostgresLab, percent: int
) -> None:
    lab.sql(
        "CREATE TABLE IF NOT EXISTS heavy AS SELECT i, md5(random()::text) FROM generate_series(1, 300000) i"
    )
    before = labels(lab)
    state = Engine().inspect(lab.container)["State"]
    lock = Path(f"/proc/{state['Pid']}/root/tmp/pgbackrest/n8n-backup-1.lock")

    def reached() -> bool:
        try:
            return int(json.loads(lock.read_text()).get("pctCplt", 0)) >= percent * 100
        except (OSError, ValueError):
            return False

    run = multiprocessing.get_context("fork").Process(target=lab.back_up, args=("full",))
    docker_update(lab, "0.6")
    try:
        run.start()
        wait_until(reached, f"{percent} % of a backup", 90, every=0.05)
        assert run.is_alive()
        os.kill(run.pid or 0, signal.SIGKILL)
        if percent in WITH_PGBACKREST:
            pids = pgbackrests(lab)
            assert pids or not lock.exists(), "nothing to kill"
            for pid in pids:
                # With the first of them the others end by themselves.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    finally:
        run.join()
        docker_update(lab, "2")
    # What the killed run has left works on where it was not killed, too; it may have been that near its end.
    ended = not lock.exists()
    assert not ended or percent >= 90, "the killed run has left no pgBackRest behind"
    made = lab.back_up("incr")
    assert [artefact.get("error") for artefact in made.values()] == [None, None]
    after = labels(lab)
    assert {name: found[: len(before[name])] for name, found in after.items()} == before
    assert [len(after[name]) - len(before[name]) for name in after] == [2 if ended else 1, 1]
    assert ITEM.verify(lab.context()) == []


def pgbackrests(lab: PostgresLab) -> list[int]:
    """Of the backup, by their ids on this host."""
    argv = ["docker", "top", lab.container, "-eo", "pid,args"]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if " backup" in line and "pgbackrest" in line.split()[1]]


def docker_update(lab: PostgresLab, cpus: str) -> None:
    subprocess.run(["docker", "update", "--cpus", cpus, lab.container], check=True, capture_output=True)


@pytest.mark.parametrize("key", ["wrong", "missing", "truncated"])
def test_another_key_is_refused_before_anything_is_written(
    lab: PostgresLab, tmp_path: Path, key: str
) -> None:
    text = (lab.secrets / "pgbackrest_n8n").read_text()
    other = {"wrong": "0" * 64, "truncated": lab.cipher[:-1]}
    changed = (
        text.replace(f"-pass={lab.cipher}", f"-pass={other[key]}") if key in other else without_cipher(text)
    )
    configuration = tmp_path / "pgbackrest.conf"
    configuration.write_text(changed)
    before = listing(lab.volume)
    for repository in ("local", "s3"):
        with pytest.raises(BackupError) as refused:
            lab.recovery(configuration=configuration, repository=repository).prepare()
        assert refused.value.code == Exit.WRONG_KEY, refused.value
        assert lab.cipher not in str(refused.value)
    assert listing(lab.volume) == before


def without_cipher(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "cipher" not in line)


def test_another_major_version_too_little_room_and_an_early_moment_are_refused(
    lab: PostgresLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(lab.volume)
    with pytest.raises(BackupError, match="major version 17, this platform's is 16"):
        lab.recovery(major="16").prepare()
    with pytest.raises(BackupError, match="before the end of the oldest set"):
        lab.recovery(time=datetime(2020, 1, 1, tzinfo=UTC)).prepare()
    usage = shutil.disk_usage(lab.volume)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(BackupError, match="MiB free") as refused:
        lab.recovery().prepare()
    assert refused.value.code == Exit.NO_SPACE and listing(lab.volume) == before


def test_a_restore_killed_at_any_step_leaves_the_old_state_and_can_be_repeated(lab: PostgresLab) -> None:
    lab.switch_wal()
    expected, current = ids(lab), (lab.volume / "current").read_text()
    run = multiprocessing.get_context("fork").Process(target=Recovery.prepare, args=(lab.recovery(),))
    run.start()
    wait_until((lab.volume / "17/.new.restore/PG_VERSION").exists, "a restore that writes", 60, every=0.02)
    os.kill(run.pid or 0, signal.SIGKILL)
    run.join()
    assert (lab.volume / "current").read_text() == current and ids(lab) == expected
    recovery = lab.recovery()
    recovery._oneshots.remove_left_over()
    recovery.prepare()
    plan = recovery.plan_switch()
    lab.compose("stop")
    # Killed between the rename and the change of `current`.
    (lab.volume / "17/.new.restore").rename(lab.volume / plan["generation"])
    lab.start()
    assert (lab.volume / "current").read_text() == current and ids(lab) == expected
    lab.compose("stop")
    recovery.switch(plan["generation"])
    lab.start()
    assert (lab.volume / "current").read_text().strip() == plan["generation"] and ids(lab) == expected


@pytest.mark.parametrize("fault", smoke_and_full(FAULTS, ["403", FAULT]))
def test_a_failing_bucket_costs_the_offsite_set_only_and_ends_in_time(
    lab: PostgresLab, proxy: FaultProxy, fault: str
) -> None:
    before = labels(lab)
    proxy.fault = FAULTS[fault]
    started = time.monotonic()
    made = lab.back_up("incr", timeouts={"default": FAULT_SECONDS})
    took = time.monotonic() - started
    proxy.fault = None
    assert made["local"]["label"] and "error" not in made["local"]
    assert made["s3"]["error"] and "label" not in made["s3"]
    assert "authorization" not in made["s3"]["error"]
    # The limit is that of one step; the local set has its own.
    assert took < 1.1 * FAULT_SECONDS + 20, took
    lab.switch_wal()
    assert labels(lab)["s3"] == before["s3"]


@pytest.mark.parametrize("fault", smoke_and_full(["500", "stall", "reset"], [RESTORE_FAULT]))
def test_a_bucket_that_fails_in_the_middle_of_a_restore_ends_it_in_time_and_costs_nothing(
    lab: PostgresLab, proxy: FaultProxy, fault: str
) -> None:
    before, expected = listing(lab.volume), ids(lab)
    # What there is is listed; its files do not come.
    proxy.fault = replace(FAULTS[fault], path="/bundle/")
    started = time.monotonic()
    with pytest.raises(BackupError) as failed:
        lab.recovery(repository="s3").prepare()
    took = time.monotonic() - started
    proxy.fault = None
    assert took < RESTORE_FAULT_SECONDS, failed.value
    assert "pgBackRest restore" in str(failed.value) and "authorization" not in str(failed.value)
    assert ids(lab) == expected
    repeated = lab.recovery(repository="s3")
    repeated.prepare()
    repeated.discard_staged()
    assert listing(lab.volume) == before


def test_wal_beyond_the_limit_is_dropped_shown_as_a_gap_and_answered_by_a_full_set(
    lab: PostgresLab, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        backup_service, "notify", lambda _definition, *words: told.append(": ".join(words)) or []
    )
    made = lab.back_up("full")["s3"]["details"]
    service = Service(lab.context().definition)
    assert service.watch().problems == told == []
    service.state.update(window={"s3": "2026-01-01T00:00:00+00:00"})
    proxy.fault = Fault("status", 500)

    def write(segments: int) -> None:
        for _ in range(segments):
            lab.sql("INSERT INTO rows (id) SELECT coalesce(max(id), 0) + 1 FROM rows; SELECT pg_switch_wal()")

    write(2)
    # Half of what may wait: somebody is told, and nothing is lost yet.
    wait_until(lambda: ITEM.archiver(lab.context())["waiting"] >= 2, "log that waits", 60)
    assert service.watch().code == Exit.LATE
    assert len(told) == 1 and "wait to be archived" in told[0]
    assert metric(lab, "archive_waiting_bytes") >= 32 << 20 and metric(lab, "archive_gaps") == 0
    assert watch(lab.context())[0][ITEM.name]["gaps"] == []

    write(5)
    wait_until(lambda: ITEM.archiver(lab.context())["lag_seconds"] > 5, "an archive lag", 60)
    wait_until(lambda: ITEM.archiver(lab.context())["waiting"] == 0, "WAL dropped", 300)
    proxy.fault = None
    lab.switch_wal()
    [problem] = service._look(lab.context())
    gaps = {name: found["wal_gaps"] for name, found in ITEM.status(lab.context())["repositories"].items()}
    assert gaps["s3"], gaps
    assert "moments that cannot be restored" in problem and gaps["s3"][0] in problem
    assert metric(lab, "archive_gaps") == sum(map(len, gaps.values()))
    info = describe(service.definition, datetime.now(UTC))
    assert problem in info["problems"]
    ends = datetime.fromtimestamp(made["finished"], UTC).isoformat()
    assert info["window"]["s3"]["to"] == ends, "later moments may lie in the hole"

    made = lab.back_up("incr")
    assert made["s3"]["details"]["type"] == "full"
    hole = gaps["s3"][0].split("..")[0]
    assert pgbackrest.number(hole) < pgbackrest.number(made["s3"]["details"]["wal_start"])
    assert service._look(lab.context()) == [], "the new set closes it"
    [gap] = describe(service.definition, datetime.now(UTC))["window"]["s3"]["gaps"]
    closed = datetime.fromtimestamp(made["s3"]["details"]["finished"], UTC).isoformat()
    assert (gap["from"], gap["to"]) == (ends, closed)


@pytest.mark.full
def test_offsite_the_pruning_identity_takes_away_what_the_server_s_own_may_not(
    lab: PostgresLab, proxy: Any
) -> None:
    store, client = proxy.store, proxy.store.client()
    where = {"Bucket": store.bucket, "Prefix": f"{lab.name}/pgbackrest/"}

    def keys() -> set[str]:
        pages = client.get_paginator("list_objects_v2").paginate(**where)
        return {found["Key"] for page in pages for found in page["Contents"]}

    lab.back_up("full")
    lab.switch_wal()
    before, there = labels(lab), keys()
    *older, newest = before["s3"]
    later = lab.context(
        now=datetime.now(UTC) + timedelta(days=40),
        retention={"local_days": 365, "offsite_days": 30, "minimum_sets": 1},
    )
    assert ITEM.prune(later, "s3")[:-1] == [f"set {label}" for label in older] != []
    assert labels(lab) == {"local": before["local"], "s3": [newest]}
    gone = there - keys()
    pages = client.get_paginator("list_object_versions").paginate(**where)
    found = [entry for page in pages for entry in (*page.get("DeleteMarkers", []), *page.get("Versions", []))]
    markers = {entry["Key"] for entry in found if entry["IsLatest"] and "Size" not in entry}
    versions = {entry["Key"]: entry["VersionId"] for entry in found if "Size" in entry}
    assert gone <= markers and gone <= {*versions}, "what is pruned can be had again for a while"

    segment = min(key for key in gone if "/archive/" in key)
    file = min(key for key in gone if f"/{older[0]}/" in key)
    # Below backup/ it may put a marker, too, but never take a version away.
    for request in ({"Key": segment}, *({"Key": key, "VersionId": versions[key]} for key in (segment, file))):
        with pytest.raises(ClientError) as refused:
            store.client("default").delete_object(Bucket=store.bucket, **request)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert ITEM.verify(lab.context()) == []


def metric(lab: PostgresLab, name: str) -> float:
    lines = (lab.data / "state/metrics/backup.prom").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(f"n8n_platform_backup_{name}{{")).split()[-1])
