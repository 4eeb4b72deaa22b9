"""Kind `redis_rdb`: {name, kind, service[, user, password_file]}: a Redis instance's dump, made by BGSAVE."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context, file_artefact
from ansible.module_utils.n8n_platform.engine_run import Mount
from ansible.module_utils.n8n_platform.recovery_fetch import discard_former

# The password is read inside the container, and only for this one process.
LOGIN = (
    'REDISCLI_AUTH=$(cat "$1") && export REDISCLI_AUTH && user=$2 && shift 2 '
    '&& exec redis-cli -e --user "$user" "$@"'
)
_POLL_SECONDS = 0.5
_MAGIC = (b"REDIS", b"VALKEY")


class RedisRdb:
    """Raises BackupError: the instance does not answer, BGSAVE fails or takes longer than the time limit, the dump is
    not one."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.service: str = item["service"]
        self.user: str = item.get("user", "admin")
        instance = self.service.removeprefix("redis-").replace("-", "_")
        self.password_file: str = item.get("password_file", f"/run/secrets/redis_{instance}_admin_password")

    def forecast(self, context: Context) -> int:
        """A dump is smaller than what it holds in memory."""
        return int(self._info(context, "memory").get("used_memory", "0"))

    def run(self, context: Context, staging: Path) -> list[dict[str, Any]]:
        dump = self._save(context)
        target = staging / f"{self.name}.rdb"
        shutil.copyfile(dump, target)
        target.chmod(0o600)
        with target.open("rb") as stream:
            if not stream.read(8).startswith(_MAGIC):
                raise BackupError(f"{self.name}: {dump} is no dump of Redis")
        self._check(context, target)
        info = self._info(context, "keyspace")
        keys = sum(
            int(field.split(",")[0].removeprefix("keys=")) for field in info.values() if "keys=" in field
        )
        return [file_artefact(self.name, "redis_rdb", target, service=self.service, keys=keys)]

    def completed(self, context: Context) -> list[str]:
        """After a good set: the queue that the last restore has replaced goes. One text each."""
        return discard_former(context.definition.volumes_root / self.service)

    def _save(self, context: Context) -> Path:
        """The dump's path on the host, once a save that began after our asking has ended well."""
        limit = context.limit("redis_rdb")
        deadline = time.monotonic() + limit
        self._await_idle(context, deadline, limit)
        before = self._time(context)
        # LASTSAVE counts seconds: a save within the one of the last save would not be seen to end.
        while self._ask(context, "TIME").split()[0] == str(before):
            time.sleep(_POLL_SECONDS)
        self._ask(context, "BGSAVE")
        while self._time(context) == before:
            status = self._info(context, "persistence")
            if status.get("rdb_bgsave_in_progress") == "0" and status.get("rdb_last_bgsave_status") != "ok":
                raise BackupError(
                    f"{self.name}: BGSAVE failed ({status.get('rdb_last_bgsave_status')}): is its volume full?"
                )
            if time.monotonic() > deadline:
                raise BackupError(f"{self.name}: BGSAVE was not done within its time limit of {limit:g} s")
            time.sleep(_POLL_SECONDS)
        return self._dump(context)

    def _await_idle(self, context: Context, deadline: float, limit: float) -> None:
        """A rewrite of the append-only file or somebody else's save has to end first."""
        while any(
            self._info(context, "persistence").get(key) == "1"
            for key in ("rdb_bgsave_in_progress", "aof_rewrite_in_progress")
        ):
            if time.monotonic() > deadline:
                raise BackupError(f"{self.name}: another save is still running after {limit:g} s")
            time.sleep(_POLL_SECONDS)

    def _dump(self, context: Context) -> Path:
        settings = self._ask(context, "CONFIG", "GET", "dir", "dbfilename").split()
        found = dict(zip(settings[::2], settings[1::2], strict=True))
        for mount in context.container(self.service)["Mounts"]:
            if mount["Destination"] == found["dir"]:
                return Path(mount["Source"]) / found["dbfilename"]
        raise BackupError(
            f"{self.name}: {found['dir']} of {self.service} is no mounted directory of the host"
        )

    def _check(self, context: Context, dump: Path) -> None:
        """Every record of it is read."""
        image = context.container(self.service)["Config"]["Image"]
        result = context.oneshots.run(
            image,
            ["sh", "-c", "exec $(command -v redis-check-rdb || command -v valkey-check-rdb) /dump.rdb"],
            mounts=[Mount(dump, "/dump.rdb")],
            timeout=context.limit("redis_rdb"),
            capabilities=["DAC_READ_SEARCH"],
        )
        if result.code:
            raise BackupError(f"{self.name}: the dump is damaged: {result.words(300)}")

    def _time(self, context: Context) -> int:
        return int(self._ask(context, "LASTSAVE"))

    def _info(self, context: Context, section: str) -> dict[str, str]:
        lines = self._ask(context, "INFO", section).splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines) if value}

    def _ask(self, context: Context, *command: str) -> str:
        container = context.container(self.service)["Id"]
        argv = ["sh", "-c", LOGIN, "sh", self.password_file, self.user, *command]
        code, output = context.engine.execute(container, argv)
        if code:
            raise BackupError(f"{self.name}: {command[0]}: {' '.join(output.split())[:300]}")
        return output.strip()
