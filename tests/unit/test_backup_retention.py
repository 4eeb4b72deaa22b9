"""What stays, what goes and what is owed, as tables of times; the clock is always an argument."""

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from ansible.module_utils.n8n_platform.backup import BackupError, run_id
from ansible.module_utils.n8n_platform.backup_manifest import Set
from ansible.module_utils.n8n_platform.backup_retention import due_type, missed, plan

BERLIN = ZoneInfo("Europe/Berlin")
CALENDAR = {"full": "weekly sun 02:00", "diff": "daily 02:00", "incr": "hourly"}
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def one(moment: datetime, kind: str = "diff", good: bool = True) -> Set:
    manifest: dict[str, Any] = {"type": kind}
    return Set(run_id(moment), manifest if good else None, "" if good else "damaged")


def daily(count: int, newest: datetime = NOW - timedelta(hours=10)) -> list[Set]:
    """One set a day, the newest last."""
    return [one(newest - timedelta(days=age)) for age in reversed(range(count))]


def ages(runs: list[str], sets: list[Set]) -> list[float]:
    return sorted((NOW - one.started).total_seconds() / 86400 for one in sets if one.run in runs)


@pytest.mark.parametrize(("days", "first_gone"), [(7, 8), (30, 31)])
def test_a_set_goes_on_the_day_after_the_window_and_not_before(days: int, first_gone: int) -> None:
    sets = daily(40)
    found = plan(NOW, sets, days, minimum=2)
    kept, gone = ages(found.keep, sets), ages(found.gone, sets)
    # The oldest kept one is that from which the first moment of the window is restored.
    assert days <= kept[-1] < first_gone
    assert gone[0] >= first_gone
    assert len(kept) + len(gone) == 40


def test_the_first_moment_of_the_window_has_a_set_to_start_from() -> None:
    weekly = [one(NOW - timedelta(days=age), "full") for age in (27, 20, 13, 6)]
    found = plan(NOW, weekly, 7, minimum=1)
    assert found.base == weekly[2].run
    assert found.keep == [weekly[2].run, weekly[3].run]
    assert found.why == {weekly[2].run: "base", weekly[3].run: "window"}


@pytest.mark.parametrize("hour", range(0, 24 * 40, 7))
def test_whenever_it_runs_every_moment_of_the_window_stays_restorable(hour: int) -> None:
    """Pruned every few hours for weeks: at each time something not younger than each moment of the window is there."""
    now = NOW + timedelta(hours=hour)
    sets = [one(NOW - timedelta(days=20) + timedelta(hours=6 * i)) for i in range(4 * 60)]
    sets = [each for each in sets if each.started <= now]
    kept = plan(now, sets, 7, minimum=2).keep
    moments = [now - timedelta(days=7) + timedelta(hours=step) for step in range(24 * 7)]
    assert all(any(run <= run_id(moment) for run in kept) for moment in moments)


def test_the_minimum_of_good_sets_stays_however_old_they_are() -> None:
    sets = daily(5, newest=NOW - timedelta(days=400))
    found = plan(NOW, sets, 7, minimum=3)
    assert found.keep == [each.run for each in sets[-3:]]


def test_damaged_sets_are_no_good_sets() -> None:
    good = one(NOW - timedelta(days=300))
    bad = [one(NOW - timedelta(days=age), good=False) for age in (200, 100, 3)]
    found = plan(NOW, [good, *bad], 7, minimum=1)
    assert found.keep == [good.run, bad[2].run], (
        "the only good one stays, a young damaged one is looked at first"
    )
    assert found.why[bad[2].run] == "unknown"


def test_a_clock_that_went_back_prunes_nothing() -> None:
    with pytest.raises(BackupError, match="before the newest set"):
        plan(NOW - timedelta(days=2), daily(3), 7, minimum=2)


def test_nothing_there_is_nothing_to_do() -> None:
    assert (plan(NOW, [], 7, 2).keep, plan(NOW, [], 7, 2).gone) == ([], [])


