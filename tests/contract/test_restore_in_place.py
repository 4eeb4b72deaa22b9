"""A restore in place that ends before its switch keeps no backup from running; the roles are stubs here."""

import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.n8n_platform.backup_lock import backup_lock
from contract.conftest import ROOT, load, walk

from tests.support.made_up_play import called, play, run_play, written

PLAYBOOK = ROOT / "playbooks/_restore_in_place.yml"
# What is done before the switch, in order; the first may refuse while backups go on.
BEFORE = ("backup/fetch", "postgres/restore_prepare", "postgres/restore_dump_prepare")
TAKEN_AWAY = ["postgres/restore_back", "postgres/restore_dump_back"]


def entries(tasks: Any) -> Iterator[str]:
    """`role/entry` of every role that is entered, also by imported files."""
    for task in walk(tasks):
        if role := task.get("ansible.builtin.import_role"):
            yield f"{role['name']}/{role['tasks_from']}"
        if file := task.get("ansible.builtin.import_tasks"):
            folder = ROOT / "playbooks/tasks"
            yield from entries(load(folder / Path(file).name))


def restored(folder: Path, failing: str, says: str = "it is full") -> tuple[str, list[str]]:
    """What a restore says whose entry `failing` fails, and the entries that were called."""
    (play,) = load(PLAYBOOK)
    for entry in {*entries(play["tasks"])}:
        role, name = entry.split("/")
        line = {"path": str(folder / "called"), "line": entry, "create": True, "mode": "0600"}
        tasks = [{"ansible.builtin.lineinfile": line}] if entry in (*BEFORE, *TAKEN_AWAY) else []
        tasks += [{"ansible.builtin.fail": {"msg": "it is full"}}] if entry == failing else []
        path = folder / "roles" / role / "tasks" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(tasks))
    done = called(
        folder,
        PLAYBOOK,
        folder / "roles",
        ansible_become=False,
        platform_environment="test",
        platform_state_root=str(folder / "state"),
        restore_kind="physical",
        restore_parts="databases",
        restore_wait_seconds=15,
    )
    assert done.returncode != 0 and says in done.stdout, done.stdout + done.stderr
    return " ".join(done.stdout.split()), (folder / "called").read_text().splitlines()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """With what was fetched."""
    (tmp_path / "state/recovery/keys").mkdir(parents=True)
    return tmp_path / "state"


@pytest.mark.skipif(os.geteuid() != 0, reason="what it writes is root's")
def test_what_fails_before_the_switch_is_taken_away_and_nothing_was_changed(
    tmp_path: Path, state: Path
) -> None:
    said, entered = restored(tmp_path, BEFORE[-1])
    assert "Nothing was changed, test runs on and is backed up: it is full" in said
    assert os.listdir(state) == []
    assert entered == [*BEFORE, *TAKEN_AWAY]


@pytest.mark.skipif(os.geteuid() != 0, reason="what it writes is root's")
def test_one_that_was_killed_earlier_keeps_its_way_back(tmp_path: Path, state: Path) -> None:
    """Nobody knows here whether it had switched."""
    (state / "restore.json").write_text("{}")
    said, entered = restored(tmp_path, BEFORE[0])
    assert "restore_target=back puts back what was before it: it is full" in said
    assert sorted(os.listdir(state)) == ["recovery", "restore.json"]
    assert entered == [BEFORE[0]]


@pytest.mark.skipif(os.geteuid() != 0, reason="what it writes is root's")
def test_a_backup_that_is_at_work_is_waited_for_and_named(tmp_path: Path, state: Path) -> None:
    """It began before, and would remove the way back when it ends."""
    roots = {f"{name}_root": str(tmp_path / name) for name in ("volumes", "secrets", "state", "backup")}
    names = {"environment": "test", "project": "p", "timezone": "UTC"}
    definition = {**names, **roots, "images": {}, "items": [], "retention": {}}
    (state / "backup.json").write_text(json.dumps(definition))
    holder = "run diff of schedule"
    with backup_lock(state, "run diff", datetime.now(timezone.utc), "schedule"):
        said, entered = restored(tmp_path, "", holder)
    assert "FAILED - RETRYING: [localhost]: Wait for a backup that is at work (1 retries left)" in said
    assert "Nothing was changed, test runs on and is backed up: another run holds the lock" in said
    assert not (state / "restore.json").exists() and not (state / "recovery").exists()
    assert entered == [BEFORE[0], *TAKEN_AWAY]

    (state / "recovery/keys").mkdir(parents=True)
    (tmp_path / "called").unlink()
    _, entered = restored(tmp_path, BEFORE[-1])
    assert entered == [*BEFORE, *TAKEN_AWAY]


