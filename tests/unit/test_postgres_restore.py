"""Which steps a restore of Postgres still has to do, and that each can be repeated."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import postgres_restore
import pytest
from ansible.module_utils.n8n_platform import postgres_generations, postgres_recovery
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.backup_pgbackrest import PgBackRestItem
from ansible.module_utils.n8n_platform.postgres_choice import Request
from ansible.module_utils.n8n_platform.postgres_recovery import Recovery


class FakeEngine:
    """A container of the service, running or not."""

    def __init__(self, running: bool = False) -> None:
        self.running = running

    def service(self, project: str, service: str) -> dict[str, Any] | None:
        return {"State": {"Running": self.running}}

    def containers(self, labels: dict[str, str | None]) -> list[dict[str, Any]]:
        return []

    def networks(self, labels: dict[str, str | None]) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A volume with generation 17/1 in use, and a recovery directory with the source's definition."""
    monkeypatch.setattr("os.chown", lambda *_: None)
    (tmp_path / "recovery/keys").mkdir(parents=True)
    (tmp_path / "recovery/keys/backup.json").write_text(json.dumps({"backup_root": "/b", "s3": None}))
    data = tmp_path / "volume/17/1"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")
    (tmp_path / "volume/current").write_text("17/1\n")
    return tmp_path


def manager(folder: Path, state: str, running: bool = False) -> postgres_restore.Manager:
    params = {
        **dict.fromkeys(("project", "environment", "image"), "x"),
        **dict.fromkeys(("definition", "time", "run"), ""),
        "name": "n8n",
        "directory": str(folder / "recovery"),
        "volume": str(folder / "volume"),
        "major": "17",
        "state": state,
        "repository": "local",
        "timeline": "latest",
        "archives": True,
        "archived": True,
        "processes": 1,
        "timeout": 60,
    }
    return postgres_restore.Manager(params, FakeEngine(running))  # type: ignore[arg-type]


def prepared(folder: Path) -> None:
    """What `prepare` leaves behind."""
    staged = folder / "volume/17/.new.restore"
    staged.mkdir()
    (staged / "PG_VERSION").write_text("17\n")
    (folder / "recovery/postgres-n8n.json").write_text(json.dumps({"label": "20261122-110318F"}))


def test_a_restore_has_both_steps_and_a_prepared_one_the_second_only(folder: Path) -> None:
    assert manager(folder, "restored").plan() == ["prepare", "switch"]
    assert manager(folder, "prepared").plan() == ["prepare"]
    prepared(folder)
    assert manager(folder, "prepared").plan() == []
    assert manager(folder, "restored").plan() == manager(folder, "switched").plan() == ["switch"]


def test_a_switch_changes_current_once_and_keeps_the_former_generation(folder: Path) -> None:
    prepared(folder)
    manager(folder, "restored").apply(["switch"])
    volume = folder / "volume"
    assert postgres_generations.current_generation(volume) == "17/2"
    assert postgres_generations.former_generations(volume) == [volume / "17/1"]
    assert manager(folder, "restored").plan() == []
    record = json.loads((folder / "recovery/postgres-n8n.json").read_text())
    assert (record["generation"], record["previous"], record["label"]) == ("17/2", "17/1", "20261122-110318F")


def test_a_switch_that_was_killed_after_the_rename_goes_on(folder: Path) -> None:
    prepared(folder)
    volume, record = folder / "volume", folder / "recovery/postgres-n8n.json"
    record.write_text(json.dumps({"label": "x", "generation": "17/2", "previous": "17/1"}))
    (volume / "17/.new.restore").rename(volume / "17/2")
    assert postgres_generations.current_generation(volume) == "17/1"
    manager(folder, "switched").apply(manager(folder, "switched").plan())
    assert postgres_generations.current_generation(volume) == "17/2"


def test_a_switch_that_was_killed_before_it_was_recorded_is_known_by_what_is_in_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recovery, "branch_off", lambda _self, _generation: 3)
    prepared(folder)
    volume, record = folder / "volume", folder / "recovery/postgres-n8n.json"
    record.write_text(json.dumps({"label": "x", "generation": "17/2", "previous": "17/1"}))
    (volume / "17/.new.restore").rename(volume / "17/2")
    postgres_generations.write_current(volume, "17/2")
    assert manager(folder, "switched").plan() == []
    back = manager(folder, "reverted")
    assert back.plan() == ["revert"]
    back.apply(back.plan())
    assert postgres_generations.current_generation(volume) == "17/1"
    assert manager(folder, "reverted").plan() == []


