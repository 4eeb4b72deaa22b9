#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Fill the volume of a Redis instance from a dump."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_restore
short_description: Fill the volume of a Redis instance from a dump
description:
  - A server with an append-only file never reads a dump. So the dump is loaded with it off, it is switched on, and a
    second start from the append-only file alone must find every key again. All that happens in containers without a
    network, in a directory beside the volume, which then takes its place in one step.
  - Does nothing for an instance that is not in the backup, and nothing a second time.
options:
  state:
    description:
      - C(restored) fills the volume from the dump.
      - C(kept) copies the volume of a stopped instance, once per recovery directory; C(reverted) puts that copy back,
        C(discarded) removes it.
    type: str
    choices: [restored, kept, reverted, discarded]
    default: restored
  name:
    description: Name of the instance, and of what the manifest calls C(redis-<name>).
    type: str
    required: true
  directory:
    description: Recovery directory, made by M(platform_recovery).
    type: path
    required: true
  volume:
    description: The instance's data directory.
    type: path
    required: true
  image:
    description: Image of the server.
    type: str
    required: true
  environment:
    description: Name of the environment, for the labels of the containers.
    type: str
    required: true
  owner:
    description: Numeric user of the server.
    type: int
    default: 2002
  empty:
    description: Begin with an empty instance whatever was backed up, as Postgres at an earlier moment needs it.
    type: bool
    default: false
  timeout:
    description: Seconds that loading may take.
    type: int
    default: 900
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: restore | Fill the instance
  redis_restore:
    name: queue
    directory: /var/lib/n8n-platform/local/state/recovery
    volume: /var/lib/n8n-platform/local/volumes/redis-queue
    image: n8n-platform/redis:0123456789ab
    environment: local
"""

RETURN = r"""
keys:
  description: Keys that the instance starts with; null when nothing was done.
  returned: success
  type: int
