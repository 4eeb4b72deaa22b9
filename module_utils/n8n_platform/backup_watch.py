"""What stands between two sets: whether the write-ahead log still reaches its repositories, and is whole there."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context
from ansible.module_utils.n8n_platform.backup_kinds import build

_LAG_SECONDS = 900.0
_WAITING_BYTES = 256 << 20


def watch(context: Context) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """({item: {lag_seconds, waiting_bytes, failed_count, gaps}}, what somebody should look at)."""
    facts: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for _kind, item in build(context.definition):
        if not hasattr(item, "status"):
            continue
        try:
            status = item.status(context)
        except BackupError as error:
            problems.append(f"{item.name}: {error}")
            continue
        gaps = [f"{name} {gap}" for name, one in status["repositories"].items() for gap in one["wal_gaps"]]
        facts[item.name] = {
            "lag_seconds": float(status["lag_seconds"]),
            "waiting_bytes": int(status["waiting_bytes"]),
            "failed_count": int(status["failed_count"]),
            "gaps": gaps,
        }
        problems += _judge(item.name, facts[item.name])
    return facts, problems


def _judge(name: str, facts: dict[str, Any]) -> list[str]:
    found = []
    if facts["lag_seconds"] > _LAG_SECONDS:
        found.append(f"{name}: the write-ahead log has not been archived for {facts['lag_seconds']:.0f} s")
    if facts["waiting_bytes"] > _WAITING_BYTES:
        found.append(f"{name}: {facts['waiting_bytes']} bytes of write-ahead log wait to be archived")
    if facts["gaps"]:
        found.append(
            f"{name}: moments that cannot be restored, write-ahead log is missing: {', '.join(facts['gaps'][:5])}"
        )
    return found
