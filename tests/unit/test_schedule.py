"""due() as a table: local times, both changes of daylight saving time, missed runs, calendars that are no calendars."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from ansible.module_utils.n8n_platform import schedule

BERLIN = ZoneInfo("Europe/Berlin")
UTC = timezone.utc


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "last", "calendar", "expected"),
    [
        ("2026-06-10T00:30", "2026-06-09T00:05", "daily 02:00", True),  # 02:30 local
        ("2026-06-09T23:30", "2026-06-09T00:05", "daily 02:00", False),  # 01:30 local
        ("2026-06-14T12:00", "2026-06-10T00:05", "daily 02:00", True),  # several missed: one run
        ("2026-03-29T01:30", "2026-03-28T01:05", "daily 02:00", True),  # 02:00 does not exist, 03:30 local
        ("2026-03-29T05:30", "2026-03-29T01:30", "daily 02:00", False),
        ("2026-10-25T00:30", "2026-10-24T00:05", "daily 02:30", True),  # the first 02:30
        ("2026-10-25T01:35", "2026-10-25T00:30", "daily 02:30", False),  # the second 02:30
        ("2026-06-10T10:05", "2026-06-10T09:59", "hourly", True),
        ("2026-06-10T10:55", "2026-06-10T10:05", "hourly", False),
        ("2026-06-10T10:05", "2026-06-10T10:03", "every 2 minutes", True),
        ("2026-06-10T10:05", "2026-06-10T10:04", "every 2 minutes", False),
        ("2026-06-14T10:00", "2026-06-07T10:00", "weekly sun 03:00", True),
        ("2026-06-13T10:00", "2026-06-07T10:00", "weekly sun 03:00", False),
        ("2026-06-13T02:20", "2026-06-06T02:17", "weekly sat 04:17", True),  # 04:20 local
        ("2026-06-13T02:16", "2026-06-06T02:17", "weekly sat 04:17", False),  # 04:16 local
        ("2026-07-01T10:00", "2026-06-01T10:00", "monthly 1 03:00", True),
        ("2026-06-30T10:00", "2026-06-01T10:00", "monthly 1 03:00", False),
    ],
)
def test_due(now: str, last: str, calendar: str, expected: bool) -> None:
    assert schedule.due(at(now), at(last), calendar, BERLIN) is expected


def test_a_year_of_hourly_calls_runs_a_daily_job_once_a_day() -> None:
    last = at("2026-01-01T00:00")
    runs = []
    now = last
    while now < at("2027-01-01T00:00"):
        now += timedelta(hours=1)
        if schedule.due(now, last, "daily 02:00", BERLIN):
            runs.append(now.astimezone(BERLIN).date())
            last = now
    assert len(runs) == len(set(runs)) == 365


def test_never_run_is_due() -> None:
    assert schedule.due(at("2026-06-10T10:00"), None, "daily 02:00", BERLIN)


def test_one_that_waits_is_not_due_before_its_next_moment(tmp_path: Path) -> None:
    job = {"name": "drill", "calendar": "weekly sat 04:17", "command": ["/bin/true"], "wait": True}
    written = at("2026-06-10T10:00")
    made = schedule.Schedule({"time_zone": "Europe/Berlin", "jobs": [job]}, tmp_path, written)
    assert made.due_jobs(written + timedelta(minutes=2)) == []
    moment = at("2026-06-13T02:17")
    assert made.due_jobs(moment) == [job]
    made.run(job, moment)
    assert made.due_jobs(moment + timedelta(days=6)) == []
    assert made.due_jobs(moment + timedelta(days=7)) == [job]


def test_what_is_in_force_since_when_is_the_definition_s_own_time(tmp_path: Path) -> None:
    jobs = [
        {"name": "waits", "calendar": "every 1 minutes", "command": ["/bin/true"], "wait": True},
        {"name": "never ran", "calendar": "every 1 minutes", "command": ["/bin/true"]},
    ]
    definition = tmp_path / "schedule.json"
    definition.write_text(json.dumps({"time_zone": "Etc/UTC", "jobs": jobs}))
    command = [
        sys.executable,
        schedule.__file__,
        str(definition),
        "--state",
        str(tmp_path / "state"),
        "--list",
    ]

    def listed() -> list[str]:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    os.utime(definition, (time.time() + 60, time.time() + 60))
    assert listed() == ["never ran"]
    os.utime(definition, (time.time() - 60, time.time() - 60))
    assert listed() == ["waits", "never ran"]


@pytest.mark.parametrize(
    "calendar",
    [
        "",
        "daily",
        "daily 24:00",
        "hourly 10:00",
        "every 7 minutes",
        "every 0 minutes",
        "every 5 minutes 03:00",
        "weekly 03:00",
        "monthly 31 02:00",
        "yearly",
    ],
)
def test_a_wrong_calendar_is_refused_by_name(calendar: str) -> None:
    with pytest.raises(schedule.CalendarError, match="calendar"):
        schedule.due(at("2026-06-10T10:00"), at("2026-06-09T10:00"), calendar, BERLIN)


def test_a_job_runs_once_and_its_failure_is_kept(tmp_path: Path) -> None:
    jobs = [
        {"name": "good", "calendar": "hourly", "command": ["/bin/echo", "hello"]},
        {"name": "bad", "calendar": "hourly", "command": ["/nonexistent"]},
    ]
    made = schedule.Schedule({"time_zone": "Etc/UTC", "jobs": jobs}, tmp_path)
    now = at("2026-06-10T10:05")
    assert [made.run(job, now) for job in made.due_jobs(now)] == [0, 127]
    assert made.due_jobs(now + timedelta(minutes=10)) == []
    assert (tmp_path / "good.log").read_text() == "hello\n"
    assert json.loads((tmp_path / "bad.json").read_text())["rc"] == 127


def test_while_a_long_job_runs_only_those_run_that_may_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_LOOK_SECONDS", 0.05)
    waits = f"until [ -e {tmp_path}/watched ]; do sleep 0.05; done"
    jobs = [
        {"name": "long", "calendar": "hourly", "command": ["/usr/bin/timeout", "20", "/bin/sh", "-c", waits]},
        {"name": "other", "calendar": "hourly", "command": ["/usr/bin/touch", f"{tmp_path}/other"]},
        {
            "name": "watch",
            "calendar": "hourly",
            "command": ["/usr/bin/touch", f"{tmp_path}/watched"],
            "beside": True,
        },
    ]
    made = schedule.Schedule({"time_zone": "Etc/UTC", "jobs": jobs}, tmp_path)
    now = datetime.now(timezone.utc)
    due = made.due_jobs(now)
    assert [job["name"] for job in due] == ["watch", "long", "other"], "it is not what others wait for"
    assert made.run(due[1], now) == 0, "the long one ends when the other has run"
    assert (made.last("watch") or {})["rc"] == 0
    assert made.last("other") is None


@pytest.mark.parametrize("left", ["", '{"started": "2026-06-', "\0" * 80, "null", '{"rc": 0}'])
def test_a_record_that_a_loss_of_power_has_left_unreadable_is_none(tmp_path: Path, left: str) -> None:
    jobs = [
        {"name": "damaged", "calendar": "hourly", "command": ["/bin/true"]},
        {"name": "other", "calendar": "hourly", "command": ["/bin/true"]},
    ]
    made = schedule.Schedule({"time_zone": "Etc/UTC", "jobs": jobs}, tmp_path)
    now = at("2026-06-10T10:05")
    made.run(jobs[1], now)
    (tmp_path / "damaged.json").write_text(left)
    assert made.last("damaged") is None
    assert made.due_jobs(now) == [jobs[0]], "it is made anew, and nothing else waits for it"
    made.run(jobs[0], now)
    assert made.due_jobs(now) == []


def test_whatever_becomes_of_those_beside_it_the_end_of_a_job_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_LOOK_SECONDS", 0.05)
    jobs = [
        {"name": "long", "calendar": "hourly", "command": ["/bin/sleep", "0.5"]},
        {"name": "watch", "calendar": "never", "command": ["/bin/true"], "beside": True},
    ]
    made = schedule.Schedule({"time_zone": "Etc/UTC", "jobs": jobs}, tmp_path)
    assert made.run(jobs[0], at("2026-06-10T10:05")) == 0
    assert (made.last("long") or {})["rc"] == 0


def test_a_record_is_on_disk_before_it_replaces_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    replace = os.replace

    def fsync(descriptor: int) -> None:
        steps.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size > 0))

    def replaced(source: Path, target: Path) -> None:
        steps.append(("replace", str(source), True))
        replace(source, target)

    monkeypatch.setattr(schedule.os, "fsync", fsync)
    monkeypatch.setattr(schedule.os, "replace", replaced)
    job = {"name": "one", "calendar": "hourly", "command": ["/bin/true"]}
    schedule.Schedule({"time_zone": "Etc/UTC", "jobs": [job]}, tmp_path).run(job, at("2026-06-10T10:05"))
    temporary = str(tmp_path / ".one.json")
    assert steps == [("fsync", temporary, True), ("replace", temporary, True)]
