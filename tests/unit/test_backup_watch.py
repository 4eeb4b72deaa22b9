"""When somebody is told that the write-ahead log does not get away, and what a hole in it costs; without an engine."""

import os
from datetime import datetime, timedelta, timezone
from operator import methodcaller
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_service, backup_watch
from ansible.module_utils.n8n_platform.backup import BackupError, Context, Definition, Exit
from ansible.module_utils.n8n_platform.backup_info import describe, summary
from ansible.module_utils.n8n_platform.backup_service import Service
from ansible.module_utils.n8n_platform.backup_state import METRICS, State, metrics

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
MIB = 1 << 20
SEGMENT = "00000001000000000000000{}"


class Item:
    """A database whose archiver says what the test wants."""

    name = "postgres-n8n"

    def __init__(self) -> None:
        self.says = {"lag_seconds": 1, "up_seconds": 9999, "waiting_bytes": 0, "failed_count": 0}
        self.limit, self.sets, self.holes, self.asked = 4096 * MIB, [1, 5], [], 0
        self.is_stopped = False

    def stopped(self, _context: Any) -> bool:
        return self.is_stopped

    def archiving(self, _context: Any) -> dict[str, Any]:
        if not self.says:
            raise BackupError("the server does not answer")
        return {**self.says, "waiting_limit_bytes": self.limit}

    def status(self, _context: Any) -> dict[str, Any]:
        self.asked += 1
        sets = [
            {
                "wal_start": SEGMENT.format(n),
                "wal_stop": SEGMENT.format(n),
                "stop": (NOW + timedelta(hours=n)).timestamp(),
            }
            for n in self.sets
        ]
        return {"repositories": {"s3": {"sets": sets, "wal_gaps": self.holes}}}


@pytest.fixture
def item(monkeypatch: pytest.MonkeyPatch) -> Item:
    found = Item()
    monkeypatch.setattr(backup_watch, "build", lambda _definition: [("pgbackrest", found)])
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(
        backup_service,
        "notify",
        lambda _definition, event, message, **_: found.append(f"{event}: {message}") or [],
    )
    return found


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    names = ("environment", "project", "images")
    values: dict[str, Any] = dict.fromkeys(names, "test") | {
        "timezone": "UTC",
        "items": [],
        "s3": {"bucket": "b"},
    }
    roots = {f"{name}_root": str(tmp_path / name) for name in ("volumes", "secrets", "state", "backup")}
    return Definition({**values, **roots, "retention": {}})


def look(definition: Definition) -> list[str]:
    return Service(definition, NOW).watch().problems


@pytest.mark.parametrize(
    ("says", "limit_mb", "words"),
    [
        ({}, 4096, ""),
        ({"lag_seconds": 119}, 4096, ""),
        ({"lag_seconds": 121}, 4096, "has not been archived for 121 s"),
        # It has just been started, and catches up.
        ({"lag_seconds": 5000, "up_seconds": 60}, 4096, ""),
        ({"waiting_bytes": 256 * MIB}, 4096, ""),
        ({"waiting_bytes": 257 * MIB}, 4096, "bytes of write-ahead log wait"),
        ({"waiting_bytes": 16 * MIB}, 64, ""),
        ({"waiting_bytes": 32 * MIB}, 64, f"beyond {64 * MIB} it is dropped"),
        ({"waiting_bytes": 257 * MIB}, 0, "bytes of write-ahead log wait"),
    ],
)
def test_it_is_said_long_before_anything_is_dropped(
    item: Item, definition: Definition, told: list[str], says: dict[str, int], limit_mb: int, words: str
) -> None:
    item.says |= says
    item.limit = limit_mb * MIB
    problems = look(definition)
    assert len(problems) == len(told) == bool(words)
    assert words in "".join(problems)


def test_what_lasts_is_told_once_and_is_in_metrics_and_verification(
    item: Item, definition: Definition, told: list[str]
) -> None:
    item.says["lag_seconds"] = 500
    for _ in range(3):
        assert Service(definition, NOW).watch().code == Exit.LATE
    assert len(told) == 1 and told[0].startswith(
        "point-in-time restore is in danger: postgres-n8n: the write"
    )
    assert "_archive_lag_seconds{" in (definition.state_root / METRICS).read_text()
    assert [text for text in describe(definition, NOW)["problems"] if "500 s" in text]
    item.says["lag_seconds"] = 0
    assert Service(definition, NOW).watch().code == Exit.DONE
    assert describe(definition, NOW)["problems"] == []
    item.says = {}
    assert look(definition) == ["postgres-n8n: the server does not answer"]
    assert len(told) == 2 and item.asked == 0, "the repositories are asked by runs only"


def test_a_server_that_is_stopped_for_maintenance_is_nobodys_alarm(
    item: Item, definition: Definition, told: list[str]
) -> None:
    item.says["waiting_bytes"] = 5
    assert Service(definition, NOW).watch().code == Exit.DONE
    item.says, item.is_stopped = {}, True
    assert Service(definition, NOW).watch().code == Exit.DONE
    assert (told, describe(definition, NOW)["problems"]) == ([], [])
    assert State(definition.state_root).values["archiving"]["items"]["postgres-n8n"]["waiting_bytes"] == 5, (
        "as it was last"
    )


@pytest.mark.parametrize(
    ("status", "stopped"), [("exited", True), ("created", True), ("running", False), ("restarting", False)]
)
def test_one_that_crashes_is_not_stopped(definition: Definition, status: str, stopped: bool) -> None:
    engine: Any = SimpleNamespace(service=lambda *_: {"State": {"Status": status}})
    unused: Any = None
    context = Context(definition, engine, unused, "r", NOW, "full", print)
    assert context.stopped("postgres-n8n") is stopped


def test_nobody_asks_while_something_is_restored(item: Item, definition: Definition, told: list[str]) -> None:
    item.says = {}
    definition.state_root.mkdir()
    (definition.state_root / "restore.json").write_text("{}")
    assert Service(definition, NOW).watch().code == Exit.DONE and told == []


def test_a_restore_that_nobody_ended_is_told_by_all_that_it_stops(
    item: Item, definition: Definition, told: list[str]
) -> None:
    marker = definition.state_root / "restore.json"
    definition.state_root.mkdir()
    marker.write_text("{}")
    calls = [methodcaller("run", "auto"), methodcaller("verify", False), methodcaller("prune", True)]
    for hours, counted in ((4, 0), (4.1, 3)):
        os.utime(marker, (0, (NOW - timedelta(hours=hours)).timestamp()))
        for call in calls:
            with pytest.raises(BackupError) as stopped:
                call(Service(definition, NOW))
            assert stopped.value.code == Exit.RESTORING
        assert len(told) == counted
    begun = (NOW - timedelta(hours=4.1)).isoformat(timespec="seconds")
    assert {text.split(",")[0] for text in told} == {
        f"backups wait for a restore: no backup is made since {begun}"
    }
    told.clear()
    for _ in range(3):
        assert Service(definition, NOW).watch().code == Exit.LATE
    assert len(told) == 1, "every other minute would be too often"
    assert [text for text in describe(definition, NOW)["problems"] if "restore_target=back" in text]
    marker.unlink()
    assert Service(definition, NOW).watch().code == Exit.DONE
    assert describe(definition, NOW)["problems"] == []


def test_a_hole_ends_the_window_until_a_set_has_closed_it(item: Item, definition: Definition) -> None:
    service = Service(definition, NOW)
    start = (NOW - timedelta(days=3)).isoformat()
    service.state.update(window={"s3": start}, since=NOW.isoformat())
    item.holes, item.sets = [f"{SEGMENT.format(3)}..{SEGMENT.format(4)}"], [1]
    [problem] = service._look(service.context("incr"))
    before = (NOW + timedelta(hours=1)).isoformat()
    info = describe(definition, NOW + timedelta(hours=6))
    assert info["problems"] == [problem] and item.holes[0] in problem and before in problem
    assert info["window"] == {"s3": {"from": start, "to": before, "gaps": []}}
    # An hour's watch asks no repository, and forgets no hole.
    assert look(definition) == [problem]

    item.sets = [1, 5]
    assert service._look(service.context("incr")) == []
    info = describe(definition, NOW + timedelta(hours=6))
    hole = {
        "repository": "s3",
        "segments": item.holes[0],
        "from": before,
        "to": (NOW + timedelta(hours=5)).isoformat(),
    }
    assert info["problems"] == [] and info["window"]["s3"]["gaps"] == [hole]
    assert info["window"]["s3"]["to"] == (NOW + timedelta(hours=6)).isoformat()
    assert [line for line in summary(info) if item.holes[0] in line]
    assert 'n8n_platform_backup_archive_gaps{environment="test",item="postgres-n8n"} 1' in metrics(
        State(definition.state_root).values, "test"
    )
    # What lies before the window is nobody's business any more.
    service.state.update(window={"s3": (NOW + timedelta(hours=5.5)).isoformat()})
    assert describe(definition, NOW + timedelta(hours=6))["window"]["s3"]["gaps"] == []


def test_two_that_write_the_state_keep_each_others_words(tmp_path: Path) -> None:
    one, other = State(tmp_path), State(tmp_path)
    one.update(rotation=1)
    other.update(since=NOW.isoformat())
    one.update(rotation=2)
    assert State(tmp_path).values == {"rotation": 2, "since": NOW.isoformat()}
