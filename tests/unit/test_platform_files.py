"""Files with a given content: written, corrected, taken away, and otherwise left alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import platform_files
import pytest

ME = (os.getuid(), os.getgid())


def manager(*files: dict[str, Any]) -> Any:
    defaults = {name: option.get("default") for name, option in platform_files._FILE.items()}
    return platform_files.Manager({"files": [{**defaults, **entry} for entry in files]}, ME)


def converge(*files: dict[str, Any]) -> list[Path]:
    subject = manager(*files)
    paths: list[Path] = subject.plan()
    subject.apply(paths)
    return paths


def test_writes_all_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    wanted = ({"path": str(one), "content": "ä\n", "mode": "0755"}, {"path": str(two)})
    assert converge(*wanted) == [one, two]
    assert (one.read_text(encoding="utf-8"), one.stat().st_mode & 0o777) == ("ä\n", 0o755)
    assert (two.read_text(), two.stat().st_mode & 0o777) == ("", 0o644)
    assert converge(*wanted) == []


@pytest.mark.parametrize("change", [lambda path: path.chmod(0o600), lambda path: path.write_text("other")])
def test_corrects_content_and_mode_and_shows_them(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "one"
    wanted = {"path": str(path), "content": "mine"}
    converge(wanted)
    change(path)
    subject = manager(wanted)
    (shown,) = subject.diff(subject.plan())
    assert shown["before"] != shown["after"] == "mode=0644\nmine"
    assert converge(wanted) == [path]
    assert converge(wanted) == []


def test_writes_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "one"
    wanted = {"path": str(path), "content": "/wA=", "encoding": "base64"}
    assert converge(wanted) == [path]
    assert path.read_bytes() == b"\xff\x00"
    assert converge(wanted) == []


def test_takes_away_what_is_not_wanted(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text("x")
    assert converge({"path": str(path), "state": "absent"}) == [path]
    assert not path.exists()
    assert converge({"path": str(path), "state": "absent"}) == []


def test_planning_writes_nothing(tmp_path: Path) -> None:
    assert manager({"path": str(tmp_path / "one")}).plan()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_or_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("folder", "link"):
        with pytest.raises(platform_files.FilesError, match=f"{name} is in the way"):
            manager({"path": str(tmp_path / name)}).plan()


def test_a_path_without_root_and_a_mode_that_is_none_are_refused() -> None:
    with pytest.raises(platform_files.FilesError, match="one is not absolute"):
        manager({"path": "one"})
    with pytest.raises(platform_files.FilesError, match="/one: mode is a quoted octal"):
        manager({"path": "/one", "mode": "rw"})
