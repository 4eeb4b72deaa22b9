"""Every kind of item by its name.

A kind has forecast(context) -> bytes and run(context, staging) -> artefacts, and where it makes sense
verify(context) -> problems, prune(context, repository, dry_run) -> what went, status(context) -> facts,
completed(context) -> what went of a way back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ansible.module_utils.n8n_platform.backup import BackupError, Context, Definition, Exit
from ansible.module_utils.n8n_platform.backup_directory import Directory
from ansible.module_utils.n8n_platform.backup_facts import Facts
from ansible.module_utils.n8n_platform.backup_lock import RESTORE
from ansible.module_utils.n8n_platform.backup_openbao import OpenbaoSnapshot
from ansible.module_utils.n8n_platform.backup_pg_dump import PgDump
from ansible.module_utils.n8n_platform.backup_pgbackrest import PgBackRestItem
from ansible.module_utils.n8n_platform.backup_redis import RedisRdb


class Kind(Protocol):
    """What a run needs of an item. Everything raises BackupError."""

    name: str

    def forecast(self, context: Context, /) -> int: ...

    def run(self, context: Context, staging: Path, /) -> list[dict[str, Any]]: ...


# In the order of a run: the database first, so that nothing else of the set is older than it.
KINDS: dict[str, Any] = {
    "facts": Facts,
    "pgbackrest": PgBackRestItem,
    "pg_dump": PgDump,
    "redis_rdb": RedisRdb,
    "openbao_snapshot": OpenbaoSnapshot,
    "directory": Directory,
}
KEYS = "keys"
# Too much for every hour.
_DAILY = {"pg_dump"}
# What lies in staging first and in the repository then.
STAGED = {"pg_dump", "redis_rdb", "openbao_snapshot"}


def settle(context: Context) -> list[str]:
    """After a good set: what was kept for a way back goes, in words; not while a restore may still need it."""
    if (context.definition.state_root / RESTORE).exists():
        return []
    items = [item for _, item in build(context.definition) if hasattr(item, "completed")]
    return [line for item in items for line in item.completed(context)]


def check_items(definition: Definition) -> None:
    """Raises BackupError (USAGE) that names an unknown kind, a missing key, or a name that two items have."""
    seen: set[str] = set()
    for item in definition.items:
        name = str(item.get("name", ""))
        if not name or name in seen:
            raise BackupError(f"items: {f'two are named {name}' if name else 'one has no name'}", Exit.USAGE)
        seen.add(name)
        if item.get("kind") not in {*KINDS, KEYS}:
            known = ", ".join(sorted({*KINDS, KEYS}))
            raise BackupError(f"item {name}: kind {item.get('kind')!r} is none of {known}", Exit.USAGE)


def build(definition: Definition, run_type: str = "full") -> list[tuple[str, Kind]]:
    """(kind, object) of each item that a run of this type takes, in order."""
    check_items(definition)
    found: list[tuple[str, Kind]] = []
    for kind, make in KINDS.items():
        if run_type == "incr" and kind in _DAILY:
            continue
        for item in definition.of_kind(kind):
            try:
                found.append((kind, make(item)))
            except KeyError as error:
                raise BackupError(f"item {item['name']}: {error.args[0]} is missing", Exit.USAGE) from None
    return found
