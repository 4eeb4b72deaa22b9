"""Which sets of a pgBackRest repository are still needed. Pure: `now` is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ansible.module_utils.n8n_platform.pgbackrest import Backup

_DAY = 86400
# A greater one serves for the smaller ones.
_TYPES = ("full", "diff", "incr")


@dataclass(frozen=True)
class Expiry:
    """`keep_fulls`: how many of the newest full sets stay (what pgBackRest is told); `gone`: labels that go with the
    others, oldest first; `wal_from`: the first segment that stays."""

    keep_fulls: int
    gone: tuple[str, ...]
    wal_from: str


def plan(backups: Sequence[Backup], now: float, days: int, minimum_sets: int) -> Expiry:
    """Every moment of the last `days` stays: the full sets that ended in that time, and the newest one before it, since
    only with that one the beginning of the time can be reached. Never fewer than `minimum_sets` sound ones; a set with
    damaged pages counts for nothing. `backups` are of one repository, in order of time.
    """
    fulls = [backup for backup in reversed(backups) if backup.type == "full"]
    oldest_needed = now - days * _DAY
    sound = [index for index, backup in enumerate(fulls) if not backup.damaged]
    reaching = next((index for index in sound if fulls[index].stop <= oldest_needed), len(fulls) - 1)
    enough = sound[minimum_sets - 1] if 0 < minimum_sets <= len(sound) else len(fulls) - 1
    keep = max(reaching, enough) + 1
    if not fulls or keep >= len(fulls):
        return Expiry(len(fulls), (), fulls[-1].wal_start if fulls else "")
    goes = {backup.label for backup in fulls[keep:]}
    gone = tuple(backup.label for backup in backups if backup.full_label in goes)
    return Expiry(keep, gone, fulls[keep - 1].wal_start)


def made_in_vain(backups: Sequence[Backup], wanted: str, now: float, newest: str | None) -> bool:
    """Whether a sound set that serves for `wanted` was made in the last day by a run after `newest`, the last good one
    (None: not known): its database is there, and something else of the run has failed."""
    serving = _TYPES[: _TYPES.index(wanted) + 1]
    return newest is not None and any(
        backup.type in serving
        and not backup.damaged
        and now - backup.stop < _DAY
        and backup.annotations.get("run", "") > newest
        for backup in backups
    )
