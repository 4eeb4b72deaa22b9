"""Directories of an environment and of the volumes that roles contribute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import platform_directories
import pytest

ME = {"owner": os.getuid(), "group": os.getgid()}


def manager(
    directories: list[dict[str, Any]], *contributions: dict[str, Any], root: Path | None = None
) -> Any:
    params = {
        "directories": directories,
        "contributions": list(contributions),
        "volumes_root": root and str(root),
    }
    return platform_directories.Manager(params)


def volume(role: str, name: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "volumes": [{"name": name, "mode": "0700", **ME, **more}]}


def test_creates_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    wanted = [{"path": str(tmp_path / "a"), "mode": "0711", **ME}]
    first = manager(wanted, volume("cache", "data/sub"), root=tmp_path / "v")
    first.apply(first.plan())
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "v/data/sub").stat().st_mode & 0o777 == 0o700
    assert manager(wanted, volume("cache", "data/sub"), root=tmp_path / "v").plan() == []


def test_corrects_the_mode_and_shows_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    subject = manager([{"path": str(tmp_path / "a"), "mode": "0700", **ME}])
    differences = subject.plan()
    assert "mode=0755" in subject.diff(differences)["before"]
    assert "mode=0700" in subject.diff(differences)["after"]
    subject.apply(differences)
    assert subject.plan() == []


def test_planning_creates_nothing(tmp_path: Path) -> None:
    assert manager([], volume("cache", "x"), root=tmp_path / "v").plan()
    assert not (tmp_path / "v").exists()


def test_the_same_volume_twice_names_both_roles(tmp_path: Path) -> None:
    with pytest.raises(
        platform_directories.DirectoriesError, match="'x' is contributed by cache and by queue"
    ):
        manager([], volume("cache", "x"), volume("queue", "x"), root=tmp_path)


@pytest.mark.parametrize("name", ["", "/absolute", "..", "a/../b"])
def test_a_volume_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(platform_directories.DirectoriesError, match="cache: volume"):
        manager([], volume("cache", name.replace("/absolute", str(tmp_path))), root=tmp_path / "volumes")


def test_an_incomplete_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(platform_directories.DirectoriesError, match="needs exactly"):
        manager([], {"role": "cache", "volumes": [{"name": "x"}]}, root=tmp_path)


def test_a_bad_mode_is_named(tmp_path: Path) -> None:
    with pytest.raises(platform_directories.DirectoriesError, match="cache: volume 'x'.*octal"):
        manager([], volume("cache", "x", mode="rwx"), root=tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(platform_directories.DirectoriesError, match="a is in the way"):
        manager([{"path": str(tmp_path / "a"), "mode": "0700", **ME}]).plan()


def test_a_link_that_a_container_put_into_its_volume_leads_to_no_folder_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "v/data").mkdir(parents=True)
    (tmp_path / "host").mkdir(mode=0o750)
    (tmp_path / "v/data/files").symlink_to(tmp_path / "host")
    subject = manager([], volume("n8n", "data/files"), volume("more", "data/files/sub"), root=tmp_path / "v")
    says = f"{tmp_path}/v/data/files is in the way: it is not a directory"
    with pytest.raises(platform_directories.DirectoriesError, match=says):
        subject.plan()
    for directory in subject.directories:
        with pytest.raises(NotADirectoryError, match=says):
            directory.create()
    assert list((tmp_path / "host").iterdir()) == [] and (tmp_path / "host").stat().st_mode & 0o777 == 0o750


def test_a_listed_directory_below_the_volumes_is_reached_through_no_link_either(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/data").symlink_to(tmp_path)
    listed = {"path": str(tmp_path / "v/data/mine"), "mode": "0700", **ME}
    with pytest.raises(platform_directories.DirectoriesError, match="v/data is in the way"):
        manager([listed], root=tmp_path / "v").plan()


def test_the_volumes_may_lie_behind_a_link_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "disk/v").mkdir(parents=True)
    (tmp_path / "srv").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/volumes").symlink_to(tmp_path / "disk/v")
    root = tmp_path / "srv/volumes"
    wanted = [{"path": str(root), "mode": "0711", **ME}]
    subject = manager(wanted, volume("cache", "data/sub"), root=root)
    subject.apply(subject.plan())
    assert subject.plan() == []
    assert (tmp_path / "disk/v").stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "disk/v/data").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "disk/v/data/sub").stat().st_mode & 0o777 == 0o700
