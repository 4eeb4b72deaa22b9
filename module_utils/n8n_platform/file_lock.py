"""One actor at a time, also after a run was killed whose module still works on the host."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.2


@contextmanager
def file_lock(path: Path, patience: float) -> Iterator[None]:
    """Holds an exclusive lock; raises TimeoutError when another holder keeps it longer than `patience` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with path.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{path}: another run has been at work here for {patience:.0f} s"
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield
