"""What of a queue outlives a restore, and what a drill calls a difference."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import n8n_queue_restore
import platform_drill
import pytest
from ansible.module_utils.n8n_platform import backup_manifest, recovery_fetch

RUN = "20261122T020000Z"


def job(number: str, execution: str, state: str = "wait") -> list[str]:
    return [state, number, json.dumps({"executionId": execution, "workflowId": f"w{execution}"})]


def unfinished(execution: str, status: str = "new") -> dict[str, Any]:
    return {"execution": execution, "workflow": f"w{execution}", "status": status, "created": "2026"}


@pytest.mark.parametrize(
    ("jobs", "rows", "empty", "taken", "lost"),
    [
        ([job("1", "10")], [unfinished("10")], False, [], []),
        ([job("1", "10", "delayed")], [unfinished("10")], False, [], []),
        # It has ended since the dump, or the database has never heard of it.
        ([job("1", "10")], [], False, ["1"], []),
        # A worker was at it: n8n does not resume it.
        ([job("1", "10", "active")], [unfinished("10", "running")], False, ["1"], ["10"]),
        ([job("1", "10", "active")], [unfinished("10")], False, ["1"], ["10"]),
        # Twice in the queue, it must run once.
        ([job("1", "10"), job("2", "10")], [unfinished("10")], False, ["2"], []),
        ([], [unfinished("10"), unfinished("11", "running")], False, [], ["10", "11"]),
        ([job("1", "10")], [unfinished("10")], True, ["1"], ["10"]),
        ([["wait", "1", "{}"]], [], False, ["1"], []),
    ],
)
def test_a_job_stays_only_for_an_execution_that_waits_for_it(
    jobs: list[list[str]], rows: list[dict[str, Any]], empty: bool, taken: list[str], lost: list[str]
) -> None:
    out, left = n8n_queue_restore.outdated(jobs, rows, empty)
    assert [entry["job"] for entry in out] == taken
    assert [entry["execution"] for entry in left] == lost


class FakeEngine:
    """Redis and Postgres by the words that they are asked with."""

    def __init__(self, jobs: list[list[str]], rows: list[dict[str, Any]]) -> None:
        self.jobs, self.rows = jobs, rows
        self.removed: list[str] = []
        self.fail_removal = False

    def service(self, project: str, service: str) -> dict[str, str]:
        return {"Id": service}

    def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        if container == "postgres-n8n":
            return 0, json.dumps(self.rows)
        if argv[-1] == "bull:jobs":
            return 0, json.dumps(self.jobs)
        if self.fail_removal:
            return 1, "OOM"
        numbers = argv[argv.index("bull:jobs") + 1 :]
        self.removed += numbers
        self.jobs = [entry for entry in self.jobs if entry[1] not in numbers]
        return 0, str(len(numbers))


@pytest.fixture
def manager(tmp_path: Path) -> n8n_queue_restore.Manager:
    recovery_fetch.Directory(tmp_path / "recovery").begin(
        backup_manifest.seal({"version": 1, "run": RUN, "items": []})
    )
    params = {
        "project": "p",
        "empty": False,
        "directory": str(tmp_path / "recovery"),
        "reports": str(tmp_path / "restores"),
        "postgres_service": "postgres-n8n",
        "redis_service": "redis-queue",
        "prefix": "bull:jobs",
    }
    engine = FakeEngine([job("1", "10"), job("2", "11")], [unfinished("10"), unfinished("12", "running")])
    return n8n_queue_restore.Manager(params, engine)  # type: ignore[arg-type]


def test_what_was_lost_is_listed_for_root_and_done_once(manager: Any) -> None:
    assert manager.plan() and manager.apply() == {"executions": 1, "jobs": 1}
    assert manager.engine.removed == ["2"]
    report = json.loads(manager.report.read_text())
    assert [entry["execution"] for entry in report["executions"]] == ["12"]
    assert [entry["execution"] for entry in report["jobs"]] == ["11"]
    assert manager.report.stat().st_mode & 0o777 == 0o600
    assert manager.plan() == []


def test_a_run_killed_before_the_jobs_are_out_does_not_shorten_the_list(manager: Any) -> None:
    manager.engine.fail_removal = True
    with pytest.raises(n8n_queue_restore.QueueError, match="OOM"):
        manager.apply()
    manager.engine.fail_removal = False
    manager.engine.jobs = []
    manager.apply()
    assert [entry["job"] for entry in json.loads(manager.report.read_text())["jobs"]] == ["2"]


REFERENCE = {
    "started": datetime.now(timezone.utc).isoformat(),
    "time": "2026-11-22T10:00:00Z",
    "until": "2026-11-22 09:59:59",
    "loss_seconds": 12.5,
    "tables": {name: {"rows": 3, "hash": "7"} for name in platform_drill._TABLES},
}


class Answers:
    """Postgres that always gives the same answer."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def service(self, project: str, service: str) -> dict[str, str]:
        return {"Id": service}

    def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        return 0, self.answer


def drill(answer: str, **params: Any) -> platform_drill.Manager:
    defaults = {name: option.get("default") for name, option in platform_drill.build_spec().items()}
    return platform_drill.Manager({**defaults, "project": "p", **params}, Answers(answer))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('{"rows": 2, "hash": "7"}', "execution_entity has 2 rows, the source had 3"),
        ('{"rows": 3, "hash": "8"}', "workflow_entity has as many rows as the source, 3, but other content"),
    ],
)
def test_missing_rows_and_other_content_are_differences(answer: str, says: str) -> None:
    with pytest.raises(platform_drill.DrillError, match=says):
        drill(answer, reference=REFERENCE).apply("compared")


