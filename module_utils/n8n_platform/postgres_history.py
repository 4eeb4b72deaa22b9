"""Which timelines a pgBackRest archive has, and which of its sets and moments the followed one holds.

After a restore in place the archive has two histories from one point on. What only the abandoned one has is never
reached along the other: recovery ends at the fork without an error, and a set of it is no beginning. Positions in the
log are numbers of bytes, times Unix seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.pgbackrest import Backup

LATEST = "latest"
# <timeline left>\t<position>\t<why>; of a recovery to a moment `before <time of the first transaction left out>`.
_LINE = re.compile(r"^\s*(\d+)\s+([0-9A-F]+)/([0-9A-F]+)\s*(.*)$", re.MULTILINE)
_TIME = re.compile(r"^(?:before|after) (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)([+-]\d\d)(?::?(\d\d))?")


@dataclass(frozen=True)
class Fork:
    """`at`: where `parent` was left for `child`; moment: up to which it is the same, None where that is not said."""

    parent: int
    child: int
    at: int
    moment: float | None


@dataclass(frozen=True)
class History:
    """`forks` lead to `timeline`, oldest first; begun: when each timeline of the archive was taken into use."""

    timeline: int
    forks: tuple[Fork, ...]
    begun: dict[int, float]

    def holds(self, backup: Backup) -> bool:
        """Whether a recovery along this history can begin with the set."""
        number = timeline_of(backup)
        ends = {fork.parent: fork.at for fork in self.forks}
        if number in (None, self.timeline) or not backup.lsn_stop:
            return True
        return number in ends and position(backup.lsn_stop) <= ends[number]

    def refuse_older(self, backups: Iterable[Backup]) -> None:
        """Raises BackupError when the newest timeline is not the one in use: a set of another one is younger."""
        for backup in backups:
            if not self.holds(backup) and backup.stop > self.begun.get(self.timeline, backup.stop):
                raise BackupError(
                    f"the archive's newest timeline, {self.timeline}, was left again before the set {backup.label}: "
                    f"give restore_timeline={timeline_of(backup)}, the one that is in use"
                )

    def refuse_abandoned(self, moment: datetime) -> None:
        """Raises BackupError for a moment that this history has nothing of."""
        at = moment.timestamp()
        for fork in self.forks:
            begun = self.begun.get(fork.child)
            if fork.moment is None or begun is None or not fork.moment < at < begun:
                continue
            used = max((number for number, since in self.begun.items() if since <= at), default=1)
            raise BackupError(
                f"restore_time: {moment.isoformat()} lies between {_text(fork.moment)}, to which a restore went back, "
                f"and {_text(begun)}, when it was done: the history in use has nothing of that. Give "
                f"restore_timeline={used}, the one that was in use then"
            )


def parse(timeline: int, text: str, begun: dict[int, float], backups: Sequence[Backup]) -> History:
    """`text`: of Postgres' <timeline>.history. A restore to a set's end says no moment; it is the set's."""
    lines = _LINE.findall(text)
    children = [*(int(line[0]) for line in lines[1:]), timeline]
    forks = []
    for (parent, high, low, why), child in zip(lines, children, strict=True):
        at = position(f"{high}/{low}")
        moment = _time(why)
        if why.startswith("reached consistency"):
            ended = [
                one.stop
                for one in backups
                if timeline_of(one) == int(parent) and position(one.lsn_stop) <= at
            ]
            moment = max(ended, default=None)
        forks.append(Fork(int(parent), child, at, moment))
    return History(timeline, tuple(forks), begun)


def timeline_of(backup: Backup) -> int | None:
    try:
        return int(backup.wal_stop[:8], 16)
    except ValueError:
        return None


def position(lsn: str) -> int:
    """`0/3000028`; 0 for none."""
    high, _, low = (lsn or "0/0").partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _time(why: str) -> float | None:
    match = _TIME.match(why)
    if not match:
        return None
    day, hours, minutes = match.groups()
    return datetime.fromisoformat(f"{day}{hours}:{minutes or '00'}").timestamp()


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds")