def test_going_back_uses_the_former_generation_and_discarding_leaves_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recovery, "branch_off", lambda _self, _generation: 3)
    prepared(folder)
    assert manager(folder, "discarded").plan() == []
    manager(folder, "switched").apply(["switch"])
    manager(folder, "reverted").apply(["revert"])
    volume = folder / "volume"
    assert postgres_generations.current_generation(volume) == "17/1"
    assert manager(folder, "discarded").plan() == ["discard"]
    manager(folder, "discarded").apply(["discard"])
    assert [path.name for path in (volume / "17").iterdir()] == ["1"]


@pytest.mark.parametrize("whole", [True, False])
def test_what_ended_before_the_switch_is_taken_away_beside_a_running_server(
    folder: Path, whole: bool
) -> None:
    prepared(folder)
    if not whole:
        (folder / "recovery/postgres-n8n.json").unlink()
    back = manager(folder, "reverted", running=True)
    assert back.plan() == ["abandon"]
    back.check(back.plan())
    back.apply(back.plan())
    volume = folder / "volume"
    assert [path.name for path in (volume / "17").iterdir()] == ["1"]
    assert postgres_generations.current_generation(volume) == "17/1"
    assert manager(folder, "reverted").plan() == []


def again(folder: Path, archived: bool) -> None:
    """Another restore, of which nothing has begun."""
    (folder / "recovery/postgres-n8n.json").unlink(missing_ok=True)
    prepared(folder)
    switching = manager(folder, "switched")
    switching.params["archived"] = archived
    switching.apply(switching.plan())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "volume/17").iterdir())


def test_what_is_not_archived_survives_each_later_discarding_until_the_next_good_set(folder: Path) -> None:
    again(folder, archived=False)
    again(folder, archived=True)
    discards = manager(folder, "discarded")
    discards.apply(discards.plan())
    assert left(folder) == [".1.not-archived", "1", "3"]
    (warning,) = discards.warnings
    assert "17/1" in warning and "next good daily or weekly backup" in warning
    assert manager(folder, "discarded").plan() == []
    context = SimpleNamespace(definition=SimpleNamespace(volumes_root=folder))
    (folder / "volume").rename(folder / "postgres-n8n")
    (text,) = PgBackRestItem.completed(SimpleNamespace(service="postgres-n8n"), context)  # type: ignore[arg-type]
    assert "17/1" in text
    assert sorted(path.name for path in (folder / "postgres-n8n/17").iterdir()) == ["3"]


def test_a_repeat_that_finds_all_archived_does_not_forget_what_was_not(folder: Path) -> None:
    """It asks the restored server."""
    again(folder, archived=False)
    manager(folder, "switched").apply(manager(folder, "switched").plan())
    assert manager(folder, "discarded").plan() == []


def test_what_was_archived_later_is_discarded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recovery, "branch_off", lambda _self, _generation: 3)
    again(folder, archived=False)
    manager(folder, "reverted").apply(["revert"])
    again(folder, archived=True)
    manager(folder, "discarded").apply(["discard"])
    assert left(folder) == ["3"]


def test_former_data_are_discarded_beside_a_running_server(folder: Path) -> None:
    prepared(folder)
    manager(folder, "switched").apply(["switch"])
    manager(folder, "discarded", running=True).check(["discard"])


def test_going_back_does_not_depend_on_the_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Recovery, _generation: str) -> int:
        raise BackupError("no answer")

    monkeypatch.setattr(Recovery, "branch_off", fail)
    prepared(folder)
    manager(folder, "switched").apply(["switch"])
    control = folder / "volume/17/1/global/pg_control"
    control.parent.mkdir()
    control.write_bytes(bytes(48) + (5).to_bytes(4, sys.byteorder) + bytes(40))
    back = manager(folder, "reverted")
    back.apply(back.plan())
    assert postgres_generations.current_generation(folder / "volume") == "17/1"
    (warning,) = back.warnings
    assert "17/1 is in use again" in warning and "no answer" in warning and "restore_timeline=5" in warning
    assert manager(folder, "reverted").plan() == []


@pytest.mark.parametrize("lost", ["17", "17/1/PG_VERSION"])
def test_without_data_before_the_way_back_leaves_the_restored_ones_and_says_so(
    folder: Path, lost: str
) -> None:
    volume = folder / "volume"
    if lost == "17":
        shutil.rmtree(volume)
        (volume / "17").mkdir(parents=True)
    else:
        (volume / lost).unlink()
    prepared(folder)
    manager(folder, "switched").apply(["switch"])
    restored = postgres_generations.current_generation(volume)
    back = manager(folder, "reverted")
    back.apply(back.plan())
    assert postgres_generations.current_generation(volume) == restored
    (warning,) = back.warnings
    assert "held no data before" in warning and restored in warning


