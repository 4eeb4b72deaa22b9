"""Files and directories that are written as a whole, or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}")


def write_file(path: Path, content: str | bytes, uid: int = -1, gid: int = -1, mode: int = 0o400) -> None:
    """Replaces the file as a whole, see `replacing`."""
    with replacing(path, uid, gid, mode) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, uid: int = -1, gid: int = -1, mode: int = 0o400) -> Iterator[BinaryIO]:
    """What is written takes the file's place at the end: a reader, or a machine that loses power, sees the old or the
    new one. No symlink is followed.

    uid, gid: -1 is the process's own.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def unfinished(folder: Path) -> list[tuple[Path, str]]:
    """What a kill has left of `replacing`, each with the name of the file that it was to replace."""
    found = [(path, _TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    return [(path, match[1]) for path, match in found if match]


def open_regular(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """A file of somebody else's folder. Raises FileNotFoundError; OSError for a symlink or what is no regular file."""
    try:
        # A pipe without a writer would be waited for.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(f"{path} is in the way: it is not a file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is in the way: it is not a file")
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb")


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def memory_directory() -> str | None:
    """Where a copy of keys touches no disk; None, the usual place, where there is none."""
    return "/run" if os.access("/run", os.W_OK) else None


def make_directory(path: Path, mode: int, uid: int = 0, gid: int = 0) -> bool:
    """Creates or corrects one directory (parents 0755 root); returns whether anything changed."""
    created = not path.is_dir()
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    found = path.stat()
    if (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (mode, uid, gid):
        return created
    os.chown(path, uid, gid)
    path.chmod(mode)
    return True


@contextmanager
def held(root: Path, path: Path, make: bool = False) -> Iterator[Path]:
    """The directory `path`, `root` or below it, under a name that stays its own whatever becomes of `path` meanwhile:
    who owns a volume may put a symlink at any time where root is about to work. Up to `root` links are an operator's.

    make: creates what is missing, `path` 0700 and what leads there 0755. Raises NotADirectoryError that names the
    symlink or file in the way, else FileNotFoundError.
    """
    below = path.relative_to(root).parts
    if make:
        root.mkdir(mode=0o755 if below else 0o700, parents=True, exist_ok=True)
    reached, descriptor = root, _open_directory(root, root, 0)
    try:
        for name in below:
            reached /= name
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700 if reached == path else 0o755, dir_fd=descriptor)
            inner = _open_directory(name, reached, os.O_NOFOLLOW, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _open_directory(name: str | Path, shown: Path, flags: int, parent: int | None = None) -> int:
    try:
        if name == "..":
            raise NotADirectoryError
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | flags, dir_fd=parent)
    except NotADirectoryError:
        raise NotADirectoryError(f"{shown} is in the way: it is not a directory") from None
