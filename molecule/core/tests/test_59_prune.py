"""Old images go by themselves, and never one that an environment of the host may need: shown with real images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
from ansible.module_utils.n8n_platform import images_prune

from tests.support.deployment import ROOT, Deployment
from tests.support.docs import doc_block
from tests.support.small_images import archive

PROGRAM = ROOT / "module_utils/n8n_platform/images_prune.py"
# Repositories that no deployment has.
WEB, CACHE, FOREIGN = (f"n8n-platform/prune-test-{name}" for name in ("web", "cache", "foreign"))

MakeImage = Callable[[str, int], str]


@pytest.fixture
def make_image(engine: docker.DockerClient) -> Iterator[MakeImage]:
    def make(ref: str, year: int) -> str:
        engine.images.load(archive(ref, year))
        made.append(ref)
        return ref

    made: list[str] = []
    yield make
    for ref in made:
        if engine.images.list(ref):
            engine.images.remove(ref, force=True)


def there(engine: docker.DockerClient) -> set[str]:
    """Versions of the test's images, `web:1`."""
    tags = {tag for image in engine.images.list() for tag in image.tags}
    return {tag.removeprefix("n8n-platform/prune-test-") for tag in tags if "/prune-test-" in tag}


def note(folder: Path, environment: str, refs: list[str], releases: list[str]) -> Path:
    """An environment as it notes itself, with one release for each of the references in `releases`."""
    root = folder / "data" / environment / "releases"
    for number, ref in enumerate(releases):
        (root / f"{number:016x}").mkdir(parents=True)
        (root / f"{number:016x}" / "compose.yaml").write_text(f'services:\n  web:\n    image: "{ref}"\n')
    path = folder / "environments" / f"{environment}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"releases": str(root), "refs": refs, "contexts": f"of-{environment}"}))
    (folder / "contexts" / f"of-{environment}").mkdir(parents=True)
    return path