def test_to_data_that_were_removed_there_is_no_way_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be put back beside them is of another moment than the restored ones."""

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    prepared(folder)
    manager(folder, "switched").apply(["switch"])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        manager(folder, "discarded").apply(["discard"])
    assert (folder / "volume/17/.removed.1/PG_VERSION").exists()
    for _ in range(2):
        back = manager(folder, "reverted")
        assert back.plan() == ["revert"]
        with pytest.raises(BackupError, match="17/1 .* removed; repeat the restore"):
            back.check(back.plan())
        discards = manager(folder, "discarded")
        discards.apply(discards.plan())
        assert left(folder) == ["2"]
    assert manager(folder, "discarded").plan() == []


SETTINGS = "work_mem = '4MB'\n"


def branching(folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> Any:
    """The way back, whose recovery ends with `error`; what that recovery has found in the data."""
    data = folder / "volume/17/1"
    (data / "postgresql.auto.conf").write_text(SETTINGS)
    prepared(folder)
    (folder / "recovery/keys/pgbackrest_n8n").write_text("[global]\n")
    manager(folder, "switched").apply(["switch"])
    found: list[str] = []

    def recover(_self: Recovery, _client: Any, _generation: str) -> dict[str, Any]:
        assert (data / "recovery.signal").exists()
        found.append((data / "postgresql.auto.conf").read_text())
        raise error("no answer")

    monkeypatch.setattr(Recovery, "_recover", recover)
    monkeypatch.setattr(postgres_recovery, "memory_directory", lambda: str(folder))
    return found


def test_data_that_cannot_be_branched_off_start_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = branching(folder, monkeypatch, BackupError)
    back = manager(folder, "reverted")
    back.apply(back.plan())
    assert "restore_command" in found[0] and back.warnings
    data = folder / "volume/17/1"
    assert (data / "postgresql.auto.conf").read_text() == SETTINGS
    assert not (data / "recovery.signal").exists()
    assert sorted(path.name for path in (folder / "volume/17").iterdir()) == ["1", "2"]


def test_what_a_killed_way_back_has_left_in_the_data_goes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = branching(folder, monkeypatch, KeyboardInterrupt)
    data = folder / "volume/17/1"
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(postgres_recovery, "undo_branch", lambda *_: None)
        manager(folder, "reverted").apply(["revert"])
    assert (data / "recovery.signal").exists()
    again = manager(folder, "reverted")
    assert again.plan() == ["revert"]
    with pytest.raises(BackupError, match="stop it first"):
        manager(folder, "reverted", running=True).check(["revert"])
    again.params["archives"] = False
    again.apply(again.plan())
    assert (data / "postgresql.auto.conf").read_text() == SETTINGS != found[0]
    assert not (data / "recovery.signal").exists()
    assert manager(folder, "reverted").plan() == []


def test_a_running_server_is_refused_for_a_switch_and_not_for_preparing(folder: Path) -> None:
    prepared(folder)
    with pytest.raises(BackupError, match="stop it first"):
        manager(folder, "switched", running=True).check(["switch"])
    manager(folder, "prepared", running=True).check([])


def test_a_switch_to_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(BackupError, match="nothing is prepared"):
        manager(folder, "switched").check(["switch"])
    with pytest.raises(BackupError, match="holds no data"):
        postgres_generations.write_current(folder / "volume", "17/9")


def test_the_first_data_of_an_empty_volume_are_generation_one(tmp_path: Path) -> None:
    values: dict[str, Any] = dict.fromkeys(("configuration", "repository_path"), tmp_path)
    request = Request("n8n", "17", "local", tmp_path, image="x", **values)
    assert Recovery(None, request).plan_switch() == {"generation": "17/1", "previous": ""}  # type: ignore[arg-type]


def test_a_restore_along_another_timeline_than_the_one_begun_is_refused(folder: Path) -> None:
    prepared(folder)
    record = folder / "recovery/postgres-n8n.json"
    record.write_text(json.dumps({"label": "x", "followed": "3"}))
    with pytest.raises(BackupError, match="restore_timeline: .* along 3 that was begun"):
        manager(folder, "switched").check(["switch"])
    manager(folder, "reverted").check(["abandon"])


def test_without_a_definition_the_file_is_named(folder: Path) -> None:
    (folder / "recovery/keys/backup.json").unlink()
    with pytest.raises(BackupError, match="backup.json cannot be read"):
        manager(folder, "restored").check(["prepare"])


@pytest.fixture
def other(folder: Path) -> Path:
    """Another store's folder, to which the server's user has put a link into its volume, for the major version."""
    for name in ("1", "2/sub", ".removed.1", ".new.restore"):
        (folder / "openbao" / name).mkdir(parents=True)
    (folder / "openbao/1/PG_VERSION").write_text("17\n")
    (folder / "volume/9").symlink_to("../openbao")
    return folder / "openbao"


def below(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def test_a_link_in_the_volume_leads_the_removal_of_former_data_to_no_other_store(
    folder: Path, other: Path
) -> None:
    volume, before = folder / "volume", below(other)
    (volume / "17/7").symlink_to(other)
    (volume / "17/.removed.7").symlink_to(other)
    assert postgres_generations.former_generations(volume) == []
    assert postgres_generations.half_removed(volume) == []
    for path in (volume / "9/1", volume / "9/.removed.1", volume / "17/7", volume / "17/.removed.7"):
        with pytest.raises(NotADirectoryError, match=r"(9|17/7|17/.removed.7) is in the way"):
            postgres_generations.remove(path)
    context = SimpleNamespace(definition=SimpleNamespace(volumes_root=folder))
    assert PgBackRestItem.completed(SimpleNamespace(service="volume"), context) == []  # type: ignore[arg-type]
    assert below(other) == before


@pytest.mark.parametrize("said", ["9/1", "../openbao/1", "17/../../openbao/1"])
def test_data_behind_a_link_or_outside_are_none_of_the_volume(folder: Path, other: Path, said: str) -> None:
    volume, before = folder / "volume", below(other)
    (volume / "current").write_text(f"{said}\n")
    assert postgres_generations.current_generation(volume) in ("", "9/1")
    assert not postgres_generations.holds_data(volume, said)
    postgres_generations.set_archived(volume, said, False)
    prepared(folder)
    manager(folder, "switched").apply(["switch"])
    assert json.loads((folder / "recovery/postgres-n8n.json").read_text())["previous"] == ""
    assert below(other) == before


def test_current_is_no_link_to_a_file_of_the_host(folder: Path) -> None:
    (folder / "secret").write_text("17/1\n")
    (folder / "volume/current").unlink()
    (folder / "volume/current").symlink_to("../secret")
    with pytest.raises(OSError, match="current is in the way: it is not a file"):
        postgres_generations.current_generation(folder / "volume")


def recovery_of(volume: Path, major: str) -> Recovery:
    values: dict[str, Any] = dict.fromkeys(("configuration", "repository_path"), volume)
    return Recovery(None, Request("n8n", major, "local", volume, image="x", **values))  # type: ignore[arg-type]


def test_a_link_leads_a_restore_to_no_other_store(
    folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, worker = below(other), recovery_of(folder / "volume", "9")
    monkeypatch.setattr(Recovery, "choose", lambda _self: (None, ""))
    monkeypatch.setattr(Recovery, "_check_room", lambda *_: None)
    for step in (worker.discard_staged, worker.prepare, lambda: worker.switch("9/3")):
        with pytest.raises(NotADirectoryError, match="volume/9 is in the way"):
            step()
    assert below(other) == before
    staged = folder / "volume/17/.new.restore"
    staged.symlink_to(other)
    with pytest.raises(NotADirectoryError, match="new.restore is in the way"):
        recovery_of(folder / "volume", "17").prepare()
    assert below(other) == before and staged.is_symlink()


def test_settings_that_are_a_link_are_not_read_for_the_way_back(folder: Path, other: Path) -> None:
    settings = folder / "volume/17/1/postgresql.auto.conf"
    (folder / "secret").write_text("key")
    settings.symlink_to(folder / "secret")
    with pytest.raises(OSError, match="postgresql.auto.conf is in the way: it is not a file"):
        recovery_of(folder / "volume", "17").branch_off("17/1")
    assert left(folder) == ["1"] and settings.is_symlink()
    (other / ".1.postgresql.auto.conf").touch()
    (other / "1/recovery.signal").touch()
    with pytest.raises(NotADirectoryError, match="volume/9 is in the way"):
        postgres_recovery.undo_branch(folder / "volume", "9/1")
    assert (other / "1/recovery.signal").exists()
