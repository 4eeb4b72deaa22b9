"""What stands between two sets: whether the write-ahead log still reaches its repositories, and is whole there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context
from ansible.module_utils.n8n_platform.backup_kinds import build

# A segment ends once a minute, and one is archived in seconds; a server that was down has to catch up first.
_LAG_SECONDS = 120.0
# Of what may wait before it is dropped; and what is too much however much may.
_WAITING_SHARE = 4
_WAITING_BYTES = 256 << 20


def watch(
    context: Context, known: dict[str, dict[str, Any]] | None = None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """({item: {lag_seconds, waiting_bytes, failed_count, gaps: [{repository, segments, from, to}]}}, what somebody
    should look at). With `known`, the facts of an earlier call, no repository is asked, and their gaps stay."""
    facts: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for _kind, item in build(context.definition):
        if not hasattr(item, "archiving"):
            continue
        if item.stopped(context):
            # For maintenance: nothing is written, and nobody need be told.
            if known and item.name in known:
                facts[item.name] = known[item.name]
            continue
        try:
            found = item.archiving(context)
            gaps = _gaps(item.status(context)) if known is None else known.get(item.name, {}).get("gaps", [])
        except BackupError as error:
            problems.append(f"{item.name}: {error}")
            continue
        facts[item.name] = {
            "lag_seconds": float(found["lag_seconds"]),
            "waiting_bytes": int(found["waiting_bytes"]),
            "failed_count": int(found["failed_count"]),
            "gaps": gaps,
        }
        problems += [f"{item.name}: {text}" for text in _judge(found, gaps)]
    return facts, problems


def _judge(archiving: dict[str, Any], gaps: list[dict[str, Any]]) -> list[str]:
    """What is wrong now: a hole that a later set has closed costs its moments, and calls for nobody any more."""
    found = []
    lag = float(archiving["lag_seconds"])
    if min(lag, float(archiving["up_seconds"])) > _LAG_SECONDS:
        found.append(f"the write-ahead log has not been archived for {lag:.0f} s")
    waiting, limit = int(archiving["waiting_bytes"]), int(archiving["waiting_limit_bytes"])
    if waiting > min(_WAITING_BYTES, limit // _WAITING_SHARE or _WAITING_BYTES):
        found.append(f"{waiting} bytes of write-ahead log wait to be archived, beyond {limit} it is dropped")
    if holes := [in_words(gap) for gap in gaps if not gap["to"]]:
        found.append(f"moments that cannot be restored: {'; '.join(holes[:5])}")
    return found


def in_words(gap: dict[str, Any]) -> str:
    until = gap["to"] or "the next set"
    return f"between {gap['from']} and {until}, {gap['repository']} lacks write-ahead log {gap['segments']}"


def _gaps(status: dict[str, Any]) -> list[dict[str, Any]]:
    """From the end of the last set before the hole, for nobody knows when its first segment was begun, to the end of
    the first one after it; `to` is empty as long as there is none."""
    return [
        {
            "repository": name,
            "segments": hole,
            "from": _end([one for one in repository["sets"] if one["wal_stop"] <= hole.split("..")[0]], -1),
            "to": _end([one for one in repository["sets"] if one["wal_start"] > hole.split("..")[0]], 0),
        }
        for name, repository in status["repositories"].items()
        for hole in repository["wal_gaps"]
    ]


def _end(sets: Sequence[dict[str, Any]], which: int) -> str:
    return datetime.fromtimestamp(sets[which]["stop"], timezone.utc).isoformat() if sets else ""