# What is restored, and whether the database comes to an earlier moment.
RECOVERIES: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"time": "2026-11-22T10:00:00Z"}, True),
    ({"run": "20261122T020000Z"}, True),
    ({"kind": "logical"}, True),
    ({"parts": ["databases"]}, False),
    ({"parts": ["databases", "redis-queue"], "run": "20261122T020000Z"}, True),
    ({"parts": ["redis-queue"], "run": "20261122T020000Z"}, False),
]


def test_the_queue_starts_empty_where_the_database_goes_back(tmp_path: Path) -> None:
    asked = {}
    for role, module in (("redis", "redis_restore"), ("n8n", "n8n_queue_restore")):
        tasks = load(ROOT / f"roles/{role}/tasks/restore.yml")
        asked[role] = next(task[module]["empty"] for task in tasks if module in task)
    recoveries = [{"time": "", "run": "", **recovery} for recovery, _ in RECOVERIES]
    files = [tmp_path / f"{number}.json" for number, _ in enumerate(recoveries)]
    pairs = zip(files, recoveries, strict=True)
    run_play(tmp_path, [play(*(written(path, asked, platform_recovery=given) for path, given in pairs))])
    found = [json.loads(path.read_text()) for path in files]
    assert found == [dict.fromkeys(("redis", "n8n"), empty) for _, empty in RECOVERIES]


def condition(name: str, playbook: str) -> str:
    """Of a task, as something that can be templated."""
    tasks = [task for entry in load(ROOT / "playbooks" / playbook) for task in walk(entry.get("tasks", []))]
    (found,) = [task["when"] for task in tasks if task.get("name") == name]
    return f"{{{{ {found} }}}}"


# What is asked for, and whether the log is archived first.
ASKED: list[tuple[dict[str, str], bool]] = [
    ({"restore_target": "scratch", "restore_parts": "n8n-home"}, True),
    ({"restore_target": "in_place"}, True),
    ({"restore_target": "in_place", "restore_parts": "n8n-home,databases"}, True),
    ({"restore_target": "in_place", "restore_parts": "n8n-home"}, False),
    ({"restore_target": "in_place", "restore_kind": "logical"}, False),
    ({"restore_target": "back"}, False),
]


def test_the_log_is_archived_only_for_a_database_that_is_restored_from_it(tmp_path: Path) -> None:
    archives = condition("Archive what has happened until now", "restore.yml")
    tasks = [written(tmp_path / f"{n}.json", archives, **given) for n, (given, _) in enumerate(ASKED)]
    run_play(tmp_path, [play(*tasks)])
    assert [json.loads((tmp_path / f"{n}.json").read_text()) for n, _ in enumerate(ASKED)] == [
        wanted for _, wanted in ASKED
    ]


def test_what_is_not_archived_is_said_to_whoever_switches(tmp_path: Path) -> None:
    """It is kept on disk then: the answer of a later run is of other data."""
    given = load(PLAYBOOK)[0]["vars"]["platform_recovery"]["archived"]
    (switch,) = load(ROOT / "roles/postgres/tasks/restore_switch.yml")
    asked = switch["postgres_restore"]["archived"].replace("platform_recovery.archived", "given")
    tasks = [
        written(tmp_path / f"{n}.json", asked, given=given, __restore_archived=said)
        for n, said in enumerate([{"skipped": True}, {"archived": True}, {"archived": False}])
    ]
    run_play(tmp_path, [play(*tasks)])
    assert [json.loads((tmp_path / f"{n}.json").read_text()) for n in range(3)] == [True, True, False]


def test_a_way_back_says_so_first_and_forgets_it_last() -> None:
    """Repeated beside it, a restore would take for done what is undone."""
    tasks = load(ROOT / "playbooks/tasks/restore_back.yml")
    assert tasks[0]["platform_recovery"]["state"] == "returning"
    directory = "{{ platform_recovery.directory }}"
    assert tasks[-1]["loop"][:2] == [directory, f"{directory}.returning"]


def test_before_anything_from_before_is_removed_the_way_back_is_closed() -> None:
    (removes,) = [task for task in load(PLAYBOOK)[0]["tasks"] if task.get("name") == "Remove what was before"]
    assert removes["ansible.builtin.import_tasks"] == "tasks/restore_discard.yml"
    assert removes["when"] == "restore_discard_previous | bool"
    assert not [entry for entry in entries(load(PLAYBOOK)[0]["tasks"][:-4]) if entry.endswith("discard")]
    tasks = load(ROOT / "playbooks/tasks/restore_discard.yml")
    assert tasks[0]["platform_recovery"]["state"] == "settled"