@pytest.mark.parametrize(
    ("now", "sets", "expected"),
    [
        ("2026-06-10T10:00", [], "full"),
        # Sunday the 7th, 02:30 local: all others follow from this one.
        ("2026-06-07T00:45", [("2026-06-07T00:30", "full")], None),
        ("2026-06-07T01:05", [("2026-06-07T00:30", "full")], "incr"),
        ("2026-06-07T23:59", [("2026-06-07T00:30", "full"), ("2026-06-07T23:05", "incr")], None),
        ("2026-06-08T00:30", [("2026-06-07T00:30", "full"), ("2026-06-07T23:05", "incr")], "diff"),
        ("2026-06-08T00:45", [("2026-06-07T00:30", "full"), ("2026-06-08T00:30", "diff")], None),
        # Missed: the host was off over Sunday, or for a month; one set makes up for all.
        ("2026-06-15T08:10", [("2026-06-07T00:30", "full"), ("2026-06-12T00:30", "diff")], "full"),
        ("2026-07-15T08:10", [("2026-06-07T00:30", "full")], "full"),
        ("2026-07-15T08:40", [("2026-06-07T00:30", "full"), ("2026-07-15T08:10", "full")], None),
        # The clock changes: 02:00 does not exist on 29 March (03:00 is 01:00 UTC), and 25 October has two of them.
        ("2026-03-29T00:59", [("2026-03-28T01:05", "full"), ("2026-03-29T00:05", "incr")], None),
        ("2026-03-29T01:17", [("2026-03-28T01:05", "full"), ("2026-03-29T00:17", "incr")], "full"),
        ("2026-03-29T01:50", [("2026-03-29T01:17", "full")], None),
        ("2026-10-25T00:17", [("2026-10-24T00:17", "full"), ("2026-10-24T23:17", "incr")], "full"),
        ("2026-10-25T01:17", [("2026-10-25T00:17", "full")], "incr"),
        ("2026-10-25T02:17", [("2026-10-25T00:17", "full"), ("2026-10-25T01:17", "incr")], "incr"),
    ],
)
def test_what_the_calendar_owes(now: str, sets: list[tuple[str, str]], expected: str | None) -> None:
    there = [one(at(moment), kind) for moment, kind in sets]
    assert due_type(at(now), there, CALENDAR, BERLIN) == expected


def test_a_set_that_failed_is_owed_again() -> None:
    there = [one(at("2026-06-07T00:30"), "full", good=False)]
    assert due_type(at("2026-06-07T01:17"), there, CALENDAR, BERLIN) == "full"


def test_a_type_that_is_switched_off_is_never_owed() -> None:
    there = [one(at("2026-06-07T00:30"), "full")]
    calendar = {**CALENDAR, "incr": ""}
    assert due_type(at("2026-06-07T05:30"), there, calendar, BERLIN) is None


def test_a_year_of_hourly_calls_makes_52_full_and_313_differential_sets() -> None:
    """At 17 minutes past each hour, over both changes of the clock: no day without one, none with two."""
    there: list[Set] = []
    now = at("2026-01-01T00:17")
    while now < at("2027-01-01T00:00"):
        kind = due_type(now, there[-190:], CALENDAR, BERLIN)
        assert kind, "with an hourly type something is owed at every call"
        there.append(one(now, kind))
        now += timedelta(hours=1)
    made = [(each.started.astimezone(BERLIN), each.manifest["type"]) for each in there[1:] if each.manifest]
    days = [moment.date() for moment, kind in made if kind in ("full", "diff")]
    assert len(days) == len(set(days)) == 365
    assert sum(kind == "full" for _, kind in made) == 52
    assert {moment.hour for moment, kind in made if kind != "incr"} == {2, 3}, "3 only where 2 does not exist"
    assert [moment.isoformat() for moment, kind in made if kind != "incr" and moment.hour == 3] == [
        "2026-03-29T03:17:00+02:00"
    ]


@pytest.mark.parametrize(
    ("hours", "good", "since_hours", "words"),
    [
        (2, True, 500, ""),
        (26, True, 500, ""),
        (27, True, 500, "the newest backup is 27.0 h old"),
        (2, False, 500, "no backup has been made since backups were set up 500.0 h ago"),
        (2, False, 5, ""),
    ],
)
def test_a_missed_run_is_noticed(hours: int, good: bool, since_hours: int, words: str) -> None:
    sets = [one(NOW - timedelta(hours=hours), good=good)]
    found = missed(NOW, sets, NOW - timedelta(hours=since_hours), timedelta(hours=26))
    assert found.startswith(words) if words else found == ""
