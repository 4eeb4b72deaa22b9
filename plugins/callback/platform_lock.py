"""One run at a time per environment on this controller."""

import contextlib
import datetime
import fcntl
import getpass
import json
import os
import re
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar

DOCUMENTATION = r"""
name: platform_lock
type: aggregate
short_description: One run at a time per environment
description:
  - Takes a lock per environment when the first play starts, and keeps it until the process ends, however it ends.
  - The environment is C(platform_environment) of the play's hosts; a play without one takes no lock.
  - C(platform_preflight_access) of the first play decides, C(change) takes the lock for itself, C(read) shares it with
    other readers, C(observe) takes none. C(--check) and C(--diff --check) only read.
  - A run that finds the lock taken ends at once with status 1 and says who holds it.
requirements:
  - enable in configuration
"""

NAME = re.compile(r"[a-z][a-z0-9-]{1,20}")
DIRECTORIES = ("/run/lock", os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")  # noqa: S108 (opened with O_NOFOLLOW)


class LockHeldError(Exception):
    """Somebody else has the lock; the message says who."""


def lock_path(environment: str, directories: tuple[str, ...] = DIRECTORIES) -> Path:
    """The same file for every user and every checkout of this controller: the first folder that can be written."""
    for directory in directories:
        if directory and os.access(directory, os.W_OK | os.X_OK):
            return Path(directory) / f"n8n-platform-{environment}.lock"
    raise LockHeldError(
        f"none of {', '.join(filter(None, directories))} can be written for the lock of {environment}"
    )


def open_lock(path: Path) -> int:
    # Without O_CREAT first: in a sticky folder Linux refuses O_CREAT on a file of another user, even to root.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o666)  # another user's run has to be able to take it, too
        return descriptor


def holder_of(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return "process {pid} of {user}, since {since}: {command}".format(**holder)
    except (ValueError, KeyError):
        return "somebody who left no name"


def take_lock(environment: str, path: Path, exclusive: bool, command: str) -> int:
    """Returns the descriptor that holds the lock. Raises LockHeldError."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = holder_of(descriptor)
        os.close(descriptor)
        raise LockHeldError(
            f"{environment} is in use by another run ({holder}). "
            f"Nothing has been changed; try again when it has ended. Lock: {path}"
        ) from None
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    mark = {"pid": os.getpid(), "user": getpass.getuser(), "since": since, "command": command}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(mark).encode(), 0)
    return descriptor


def command_line(arguments: Any) -> str:
    """The command as others may see it: never -e, which can carry secrets."""
    inventories = arguments.get("inventory") or []
    words = ["ansible-playbook", *(word for path in inventories for word in ("-i", str(path)))]
    return " ".join([*words, *(["--check"] if arguments.get("check") else []), *arguments.get("args", [])])


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "platform_lock"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: dict[str, int] = {}

    def v2_playbook_on_play_start(self, play: Any) -> None:
        # Ansible turns every exception of a callback but this one into a warning.
        try:
            for environment, access in sorted(self._environments(play).items()):
                self._take(environment, access)
        except (LockHeldError, OSError) as error:
            self._display.error(f"platform_lock: {error}")
            raise SystemExit(1) from None

    def _take(self, environment: str, access: str) -> None:
        if environment in self._held or access == "observe":
            return
        exclusive = access != "read" and not context.CLIARGS.get("check")
        path = lock_path(environment)
        self._held[environment] = take_lock(environment, path, exclusive, command_line(context.CLIARGS))

    @staticmethod
    def _environments(play: Any) -> dict[str, str]:
        """{environment: access} of the play's hosts."""
        manager = play.get_variable_manager()
        found = {}
        for host in manager._inventory.get_hosts(play.hosts):
            variables = manager.get_vars(play=play, host=host)
            templar = Templar(loader=manager._loader, variables=variables)
            environment = templar.template(variables.get("platform_environment", ""))
            if NAME.fullmatch(str(environment)):  # another name is refused by the validation that follows
                found[str(environment)] = str(
                    templar.template(variables.get("platform_preflight_access", "change"))
                )
        return found
