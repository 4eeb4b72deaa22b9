"""Keeps a test inside its own process from the machine's files, its other processes, its engine and the network.

What a broken implementation would do to the machine becomes a failure here, before it is done.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Event -> (index of the path, index of its dir_fd or None, is the last part of the path followed?)
_EVENTS: dict[str, list[tuple[int, int | None, bool]]] = {
    "os.chmod": [(0, 2, True)],
    "os.chown": [(0, 3, True)],
    "os.link": [(1, 3, False)],
    "os.mkdir": [(0, 2, False)],
    "os.remove": [(0, 1, False)],
    "os.rename": [(0, 2, False), (1, 3, False)],
    "os.rmdir": [(0, 1, False)],
    "os.symlink": [(1, 2, False)],
    "os.truncate": [(0, None, True)],
    "os.utime": [(0, 3, True)],
}
# Real commands that act on the whole machine; a made-up one of a test lies below its own folder.
_COMMANDS = {"apt", "apt-get", "docker", "dockerd", "dpkg", "mount", "reboot", "sudo", "sysctl", "systemctl"}
# Locks of environments are per machine by design; their tests have an environment of their own.
_OWN = (os.path.realpath(tempfile.gettempdir()), "/dev", "/run/lock")
_state = {"installed": False, "active": False}


def _is_own(path: str) -> bool:
    return "/__pycache__/" in path or any(f"{path}/".startswith(f"{root}/") for root in _OWN)


def _real(path: Any, dir_fd: Any, followed: bool) -> str:
    if isinstance(path, int):
        return os.path.realpath(f"/proc/self/fd/{path}")
    text = os.fsdecode(path)
    if isinstance(dir_fd, int) and dir_fd >= 0:
        text = os.path.join(os.path.realpath(f"/proc/self/fd/{dir_fd}"), text)
    if followed:
        return os.path.realpath(text)
    folder, name = os.path.split(os.path.abspath(text))
    return os.path.join(os.path.realpath(folder), name)


def _written(event: str, arguments: tuple[Any, ...]) -> list[str]:
    if event == "open":
        path, _, flags = arguments
        # A number is a descriptor that somebody has opened already.
        return [] if isinstance(path, int) or not flags & _WRITES else [_real(path, None, True)]
    return [
        _real(arguments[path], None if dir_fd is None else arguments[dir_fd], followed)
        for path, dir_fd, followed in _EVENTS.get(event, [])
    ]


def _reached(address: Any) -> str:
    """The part of an address that is not the test's own, or nothing."""
    if isinstance(address, (str, bytes)):
        path = os.fsdecode(address)
        return "" if _is_own(os.path.realpath(path)) else path
    if not isinstance(address, tuple):
        return ""
    host = str(address[0])
    try:
        own = ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        own = host == "localhost"
    return "" if own else host


def _command(arguments: tuple[Any, ...]) -> str:
    """The real path of a command that acts on the machine, or nothing."""
    name, environment = os.fsdecode(arguments[0]), arguments[3]
    if os.path.basename(name) not in _COMMANDS:
        return ""
    found = shutil.which(name, path=(os.environ if environment is None else environment).get("PATH"))
    return name if found and not _is_own(os.path.realpath(found)) else ""


def _refusal(event: str, arguments: tuple[Any, ...]) -> str:
    if event == "socket.connect" and (address := _reached(arguments[1])):
        return f"connects to {address}"
    if event in ("os.kill", "os.killpg") and arguments[0] <= 1:
        return f"sends signal {arguments[1]} to {arguments[0]}"
    if event == "subprocess.Popen" and (command := _command(arguments)):
        return f"runs {command}"
    outside = [path for path in _written(event, arguments) if not _is_own(path)]
    return f"has {event} of {outside[0]}" if outside else ""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _state["active"] and (refusal := _refusal(event, arguments)):
        raise AssertionError(f"a test keeps to itself, but this one {refusal}")


@contextmanager
def guarded() -> Iterator[None]:
    """Raises AssertionError in whatever reaches out while the block lasts, in any thread."""
    if not _state["installed"]:
        sys.addaudithook(_hook)  # for good: there is no way to remove one
        _state["installed"] = True
    _state["active"] = True
    try:
        yield
    finally:
        _state["active"] = False