def prune(folder: Path, *arguments: str) -> list[str]:
    """What went. Runs the program as the schedule does, but leaves this machine's build cache alone."""
    command = [sys.executable, str(PROGRAM), str(folder), "--keep=1", "--cache-gb=1000000", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_only_what_no_environment_and_no_container_needs_goes(
    engine: docker.DockerClient, make_image: MakeImage, tmp_path: Path
) -> None:
    web = {year: make_image(f"{WEB}:{year}", year) for year in range(2001, 2012)}
    cache = make_image(f"{CACHE}:2001", 2001)
    for year in (2001, 2002):
        make_image(f"{FOREIGN}:{year}", year)
    note(tmp_path, "staging", [web[2003], cache], releases=[web[2001]])
    # Of production there runs nothing; its last five releases can still be gone back to.
    production = note(tmp_path, "production", [web[2009]], releases=[web[y] for y in range(2004, 2009)])
    (tmp_path / "contexts/of-a-former-checkout").mkdir()
    container = engine.containers.create(web[2002])
    try:
        everything = there(engine)
        listed = prune(tmp_path, "--list")
        assert listed == [web[2010], str(tmp_path / "contexts/of-a-former-checkout")]
        assert there(engine) == everything, "--list removes nothing"
        assert prune(tmp_path) == listed
        assert there(engine) == everything - {"web:2010"}
        assert sorted(path.name for path in (tmp_path / "contexts").iterdir()) == [
            "of-production",
            "of-staging",
        ]
        assert prune(tmp_path) == []
    finally:
        container.remove()
    # Production has been destroyed with its data; its newest image stays as the newest of its name.
    production.unlink()
    assert set(prune(tmp_path)) == {
        *(web[year] for year in (2002, 2004, 2005, 2006, 2007, 2008, 2009)),
        str(tmp_path / "contexts/of-production"),
    }
    assert there(engine) == {"web:2001", "web:2003", "web:2011", "cache:2001", "foreign:2001", "foreign:2002"}


def test_without_a_note_nothing_goes(
    engine: docker.DockerClient, make_image: MakeImage, tmp_path: Path
) -> None:
    for year in (2001, 2002, 2003):
        make_image(f"{WEB}:{year}", year)
    (tmp_path / "contexts/of-somebody").mkdir(parents=True)
    assert prune(tmp_path) == []
    assert there(engine) == {"web:2001", "web:2002", "web:2003"}
    assert (tmp_path / "contexts/of-somebody").is_dir()


class Cached:
    """One entry of BuildKit's cache that no image holds: a stage that only lends its file to another."""

    BYTES = 3_000_000

    def __init__(self, folder: Path, engine: docker.DockerClient) -> None:
        name = uuid4().hex
        stages = f"FROM scratch AS cached\nCOPY file /{name}\nFROM scratch\nCOPY --from=cached / /\n"
        (folder / "Dockerfile").write_text(stages)
        (folder / "file").write_bytes(os.urandom(self.BYTES))
        command = ["docker", "buildx", "build", "--builder=default", "--quiet", str(folder)]
        engine.images.remove(subprocess.check_output(command, text=True).strip())
        self._engine = engine
        (self.identifier,) = (e["ID"] for e in self._entries() if f"COPY file /{name}" in e["Description"])

    def _entries(self) -> list[dict[str, Any]]:
        return list(self._engine.df()["BuildCache"])

    def is_there(self) -> bool:
        return self.identifier in {entry["ID"] for entry in self._entries()}


def test_the_build_cache_is_kept_below_its_limit(engine: docker.DockerClient, tmp_path: Path) -> None:
    """On an engine whose whole cache is one entry, as far as the command can see."""
    cached = Cached(tmp_path, engine)
    own = OneEntry(cached.identifier)
    assert own.cache_bytes() >= Cached.BYTES
    roomy, full = (images_prune.Pruner(tmp_path, keep=1, cache_gb=gb, engine=own) for gb in (10**6, 0))
    roomy.apply([], [])
    assert (roomy.cache_excess(), cached.is_there()) == (0, True)
    own.shrink_cache(10**6)
    assert cached.is_there(), "the limit is what stays"
    assert full.cache_excess() >= Cached.BYTES
    full.apply([], [])
    assert not cached.is_there()


class OneEntry(images_prune.Engine):
    """Touches nothing of the machine's cache but one entry."""

    def __init__(self, identifier: str) -> None:
        self._identifier = identifier

    def shrink_cache(self, keep_gb: int, *filters: str) -> None:
        super().shrink_cache(keep_gb, f"id={self._identifier}", *filters)


def test_the_schedule_and_the_command_would_remove_the_same(
    core: Deployment, engine: docker.DockerClient, make_image: MakeImage
) -> None:
    """Older than what any deployment has; nothing of this machine is removed, since both only list."""
    old = make_image("n8n-platform/redis:made-in-1999", 1999)
    before = core.fingerprint()
    jobs = json.loads((core.data_root / "state/schedule.json").read_text(encoding="utf-8"))["jobs"]
    command = next(job["command"] for job in jobs if job["name"] == "prune-images")
    done = subprocess.run([*command, "--list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    run = core.run("prune", check=True)
    assert run.rc == 0, run.failures()
    (result,) = [e["event_data"]["res"] for e in run.events if "removed" in str(e["event_data"].get("res"))]
    listed = {line for line in done.stdout.splitlines() if line.startswith("n8n-platform/")}
    assert set(result["removed"]) == listed
    # The two newest of a name stay: there may be no more than the deployment's own beside this one.
    redis = [tag for image in engine.images.list("n8n-platform/redis") for tag in image.tags]
    assert (old in result["removed"]) == (len(redis) > 2)
    told = subprocess.run(
        ["bash", "-euc", doc_block("prune-list").strip() + " ENV=../molecule/core/inventory"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    assert [ref for ref in listed if ref not in told.stdout] == []
    needed = {container.attrs["Config"]["Image"] for container in core.containers().values()}
    assert not needed & set(result["removed"])
    assert core.fingerprint() == before
