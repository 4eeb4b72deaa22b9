"""Postgres: server settings from a container's size, and instances completed from what an operator wrote."""

from __future__ import annotations

import math
import re
from typing import Any

from ansible.errors import AnsibleFilterError

_MB = 1024  # kB
_INSTANCE_NAME = re.compile(r"^[a-z][a-z0-9]{0,30}$")  # becomes part of a host name
_SQL_NAME = re.compile(r"^[a-z][a-z0-9_]{0,50}$")
_STORAGE = {  # pgtune: (random_page_cost, effective_io_concurrency)
    "hdd": ("4", 2),
    "ssd": ("1.1", 200),
    "nvme": ("1.1", 1000),
}
_RESERVED_CONNECTIONS = 10
_INSTANCE_DEFAULTS: dict[str, Any] = {
    "settings": {},
    "role_settings": {},
    "extensions": ["pg_stat_statements"],
    "tables": {},
}
_SIZES = ("memory_mb", "cpus", "connections", "storage")
_NAMES = ("database", "owner_role", "app_role")


def postgres_settings(
    memory_mb: int, cpus: float | str, connections: int, storage: str = "ssd"
) -> dict[str, str]:
    """Server settings by pgtune's rules (github.com/le0pard/pgtune, configurationSlice.js, type `oltp`).

    `memory_mb` is the container's limit in MiB, `cpus` its cores, `connections` becomes max_connections,
    `storage` is hdd, ssd or nvme. Values are strings as postgresql.conf takes them. Raises AnsibleFilterError
    naming the argument.

    - shared_buffers: memory / 4; effective_cache_size: memory * 3/4
    - maintenance_work_mem: memory / 16, at most 8 GB
    - work_mem: (memory - shared_buffers) / ((connections + max_worker_processes) * 3), at least 4 MB
    - wal_buffers: 3 % of shared_buffers, at most 16 MB (and 16 MB from 14 MB on)
    - max_wal_size: 8 GB, min_wal_size a quarter of it. Ours: not more than four times the memory, so that a
      small container does not fill a small disk.
    - parallel workers only from four cores on: all cores, half of them per query, at most 4
    - huge_pages: off below 2 GB of shared_buffers
    """
    memory, cores = _positive("memory_mb", memory_mb), _positive("cpus", cpus)
    backends = int(_positive("connections", connections))
    if storage not in _STORAGE:
        raise AnsibleFilterError(f"storage: {storage!r} is none of {', '.join(sorted(_STORAGE))}")
    if memory < 256:
        raise AnsibleFilterError(f"memory_mb: {memory_mb} is too small, Postgres needs 256 or more")

    memory_kb = int(memory) * _MB
    buffers_kb = memory_kb // 4
    workers = math.floor(cores) if cores >= 4 else 8
    work_mem_kb = (memory_kb - buffers_kb) // ((backends + workers) * 3)
    max_wal_mb = min(8192, 4 * int(memory))
    page_cost, io_concurrency = _STORAGE[storage]
    settings = {
        "max_connections": str(backends),
        "shared_buffers": _megabytes(buffers_kb),
        "effective_cache_size": _megabytes(memory_kb * 3 // 4),
        "maintenance_work_mem": _megabytes(min(memory_kb // 16, 8192 * _MB)),
        "work_mem": f"{max(work_mem_kb, 4 * _MB)}kB",
        "wal_buffers": f"{_wal_buffers_kb(buffers_kb)}kB",
        "min_wal_size": f"{max_wal_mb // 4}MB",
        "max_wal_size": f"{max_wal_mb}MB",
        "checkpoint_completion_target": "0.9",
        "default_statistics_target": "100",
        "random_page_cost": page_cost,
        "effective_io_concurrency": str(io_concurrency),
        "huge_pages": "try" if buffers_kb >= 2048 * _MB else "off",
    }
    if cores >= 4:
        half = str(min(math.ceil(cores / 2), 4))
        settings |= {
            "max_worker_processes": str(workers),
            "max_parallel_workers": str(workers),
            "max_parallel_workers_per_gather": half,
            "max_parallel_maintenance_workers": half,
        }
    return settings


def postgres_instances(
    instances: dict[str, dict[str, Any] | None],
    sizes: dict[str, Any],
    settings: dict[str, str],
    secrets_root: str,
) -> dict[str, dict[str, Any]]:
    """Completes `postgres_instances`: names from the instance's name, sizes from `sizes`, settings and roles.

    Result per instance: database, owner_role, app_role, memory_mb, cpus, connections, storage, `settings`
    (computed, then `settings`, then the instance's own), and `roles` and `databases` as the module
    postgres_instance takes them; the application's password is `secrets_root`/postgres_<name>_app_password.
    Raises AnsibleFilterError naming the field.
    """
    if not instances:
        raise AnsibleFilterError("postgres_instances: is empty")
    done = {name: _instance(name, own or {}, sizes, settings) for name, own in instances.items()}
    for name, instance in done.items():
        instance["roles"] = _roles(instance, f"{secrets_root}/postgres_{name}_app_password")
        instance["databases"] = [_database(instance)]
    return done


def _instance(
    name: str, own: dict[str, Any], sizes: dict[str, Any], settings: dict[str, str]
) -> dict[str, Any]:
    field = f"postgres_instances.{name}"
    if not _INSTANCE_NAME.match(name):
        raise AnsibleFilterError(f"{field}: a name is a letter, then letters a-z and digits, 31 at most")
    names = {"database": name, "owner_role": f"{name}_owner", "app_role": name}
    known = [*names, *_SIZES, *_INSTANCE_DEFAULTS]
    for key in own:
        if key not in known:
            raise AnsibleFilterError(f"{field}.{key}: is not known; known are {', '.join(known)}")
    done = {**names, **sizes, **_INSTANCE_DEFAULTS, **own}
    for key in _NAMES:
        if not _SQL_NAME.match(str(done[key])) or done[key] == "postgres":
            raise AnsibleFilterError(f"{field}.{key}: {done[key]!r} cannot be used")
    if done["owner_role"] == done["app_role"]:
        raise AnsibleFilterError(f"{field}.owner_role: must differ from app_role")
    try:
        computed = postgres_settings(done["memory_mb"], done["cpus"], done["connections"], done["storage"])
    except AnsibleFilterError as error:
        raise AnsibleFilterError(f"{field}.{error.message}") from error
    _check_room(field, done)
    done["settings"] = {**computed, **settings, **done["settings"]}
    return done


def _check_room(field: str, done: dict[str, Any]) -> None:
    """A connection needs about 5 MB beside shared_buffers; some stay free for operator and exporters."""
    most = int(done["memory_mb"]) * 3 // 4 // 5
    if not 2 * _RESERVED_CONNECTIONS <= int(done["connections"]) <= most:
        raise AnsibleFilterError(
            f"{field}.connections: {done['connections']} is not within {2 * _RESERVED_CONNECTIONS} to {most}, "
            f"the most that memory_mb {done['memory_mb']} has room for"
        )


def _roles(done: dict[str, Any], password_file: str) -> list[dict[str, Any]]:
    """An owner nobody logs in as, and the application's login, which acts as the owner from the start."""
    application = {
        "name": done["app_role"],
        "login": True,
        "password_file": password_file,
        "connection_limit": int(done["connections"]) - _RESERVED_CONNECTIONS,
        "member_of": [done["owner_role"]],
        "settings": {"role": done["owner_role"], **{k: str(v) for k, v in done["role_settings"].items()}},
    }
    return [{"name": done["owner_role"], "login": False}, application]


def _database(done: dict[str, Any]) -> dict[str, Any]:
    wanted = {key: done[key] for key in ("extensions", "tables")}
    return {"name": done["database"], "owner": done["owner_role"], **wanted}


def _positive(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise AnsibleFilterError(f"{name}: {value!r} is not a positive number")
    return number


def _wal_buffers_kb(buffers_kb: int) -> int:
    wanted = buffers_kb * 3 // 100
    return 16 * _MB if wanted > 14 * _MB else max(wanted, 32)


def _megabytes(kilobytes: int) -> str:
    return f"{kilobytes // _MB}MB"


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"postgres_settings": postgres_settings, "postgres_instances": postgres_instances}
