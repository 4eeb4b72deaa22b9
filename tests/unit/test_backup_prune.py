"""What goes of two repositories, of which one may not answer; restic, the bucket and pgBackRest are stubs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform import backup_prune, backup_service
from ansible.module_utils.n8n_platform.backup import BackupError, Definition, Exit, run_id
from ansible.module_utils.n8n_platform.backup_run import Outcome
from ansible.module_utils.n8n_platform.backup_service import Service
from ansible.module_utils.n8n_platform.backup_state import State

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
AWAY = BackupError("S3 list: no answer", Exit.NOT_OFFSITE)


def day(age: float) -> str:
    return run_id(NOW - timedelta(days=age))


class Places:
    """What lies in each repository: runs with a manifest, runs with a snapshot, sets of the database."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.bucket: list[str] = []
        self.snapshots: dict[str, set[str]] = {"local": set(), "s3": set()}
        self.database: dict[str, set[str]] = {"local": {"F"}, "s3": {"F"}}
        self.fails: Callable[[str, str], bool] = lambda _repository, _what: False

    def fail(self, repository: str, what: str) -> None:
        if self.fails(repository, what):
            raise AWAY

    def local(self, *ages: float, published: bool = True) -> None:
        for age in ages:
            run = day(age)
            where = {"local": "here", "s3": "there" if published else None}
            made = {"version": 1, "run": run, "type": "full", "items": [], "locations": where, "problems": []}
            manifests.write(self.definition.runs, manifests.seal({**made, "finished": NOW.isoformat()}))
            self.snapshots["local"].add(run)

    def off_site(self, *ages: float) -> None:
        self.bucket += [day(age) for age in ages]
        self.snapshots["s3"] |= {*self.bucket}

    def sets(self, definition: Definition, _oneshots: object, repository: str) -> list[manifests.Set]:
        self.fail(repository, "sets")
        if repository == "local":
            return manifests.local_sets(definition.runs)
        return [manifests.Set(run, {}) for run in sorted(self.bucket)]

    def runs(self, repository: str) -> list[str]:
        if repository == "s3":
            return sorted(self.bucket)
        return [one.run for one in manifests.local_sets(self.definition.runs)]


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    values: dict[str, Any] = {"environment": "prod", "project": "p", "timezone": "UTC", "images": {}}
    roots = {f"{name}_root": str(tmp_path / name) for name in ("volumes", "secrets", "state", "backup")}
    retention = {"local_days": 7, "offsite_days": 30, "minimum_sets": 1}
    return Definition({**values, **roots, "items": [], "retention": retention, "s3": {"bucket": "b"}})


