"""Finds the images of the platform that nothing needs any more, and removes them and what BuildKit keeps too much.

Used by the module platform_images, and installed on the target, where the schedule calls it. Needs nothing but the
standard library and the docker command.

Every environment of a host leaves a note, `<folder>/environments/<environment>.json`: `{"releases": folder of its
releases, "refs": [references that its inventory asks for], "contexts": name of its build contexts' folder}`. What a
note, a release of it or a container names stays, and so do the newest images of each name.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NOTES = "environments"
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_REFERENCE = re.compile(r"n8n-platform/[a-z0-9][a-z0-9._-]*:[A-Za-z0-9._-]+")


class PruneError(Exception):
    """The engine did not do what it was asked; the text is its own."""


@dataclass(frozen=True)
class Image:
    """One reference; `created` is text whose order is that of time."""

    ref: str
    identifier: str
    created: str


@dataclass
class Needed:
    """`refs` are named by an environment; only images of `names` (repositories) are ever touched."""

    refs: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    contexts: set[str] = field(default_factory=set)


def needed(folder: Path) -> Needed:
    """What the notes of all environments and the releases behind them name. Raises ValueError for a damaged note."""
    found = Needed()
    for note in sorted((folder / NOTES).glob("*.json")):
        try:
            said = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(
                f"{note} is damaged: run site.yml for {note.stem}, which writes it anew"
            ) from None
        found.refs |= set(said["refs"])
        found.contexts.add(said["contexts"])
        found.names |= {ref.rpartition(":")[0] for ref in said["refs"]}
        for release in Path(said["releases"]).glob("*/compose.yaml"):
            found.refs |= set(_REFERENCE.findall(release.read_text(encoding="utf-8")))
    return found


def removable(images: list[Image], used: set[str], wanted: Needed, keep: int) -> list[str]:
    """References that may go, the newest first.

    used: references and ids of images that containers were made from; keep: how many of each name stay in any case.
    """
    seen: dict[str, int] = {}
    old = []
    for image in sorted(images, key=lambda image: image.created, reverse=True):
        name = image.ref.rpartition(":")[0]
        seen[name] = seen.get(name, 0) + 1
        newest = seen[name] <= max(keep, 1)
        if name in wanted.names and not newest and not {image.ref, image.identifier} & (used | wanted.refs):
            old.append(image.ref)
    return old


class Engine:
    """The container engine by its command, one call for each question: what it names may be gone at the next.

    Raises PruneError.
    """

    def images(self) -> list[Image]:
        form = "{{.Repository}}:{{.Tag}}\t{{.ID}}\t{{.CreatedAt}}"
        rows = self._run("image", "ls", "--no-trunc", "--filter=reference=n8n-platform/*", f"--format={form}")
        return [Image(*row.split("\t")) for row in rows.splitlines()]

    def used(self) -> set[str]:
        """Of all containers, running or not: the reference, or where that means another image by now, the id."""
        return set(self._run("ps", "--all", "--no-trunc", "--format={{.Image}}").split())

    def remove(self, ref: str) -> None:
        """Takes one name from an image; the image goes with its last name."""
        self._run("image", "rm", ref)

    def cache_bytes(self) -> int:
        """Of BuildKit's cache, what could go: neither layers of an image nor what a build is using."""
        rows = self._run("system", "df", "--format={{.Type}}\t{{.Reclaimable}}").splitlines()
        (size,) = (row.partition("\t")[2] for row in rows if row.startswith("Build Cache\t"))
        number, unit = re.fullmatch(r"([\d.]+)([kMGT]?B)", size.split()[0]).groups()  # type: ignore[union-attr]
        return int(float(number) * _UNITS[unit])

    def shrink_cache(self, keep_gb: int, *filters: str) -> None:
        """Removes what was used longest ago until `keep_gb` are left; filters: only of what they name."""
        command = ["builder", "prune", "--force", f"--keep-storage={keep_gb}GB"]
        self._run(*command, *(f"--filter={text}" for text in filters))

    def _run(self, *arguments: str) -> str:
        # Times are shown as of the time zone, and compared as text.
        environment = {**os.environ, "TZ": "UTC"}
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise PruneError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()[-500:]}")
        return done.stdout


class Pruner:
    """What of `folder` (the images' folder of the cache) and of the engine may go, and taking it away.

    keep: how many images of each name stay; cache_gb: how much of BuildKit's cache.
    """

    def __init__(self, folder: Path, keep: int, cache_gb: int, engine: Engine) -> None:
        self.folder = folder
        self.keep = keep
        self.cache_gb = cache_gb
        self.engine = engine

    def cache_excess(self) -> int:
        """How many bytes BuildKit keeps too much."""
        return max(self.engine.cache_bytes() - self.cache_gb * 10**9, 0)

    def plan(self) -> tuple[list[str], list[Path]]:
        """References and folders of build contexts. Raises PruneError, ValueError."""
        wanted = needed(self.folder)
        contexts = [path for path in (self.folder / "contexts").glob("*") if path.name not in wanted.contexts]
        if not wanted.names:
            return [], []
        return removable(self.engine.images(), self.engine.used(), wanted, self.keep), sorted(contexts)

    def apply(self, refs: list[str], contexts: list[Path]) -> None:
        """Removes as much as the engine allows. Raises PruneError with everything that it refused."""
        problems = []
        for ref in refs:
            try:
                self.engine.remove(ref)
            except PruneError as error:
                problems.append(str(error))
        for folder in contexts:
            shutil.rmtree(folder, ignore_errors=True)
        # Layers are only cache once no image holds them.
        if self.cache_excess():
            self.engine.shrink_cache(self.cache_gb)
        if problems:
            raise PruneError("; ".join(problems))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until nobody else makes or removes images on this host."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Removes what may go and says what it was. 1 when something could not be removed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the images' folder of the cache")
    parser.add_argument("--keep", type=int, default=2, help="images of each name that stay in any case")
    parser.add_argument("--cache-gb", type=int, default=20, help="GB of BuildKit's cache that stay")
    parser.add_argument("--list", action="store_true", help="only say what would go")
    options = parser.parse_args()
    pruner = Pruner(options.folder, options.keep, options.cache_gb, Engine())
    try:
        with alone(options.folder):
            refs, contexts = pruner.plan()
            cache = [f"build cache: {excess / 10**9:.1f} GB"] if (excess := pruner.cache_excess()) else []
            print("\n".join([*refs, *map(str, contexts), *cache]))
            if not options.list:
                pruner.apply(refs, contexts)
    except (PruneError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
