"""`bin/pin` writes the digests that a real registry has, so that images can be pulled by them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

from tests.support.deployment import ROOT
from tests.support.registry import Registry
from tests.support.small_images import archive

FILES = ("versions.yml", "variants.yml")
MISSING = "valkey/valkey:8.1-trixie"


def entries(folder: Path) -> dict[str, str]:
    """`image:tag` -> digest, of every upstream image."""
    versions, variants = (yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in FILES)
    listed = [*versions["platform_versions"].values(), *variants["platform_redis_variants"].values()]
    found = [entry for entry in listed if isinstance(entry, dict) and "image" in entry]
    return {f"{entry['image']}:{entry['tag']}": entry["digest"] for entry in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(ROOT / "group_vars/all" / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def registry(
    engine: docker.DockerClient, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """Holds an image under each upstream name but one."""
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory / "storage", directory) as server:
        for year, reference in enumerate(sorted(set(entries(folder)) - {MISSING}), 2001):
            address = f"{server.address}/{reference}"
            engine.images.load(archive(address, year))
            try:
                assert "errorDetail" not in engine.images.push(address)
            finally:
                engine.images.remove(address)
        yield server


def pin(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bin/pin"), "--folder", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_empty_digests_are_filled_in_and_missing_images_named(
    engine: docker.DockerClient, registry: Registry, folder: Path
) -> None:
    before = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
    done = pin(folder, "--registry", registry.address)
    assert done.returncode == 1
    assert f"{MISSING} is not there" in done.stdout

    found = entries(folder)
    assert len(found) >= 5
    assert found[MISSING] == ""
    pinned = {reference: digest for reference, digest in found.items() if reference != MISSING}
    assert len(set(pinned.values())) == len(pinned)
    for reference, digest in pinned.items():
        assert engine.images.get_registry_data(f"{registry.address}/{reference}").id == digest
    for name, text in before.items():
        after = (folder / name).read_text(encoding="utf-8")
        for digest in pinned.values():
            after = after.replace(f'"{digest}"', '""')
        assert after == text, "nothing but digests is written"


def test_digests_that_are_there_stay_unless_asked_for_again(registry: Registry, folder: Path) -> None:
    pin(folder, "--registry", registry.address)
    right = entries(folder)
    file = folder / "versions.yml"
    file.write_text(file.read_text(encoding="utf-8").replace('"sha256:', '"sha256:0'), encoding="utf-8")
    changed = entries(folder)
    pin(folder, "--registry", registry.address)
    assert entries(folder) == changed != right
    pin(folder, "--registry", registry.address, "--again")
    assert entries(folder) == right


def test_a_registry_that_does_not_answer_is_named_and_nothing_written(folder: Path) -> None:
    before = (folder / "versions.yml").read_text(encoding="utf-8")
    done = pin(folder, "--registry", "127.0.0.1:1/hub")
    assert done.returncode == 1
    assert "127.0.0.1:1/hub/redis:7.4-bookworm" in done.stderr
    assert (folder / "versions.yml").read_text(encoding="utf-8") == before
