"""Which sets of a repository stay and which go: pure functions of the time and of what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from ansible.module_utils.n8n_platform.backup import BackupError, run_id
from ansible.module_utils.n8n_platform.backup_manifest import Set
from ansible.module_utils.n8n_platform.schedule import last_occurrence

# A clock that is a little behind is no reason to stop.
_CLOCK_SLACK = timedelta(minutes=5)


@dataclass(frozen=True)
class Plan:
    """Runs by id, oldest first. `base`: the set from which the first moment of the window is restored; `horizon`: that
    moment; `why`: a word per kept run (window, base, minimum, unknown)."""

    keep: list[str]
    gone: list[str]
    horizon: datetime
    base: str = ""
    why: dict[str, str] = field(default_factory=dict)


def plan(now: datetime, sets: Sequence[Set], days: int, minimum: int) -> Plan:
    """Every moment of the last `days` days stays restorable, and at least the `minimum` newest good sets stay.

    A set without a good manifest is nothing that could be restored: it goes when it is older than the window, and
    never counts for the minimum. Raises BackupError when the clock has gone back behind the newest set.
    """
    ordered = sorted(sets, key=lambda one: one.run)
    if ordered and ordered[-1].started > now + _CLOCK_SLACK:
        raise BackupError(
            f"the clock says {now.isoformat()}, which is before the newest set {ordered[-1].run}: nothing is pruned"
        )
    horizon = now - timedelta(days=days)
    good = [one for one in ordered if one.good]
    before = [one for one in good if one.started <= horizon]
    base = before[-1].run if before else ""
    why: dict[str, str] = {}
    for one in ordered:
        if one.started > horizon:
            why[one.run] = "window" if one.good else "unknown"
    if base:
        why[base] = "base"
    for one in good[-minimum:] if minimum else []:
        why.setdefault(one.run, "minimum")
    keep = [one.run for one in ordered if one.run in why]
    return Plan(keep, [one.run for one in ordered if one.run not in why], horizon, base, why)


def due_type(now: datetime, sets: Sequence[Set], calendar: dict[str, str], zone: ZoneInfo) -> str | None:
    """`full`, `diff`, `incr`, or None when nothing is owed; decided by the sets that are there, not by what ran.

    `calendar`: {full, diff, incr}, an empty one switches its type off. A set of a greater type serves the smaller ones.
    """
    good = [one for one in sets if one.manifest]
    order = ("full", "diff", "incr")
    for index, kind in enumerate(order):
        if not calendar.get(kind):
            continue
        serving = [one for one in good if one.manifest and one.manifest["type"] in order[: index + 1]]
        # As names: they sort as time does.
        newest = max((one.run for one in serving), default="")
        if newest < run_id(last_occurrence(now, calendar[kind], zone)):
            return kind
    return None


def missed(now: datetime, sets: Sequence[Set], since: datetime, maximum_age: timedelta) -> str:
    """Words when the newest good set is older than it may be, else empty; `since`: when backups were set up."""
    newest = max((one.started for one in sets if one.good), default=None)
    age = now - (newest or since)
    if age <= maximum_age:
        return ""
    hours = f"{age.total_seconds() / 3600:.1f} h"
    if newest is None:
        return f"no backup has been made since backups were set up {hours} ago"
    return f"the newest backup is {hours} old, backup_maximum_age_hours is {maximum_age.total_seconds() / 3600:g}"