@pytest.fixture
def places(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> Places:
    there = Places(definition)

    class Restic:
        def __init__(self, _definition: Any, _oneshots: Any, repository: str) -> None:
            self.repository = repository

        def snapshots(self) -> list[dict[str, str]]:
            return [{"id": f"id-{run}", "run": run} for run in sorted(there.snapshots[self.repository])]

        def forget(self, names: list[str]) -> None:
            there.snapshots[self.repository] -= {name.removeprefix("id-") for name in names}

        def prune(self, _limit: float) -> None:
            there.fail(self.repository, "restic prune")

    class Offsite:
        def __init__(self, *_: Any) -> None: ...

        def remove_manifests(self, runs: list[str]) -> None:
            there.fail("s3", "remove")
            there.bucket = [run for run in there.bucket if run not in runs]

    class Database:
        def prune(self, _context: Any, repository: str, dry_run: bool) -> list[str]:
            there.fail(repository, "pgbackrest")
            gone = sorted(there.database[repository])
            if not dry_run:
                there.database[repository] = set()
            return [f"set {label}" for label in gone]

    monkeypatch.setattr(backup_prune, "sets", there.sets)
    monkeypatch.setattr(backup_prune, "Restic", Restic)
    monkeypatch.setattr(backup_prune, "Offsite", Offsite)
    monkeypatch.setattr(backup_prune, "build", lambda _definition: [("pgbackrest", Database())])
    monkeypatch.setattr(Service, "_clean_up", lambda *_: None)
    there.local(20, 10, 8, 1)
    there.off_site(60, 40, 10, 8, 1)
    return there


def bundle(definition: Definition, age: float) -> Path:
    path = definition.root / "keys" / f"prod-{day(age)}.age"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_both_are_pruned_with_the_bundles_that_nothing_is_left_for(
    definition: Definition, places: Places
) -> None:
    bundles = {age: bundle(definition, age) for age in (60, 40, 20, 10, 1)}
    listed = Service(definition, NOW).prune(dry_run=True)
    answer = Service(definition, NOW).prune(dry_run=False)
    assert (answer.code, answer.lines) == (Exit.DONE, listed.lines)
    assert "s3: pgbackrest set F" in answer.lines
    assert places.runs("local") == [day(8), day(1)]
    assert places.runs("s3") == [day(40), day(10), day(8), day(1)]
    assert places.database == {"local": set(), "s3": set()}
    assert [age for age, path in bundles.items() if path.exists()] == [40, 10, 1]


@pytest.mark.parametrize("what", ["sets", "pgbackrest"])
def test_a_bucket_that_does_not_answer_costs_only_its_own_pruning(
    definition: Definition, places: Places, what: str
) -> None:
    kept = bundle(definition, 60)
    State(definition.state_root).update(sets={"s3": 9}, window={"s3": NOW.isoformat()})
    places.fails = lambda repository, step: (repository, step) == ("s3", what)
    listed = Service(definition, NOW).prune(dry_run=True)
    answer = Service(definition, NOW).prune(dry_run=False)
    assert answer.code is listed.code is Exit.NOT_PRUNED
    assert answer.problems == listed.problems == ["s3: S3 list: no answer"]
    assert answer.lines == listed.lines and not [line for line in listed.lines if "bundle" in line]
    assert places.runs("local") == [day(8), day(1)] and places.database["local"] == set()
    assert places.snapshots["local"] == {day(8), day(1)}
    assert len(places.runs("s3")) == 5 and places.database["s3"] == {"F"}
    assert kept.exists(), "a set of the bucket may need it"
    values = State(definition.state_root).values
    assert values["sets"] == {"local": 2, "s3": 9} and values["window"]["s3"] == NOW.isoformat()


def test_what_cannot_be_removed_there_takes_neither_its_database_nor_its_keys(
    definition: Definition, places: Places
) -> None:
    kept = bundle(definition, 60)
    places.fails = lambda repository, step: (repository, step) == ("s3", "remove")
    answer = Service(definition, NOW).prune(dry_run=False)
    assert (answer.code, answer.problems) == (Exit.NOT_PRUNED, ["s3: S3 list: no answer"])
    assert {line.split(":")[0] for line in answer.lines[:-1]} == {"local"}, "nothing else went"
    assert not [line for line in answer.lines if "bundle" in line]
    assert places.runs("local") == [day(8), day(1)]
    assert len(places.snapshots["s3"]) == 5 and places.database["s3"] == {"F"} and kept.exists()


def test_a_full_disk_that_stops_restic_still_loses_the_old_sets_of_the_database(
    definition: Definition, places: Places
) -> None:
    places.fails = lambda repository, step: (repository, step) == ("local", "restic prune")
    answer = Service(definition, NOW).prune(dry_run=False)
    assert answer.code is Exit.NOT_PRUNED
    assert places.database == {"local": set(), "s3": set()}


@pytest.mark.parametrize("code", [Exit.DONE, Exit.NOT_OFFSITE])
def test_a_run_whose_bucket_is_away_prunes_here_and_lets_the_way_back_go(
    definition: Definition, places: Places, monkeypatch: pytest.MonkeyPatch, code: Exit
) -> None:
    run_of(monkeypatch, definition, lambda: Outcome(code, manifests.read(definition.runs, day(1))))
    monkeypatch.setattr(backup_service, "settle", lambda _context: ["removed the way back"])
    places.fails = lambda repository, _step: repository == "s3"
    answer = Service(definition, NOW).run("diff")
    assert answer.code is (code or Exit.NOT_PRUNED)
    assert answer.problems == ["prune: s3: S3 list: no answer"]
    assert "removed the way back" in answer.lines and places.runs("local") == [day(8), day(1)]


def run_of(monkeypatch: pytest.MonkeyPatch, definition: Definition, make: Callable[[], Outcome]) -> None:
    """A run that comes to what `make` says."""

    class Run:
        outcome = Outcome(Exit.DONE)

        def __init__(self, context: Any) -> None:
            self.context = context

        def execute(self) -> Outcome:
            return make()

    @contextmanager
    def lock(*_: Any) -> Iterator[None]:
        yield None

    State(definition.state_root).update(archiving={"items": {}, "problems": []})
    monkeypatch.setattr(backup_service, "backup_lock", lock)
    monkeypatch.setattr(backup_service, "Run", Run)
    monkeypatch.setattr(Service, "_look", lambda *_: [])


def lose_manifests(places: Places, *repositories: str) -> None:
    if "s3" in repositories:
        places.bucket.clear()
    if "local" in repositories:
        for run in places.runs("local"):
            (places.definition.runs / run / manifests.NAME).unlink()
            (places.definition.runs / run).rmdir()


def test_lost_manifests_remove_no_snapshot_though_a_good_set_has_come_since(
    definition: Definition, places: Places
) -> None:
    lose_manifests(places, "local")
    places.local(0.01)
    with pytest.raises(BackupError, match=rf"{day(8)}, {day(1)}: nothing is pruned; were") as refused:
        Service(definition, NOW).prune(dry_run=False)
    assert refused.value.code is Exit.DAMAGED
    assert len(places.snapshots["local"]) == 5 and places.database == {"local": {"F"}, "s3": {"F"}}
    # What would go if it were a set is in nobody's way.
    later = Service(definition, NOW + timedelta(days=7.1)).prune(dry_run=False)
    assert later.code is Exit.DONE and places.snapshots["local"] == {day(0.01)}


def test_manifests_that_the_bucket_has_lost_remove_nothing_there(
    definition: Definition, places: Places
) -> None:
    lose_manifests(places, "s3")
    places.off_site(0.01)
    answer = Service(definition, NOW).prune(dry_run=False)
    assert answer.code is Exit.NOT_PRUNED and "s3: 2 snapshots without a manifest" in answer.problems[0]
    assert len(places.snapshots["s3"]) == 6 and places.runs("local") == [day(8), day(1)]


def test_what_an_unfinished_run_has_left_goes(definition: Definition, places: Places) -> None:
    lose_manifests(places, "local", "s3")
    places.snapshots = {"local": {day(3), day(2), day(1)}, "s3": {day(2)}}
    places.local(1)
    places.off_site(1)
    State(definition.state_root).update(unfinished=[day(3), day(2)])
    answer = Service(definition, NOW).prune(dry_run=False)
    assert answer.code is Exit.DONE, answer.problems
    assert places.snapshots == {"local": {day(1)}, "s3": {day(1)}}
    assert State(definition.state_root).values["unfinished"] == []


def test_a_run_is_unfinished_until_it_has_made_a_set(
    definition: Definition, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> Outcome:
        raise BackupError("no")

    run_of(monkeypatch, definition, stop)
    with pytest.raises(BackupError):
        Service(definition, NOW).run("incr")
    assert State(definition.state_root).values["unfinished"] == [run_id(NOW)]
    State(definition.state_root).update(last_run={"code": 0})
    later = NOW + timedelta(hours=1)
    run_of(monkeypatch, definition, lambda: Outcome(Exit.DONE, manifests.read(definition.runs, day(1))))
    Service(definition, later).run("incr")
    assert State(definition.state_root).values["unfinished"] == [run_id(NOW)]


def test_what_was_copied_but_never_was_a_set_of_the_bucket_goes_with_the_one_here(
    definition: Definition, places: Places
) -> None:
    """Of an environment that was given a bucket later: the database of its earlier sets is not there."""
    lose_manifests(places, "local", "s3")
    places.snapshots["local"].clear()
    places.local(9, 8, published=False)
    places.local(1)
    places.snapshots["s3"] = {day(9), day(8)}
    places.off_site(1)
    answer = Service(definition, NOW).prune(dry_run=False)
    assert answer.code is Exit.DONE, answer.problems
    assert places.snapshots == {"local": {day(8), day(1)}, "s3": {day(8), day(1)}}


def test_that_it_never_was_a_set_of_the_bucket_is_known_when_the_bucket_was_away_as_the_one_here_went(
    definition: Definition, places: Places
) -> None:
    lose_manifests(places, "local", "s3")
    places.snapshots["local"].clear()
    places.local(9, 8.5, 8, published=False)
    places.local(7.5)
    places.snapshots["s3"] = {day(9), day(8.5), day(8)}
    places.off_site(1)
    places.local(1)
    places.fails = lambda repository, _step: repository == "s3"
    for _ in range(2):
        assert Service(definition, NOW).prune(dry_run=False).code is Exit.NOT_PRUNED
        assert places.runs("local") == [day(7.5), day(1)]
        assert State(definition.state_root).unfinished == [day(9), day(8.5), day(8)]
    places.fails = lambda _repository, _step: False
    answer = Service(definition, NOW).prune(dry_run=False)
    assert answer.code is Exit.DONE, answer.problems
    assert places.snapshots["s3"] == {day(1)} and State(definition.state_root).unfinished == []


def test_of_what_went_here_a_set_of_the_bucket_stays_in_doubt_there(
    definition: Definition, places: Places
) -> None:
    places.fails = lambda repository, _step: repository == "s3"
    assert Service(definition, NOW).prune(dry_run=False).code is Exit.NOT_PRUNED
    assert State(definition.state_root).unfinished == []


def test_a_snapshot_of_somebody_else_stays(definition: Definition, places: Places) -> None:
    places.snapshots["local"] |= {"", "by-hand"}
    assert Service(definition, NOW).prune(dry_run=False).code is Exit.DONE
    assert places.snapshots["local"] >= {"", "by-hand"}
