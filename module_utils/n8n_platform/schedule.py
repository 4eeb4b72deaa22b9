"""Decides which scheduled commands of an environment are due, and runs them.

Installed on the target and called every other minute (systemd timer or cron). What is due follows from the time of the
last run, not from the clock alone: a missed run is made up for at the next call, and a change to or from daylight
saving time neither skips nor doubles one. A job that never ran is due at once, one with ``wait`` not before the next
moment of its calendar. Jobs run one after another; one with ``beside``, which has to be short, also while another runs.

Calendars (times are local to the environment's time zone): ``every N minutes`` (N divides 60), ``hourly``,
``daily HH:MM``, ``weekly mon HH:MM``, ``monthly D HH:MM`` (D is 1 to 28).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CALENDAR = re.compile(
    r"^(?:(?P<hourly>hourly|every (?P<minutes>[0-9]{1,2}) minutes)|(?P<daily>daily)"
    r"|weekly (?P<weekday>mon|tue|wed|thu|fri|sat|sun)|monthly (?P<day>[0-9]{1,2}))"
    r"(?: (?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]))?$"
)
# Between two looks at what may run beside a job.
_LOOK_SECONDS = 30.0


class CalendarError(ValueError):
    """A calendar that says nothing we understand; the message quotes it."""


def last_occurrence(now: datetime, calendar: str, zone: ZoneInfo) -> datetime:
    """The latest moment at or before `now` (aware) at which `calendar` fell, in UTC."""
    match = _CALENDAR.match(calendar)
    if not match or bool(match["hourly"]) == bool(match["hour"]):
        raise CalendarError(
            f"calendar '{calendar}': expected every N minutes, hourly, daily HH:MM, weekly mon HH:MM or monthly D HH:MM"
        )
    now = now.astimezone(timezone.utc)
    if match["hourly"]:
        minutes = int(match["minutes"] or 60)
        if not minutes or 60 % minutes:
            raise CalendarError(f"calendar '{calendar}': the minutes have to divide an hour")
        return now.replace(minute=now.minute - now.minute % minutes, second=0, microsecond=0)
    if match["day"] and not 1 <= int(match["day"]) <= 28:
        raise CalendarError(f"calendar '{calendar}': the day of a month is 1 to 28")
    at = time(int(match["hour"]), int(match["minute"]))
    day = now.astimezone(zone).date()
    while not (_falls_on(day, match) and _moment(day, at, zone) <= now):
        day -= timedelta(days=1)
    return _moment(day, at, zone)


def due(now: datetime, last_run: datetime | None, calendar: str, zone: ZoneInfo) -> bool:
    """Whether a run is owed: the latest occurrence is later than the last run (None: never ran)."""
    return last_run is None or last_run < last_occurrence(now, calendar, zone)


def _falls_on(day: date, match: re.Match[str]) -> bool:
    if match["weekday"]:
        return WEEKDAYS[day.weekday()] == match["weekday"]
    return not match["day"] or day.day == int(match["day"])


def _moment(day: date, at: time, zone: ZoneInfo) -> datetime:
    # fold=0: of an hour that happens twice the first one; an hour that does not exist becomes the one after it.
    return datetime.combine(day, at, tzinfo=zone).astimezone(timezone.utc)


class Schedule:
    """The jobs of one environment with their last runs, kept as one small file each below `state`."""

    def __init__(self, definition: dict[str, Any], state: Path, written: datetime | None = None) -> None:
        """`written`: since when the definition is in force; needed where a job waits."""
        self.zone = ZoneInfo(definition["time_zone"])
        self.jobs: list[dict[str, Any]] = definition["jobs"]
        self.state = state
        self.written = written

    def last(self, name: str) -> dict[str, Any] | None:
        """`{started, finished, rc}` of the last run of a job; None where there was none, or its record is damaged."""
        try:
            found: dict[str, Any] = json.loads((self.state / f"{name}.json").read_text(encoding="utf-8"))
            datetime.fromisoformat(found["started"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return found

    def due_jobs(self, now: datetime) -> list[dict[str, Any]]:
        def last_run(job: dict[str, Any]) -> datetime | None:
            if last := self.last(job["name"]):
                return datetime.fromisoformat(last["started"])
            return self.written if job.get("wait") else None

        owed = [job for job in self.jobs if due(now, last_run(job), job["calendar"], self.zone)]
        return sorted(owed, key=lambda job: not job.get("beside"))

    def run(self, job: dict[str, Any], now: datetime) -> int:
        """Runs a job; its output goes to `<name>.log` (the last run only) and its end to `<name>.json`."""
        with (self.state / f"{job['name']}.log").open("wb") as log:
            try:
                process = subprocess.Popen(
                    job["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            except OSError as error:
                log.write(str(error).encode())
                code = 127
            else:
                code = self._wait(process, job)
        record = {"started": now.isoformat(), "finished": datetime.now(timezone.utc).isoformat(), "rc": code}
        temporary = self.state / f".{job['name']}.json"
        # By hand: this program is installed by itself, without the modules beside it.
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(record))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.state / f"{job['name']}.json")
        return code

    def _wait(self, process: subprocess.Popen[bytes], job: dict[str, Any]) -> int:
        while True:
            try:
                return process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                # Whatever becomes of the others, this one has to be waited for.
                with contextlib.suppress(OSError, ValueError):
                    self._run_beside(job)

    def _run_beside(self, job: dict[str, Any]) -> None:
        now = datetime.now(timezone.utc)
        for other in self.due_jobs(now):
            if other.get("beside") and not job.get("beside"):
                self.run(other, now)


def main() -> int:
    """Runs what is due, one after the other; a second caller at the same time does nothing. 1 when a job failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("definition", type=Path, help="the environment's schedule.json")
    parser.add_argument("--state", type=Path, required=True, help="folder of last runs and logs")
    parser.add_argument("--list", action="store_true", help="only say what is due")
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    with (options.state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        written = datetime.fromtimestamp(options.definition.stat().st_mtime, timezone.utc)
        schedule = Schedule(
            json.loads(options.definition.read_text(encoding="utf-8")), options.state, written
        )
        now = datetime.now(timezone.utc)
        jobs = schedule.due_jobs(now)
        if options.list:
            print("\n".join(job["name"] for job in jobs))
            return 0
        codes = {job["name"]: schedule.run(job, now) for job in jobs}
    for name, code in codes.items():
        print(f"{name}: {'done' if code == 0 else f'failed with {code}'}")
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