class Server:
    """Postgres and pgBackRest by the words that they are asked with; `asked` holds what was done, `archives` whether
    the log gets to the repositories, `lost` the databases that are not there."""

    def __init__(self, health: str = "healthy", system_id: str = "17", archives: bool = True) -> None:
        self.health, self.system_id, self.archives = health, system_id, archives
        self.lost = ["n8n"]
        self.asked: list[str] = []

    def service(self, project: str, service: str) -> dict[str, Any]:
        return {"Id": service, "State": {"Status": "running", "Health": {"Status": self.health}}}

    def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        if "pgbackrest" in argv:
            return 0, json.dumps(
                [{"db": [{"system-id": 17, "repo-key": 1}, {"system-id": 17, "repo-key": 2}]}]
            )
        if argv[argv.index("-d") + 1] in self.lost:
            return 2, 'FATAL:  database "n8n" does not exist'
        self.asked.append(argv[-1])
        answers = {"system_identifier": self.system_id, "pg_switch_wal": "0A"}
        answers |= {"archive_timeout": '{"age": 12.5, "waits": 0, "timeout": 60}'}
        answers |= {"last_archived_wal": "t" if self.archives else "f", "json_build_object": '{"rows": 1}'}
        answers |= {"clock_timestamp": "2026-11-22T10:00:00Z"}
        return 0, next(answer for word, answer in answers.items() if word in argv[-1])


def archiving(server: Server) -> platform_drill.Manager:
    params = {"project": "p", "service": "postgres-n8n", "timeout": 0}
    return platform_drill.Manager(params, server)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("health", "system_id", "waits", "archived"),
    [
        ("healthy", "17", True, True),
        # An empty server in the place of lost data can archive nothing, and has nothing that is worth it.
        ("healthy", "18", False, True),
        ("starting", "17", False, False),
        ("unhealthy", "17", False, False),
    ],
)
def test_only_a_server_that_serves_and_is_of_the_repository_is_waited_for(
    health: str, system_id: str, waits: bool, archived: bool
) -> None:
    server = Server(health, system_id)
    assert archiving(server).apply("archived") == {"archived": archived}
    assert any("pg_switch_wal" in query for query in server.asked) == waits


def test_what_cannot_be_archived_ends_a_drill_and_no_restore() -> None:
    server = Server(archives=False)
    restore = archiving(server)
    assert restore.apply("archived") == {"archived": False}
    (warning,) = restore.warnings
    assert "0A was not archived within 0 s" in warning and "last moments" in warning
    server.lost = []
    with pytest.raises(platform_drill.DrillError, match="0A was not archived within 0 s"):
        archiving(server).apply("marked")


def test_a_server_that_cannot_be_asked_ends_no_restore() -> None:
    server = Server()
    server.lost = ["postgres"]
    restore = archiving(server)
    assert restore.apply("archived") == {"archived": False}
    assert "does not exist" in restore.warnings[0]


@pytest.mark.parametrize(
    ("age", "waits", "timeout", "loss"),
    [
        (20, 0, 60, 20),
        # Nothing was there to be archived for hours: what is younger than the timeout may be.
        (7200, 0, 60, 60),
        # The archive is away. What waits for longest took as long as the timeout to become a segment.
        (7200, 7000, 60, 7060),
        (7200, 7190, 60, 7200),
        # Segments end only when they are full.
        (7200, 0, 0, 7200),
    ],
)
def test_an_idle_database_loses_no_more_than_its_segment_in_use(
    age: float, waits: float, timeout: int, loss: float
) -> None:
    answers = {
        "archive_timeout": json.dumps({"age": age, "waits": waits, "timeout": timeout}),
        "SELECT to_char": "2026-11-22T10:00:00Z",
        "pg_switch_wal": "0A",
        "last_archived_wal": "t",
        "hashtextextended": '{"rows": 1, "hash": "7"}',
    }
    manager = drill("")
    manager._sql = lambda query, _database="": next((a for word, a in answers.items() if word in query), "")  # type: ignore[method-assign]
    assert manager.apply("marked")["reference"]["loss_seconds"] == loss


def test_the_same_rows_are_none() -> None:
    assert drill('{"rows": 3, "hash": "7"}', reference=REFERENCE).apply("compared") == {}


def test_a_credential_that_does_not_open_is_a_failure() -> None:
    counts = iter(["3", "2"])
    manager = drill("")
    manager._execute = lambda *_: next(counts)  # type: ignore[method-assign]
    with pytest.raises(platform_drill.DrillError, match="2 of 3 credentials"):
        manager.apply("decrypted")


def test_a_source_without_a_credential_is_said_before_anything_is_restored() -> None:
    manager = drill("")
    manager._loss = lambda: 0.0  # type: ignore[method-assign]
    manager._sql = lambda *_: '{"rows": 0, "hash": "0"}'  # type: ignore[method-assign]
    with pytest.raises(platform_drill.DrillError, match=r"no credential .*site\.yml"):
        manager.apply("marked")


def test_the_outcome_is_written_where_metrics_are_read(tmp_path: Path) -> None:
    written = {"state_root": str(tmp_path), "environment": "production"}
    drill("", problem="it was begun and did not end", **written).apply("recorded")
    assert 'drill_ok{environment="production"} 0' in (tmp_path / "metrics/backup.prom").read_text()
    drill("", reference=REFERENCE, **written).apply("recorded")
    text = (tmp_path / "metrics/backup.prom").read_text()
    assert 'drill_ok{environment="production"} 1' in text
    assert 'drill_loss_seconds{environment="production"} 12.5' in text