"""

import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import recovery_fetch
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.engine import Engine, EngineError
from ansible.module_utils.n8n_platform.engine_run import Mount, OneShots
from ansible.module_utils.n8n_platform.files import make_directory
from ansible.module_utils.n8n_platform.recovery import RecoveryError
from ansible.module_utils.n8n_platform.recovery_fetch import Directory

_STATES = ("restored", "kept", "reverted", "discarded")
# Prints: keys read from the dump, of which with an expiry; keys loaded; keys found by a start from the AOF alone.
_SCRIPT = r"""
set -eu
ask() { redis-cli -s /tmp/redis.sock "$@"; }
field() { ask info persistence | tr -d '\r' | sed -n "s/^$1://p"; }
start() {
    redis-server --dir /data --dbfilename dump.rdb --save "" --port 0 --unixsocket /tmp/redis.sock "$@" >&2 &
    until [ "$(ask ping 2>/dev/null)" = PONG ]; do kill -0 $!; sleep 0.1; done
}
check=$(command -v redis-check-rdb || command -v valkey-check-rdb)
"$check" /data/dump.rdb > /tmp/check || { tail -n 3 /tmp/check >&2; exit 1; }
sed -n 's/^\[info\] \([0-9]*\) keys read.*/\1/p; s/^\[info\] \([0-9]*\) expires.*/\1/p' /tmp/check
start --appendonly no
ask dbsize
ask config set appendonly yes > /dev/null
until [ "$(field aof_enabled)$(field aof_rewrite_in_progress)$(field aof_rewrite_scheduled)" = 100 ]; do sleep 0.1; done
[ "$(field aof_last_bgrewrite_status)" = ok ]
ask shutdown nosave || true
wait
rm /data/dump.rdb
start --appendonly yes
ask dbsize
ask shutdown || true
wait
"""


def build_spec() -> dict[str, Any]:
    paths = ("directory", "volume")
    texts = ("name", "image", "environment")
    return {
        "state": {"type": "str", "choices": list(_STATES), "default": "restored"},
        **{name: {"type": "path", "required": True} for name in paths},
        **{name: {"type": "str", "required": True} for name in texts},
        "owner": {"type": "int", "default": 2002},
        "empty": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 900},
    }


class Manager:
    """Raises BackupError."""

    def __init__(self, params: dict[str, Any], engine: Engine) -> None:
        self.params = params
        self.directory = Directory(Path(params["directory"]))
        self.volume = Path(params["volume"])
        self.beside = self.volume.with_name(f"{self.volume.name}.restoring")
        self.former = recovery_fetch.former(self.volume)
        self.step = f"redis-{params['name']}"
        self.kept = f"kept-{self.step}"
        self.oneshots = OneShots(engine, params["environment"], "restore", memory=0)
        self.keys: int | None = None

    def plan(self) -> list[str]:
        state, there = self.params["state"], self.former.exists()
        if state != "restored":
            # Without the mark it is of an earlier restore, and older than the queue.
            kept = there and self.directory.done(self.kept)
            needed = {"kept": not kept, "reverted": kept, "discarded": there}[state]
            return [f"{state} {self.former}"] if needed else []
        if self.directory.done(self.step):
            return []
        artefact = self._artefact()
        if self.params["empty"]:
            return [f"empty redis-{self.params['name']}"]
        return [f"load {artefact['file']}"] if artefact else []

    def apply(self, steps: list[str]) -> None:
        if not steps:
            return
        if self.params["state"] == "kept":
            shutil.rmtree(self.former, ignore_errors=True)
            recovery_fetch.copy_tree(self.volume, self.former)
            self.directory.mark(self.kept)
        elif self.params["state"] == "reverted":
            shutil.rmtree(self.volume, ignore_errors=True)
            self.former.rename(self.volume)
        elif self.params["state"] == "discarded":
            recovery_fetch.discard_former(self.volume)
        else:
            self._restore()

    def _restore(self) -> None:
        artefact = self._artefact()
        shutil.rmtree(self.beside, ignore_errors=True)
        make_directory(self.beside, 0o700, self.params["owner"], self.params["owner"])
        self.keys = 0
        if artefact and not self.params["empty"]:
            self._load(artefact)
        self._switch()
        self.directory.mark(self.step)

    def _artefact(self) -> dict[str, Any]:
        items = self.directory.manifest()["items"]
        return next((item for item in items if item["kind"] == "redis_rdb" and item["name"] == self.step), {})

    def _load(self, artefact: dict[str, Any]) -> None:
        uid = self.params["owner"]
        dump = self.beside / "dump.rdb"
        shutil.copyfile(self.directory.staging / artefact["file"], dump)
        os.chown(dump, uid, uid)
        dump.chmod(0o600)
        try:
            result = self.oneshots.run(
                self.params["image"],
                ["sh", "-c", _SCRIPT],
                mounts=[Mount(self.beside, "/data", read_only=False)],
                user=f"{uid}:{uid}",
                timeout=self.params["timeout"],
            )
        except EngineError as error:
            raise RecoveryError(f"{self.step}: {error}") from None
        if result.code:
            raise RecoveryError(f"{self.step}: {artefact['file']} could not be loaded: {result.words(300)}")
        self.keys = self._count(artefact, [int(line) for line in result.stdout.split()])

    def _count(self, artefact: dict[str, Any], counts: list[int]) -> int:
        """Raises RecoveryError unless every key that was backed up, and has not expired since, is there."""
        read, expiring, loaded, appended = counts
        stated = (artefact.get("details") or {}).get("keys", read)
        if not (read - expiring <= loaded <= read and appended >= loaded - expiring and stated >= loaded):
            raise RecoveryError(
                f"{self.step}: {stated} keys were backed up, the dump holds {read}, {loaded} were loaded and "
                f"{appended} are in the append-only file"
            )
        if stated - expiring > read:
            raise RecoveryError(f"{self.step}: {stated} keys were backed up, but the dump holds only {read}")
        return appended

    def _switch(self) -> None:
        """What was there is gone only when the new one is in place; a copy that was kept stays for the way back."""
        replaced = self.volume.with_name(f"{self.volume.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if self.volume.exists():
            self.volume.rename(replaced)
        self.beside.rename(self.volume)
        shutil.rmtree(replaced, ignore_errors=True)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params, Engine())
        steps = manager.plan()
        if not module.check_mode:
            manager.apply(steps)
    except BackupError as error:
        module.fail_json(msg=str(error))
    diff = {"before": "", "after": "".join(f"{step}\n" for step in steps)}
    module.exit_json(changed=bool(steps), keys=manager.keys, diff=diff)


if __name__ == "__main__":
    main()
