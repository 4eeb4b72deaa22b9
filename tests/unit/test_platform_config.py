"""Content-addressed configuration directories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import platform_config
import pytest
from ansible.module_utils.n8n_platform import config

ME = {"owner": str(os.getuid()), "group": str(os.getgid())}


def manager(root: Path, files: dict[str, Any], **more: Any) -> platform_config.Manager:
    params = {"root": str(root), "service": "cache", "mode": "0444", "validate": {}, "current": False, **ME}
    return platform_config.Manager({**params, "files": files, **more})


def apply(root: Path, files: dict[str, Any], **more: Any) -> platform_config.Manager:
    found = manager(root, files, **more)
    found.apply(found.plan())
    return found


def test_writes_all_files_once(tmp_path: Path) -> None:
    done = apply(tmp_path, {"a.conf": "a\n", "sub/b.conf": "b\n"})
    assert config.read_tree(done.path) == {"a.conf": "a\n", "sub/b.conf": "b\n"}
    assert done.path == tmp_path / "cache" / done.sha256
    assert (done.path / "sub/b.conf").stat().st_mode & 0o777 == 0o444
    assert (done.path / "sub").stat().st_mode & 0o777 == 0o755
    assert manager(tmp_path, {"a.conf": "a\n", "sub/b.conf": "b\n"}).plan() == []


@pytest.mark.parametrize("change", [{"files": {"a": "2"}}, {"files": {"b": "1"}}, {"mode": "0440"}])
def test_anything_else_is_another_directory(tmp_path: Path, change: dict[str, Any]) -> None:
    first = apply(tmp_path, {"a": "1"})
    second = manager(tmp_path, **{"files": {"a": "1"}, **change})
    assert second.path != first.path
    assert second.plan() == ["write"]


def test_plan_writes_nothing(tmp_path: Path) -> None:
    manager(tmp_path, {"a": "1"}).plan()
    assert list(tmp_path.iterdir()) == []


def test_refused_file_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"a\.conf is refused by sh: no good"):
        apply(tmp_path, {"a.conf": "x"}, validate={"a.conf": ["sh", "-c", "echo no good; exit 1"]})
    assert list((tmp_path / "cache").iterdir()) == []


def test_validation_sees_the_file_and_its_directory(tmp_path: Path) -> None:
    apply(
        tmp_path,
        {"a.conf": "x"},
        validate={"a.conf": ["sh", "-c", 'test "$0" = "$1/a.conf" && test -s "$0"', "%s", "%d"]},
    )


def test_remains_of_a_killed_run_do_no_harm(tmp_path: Path) -> None:
    wanted = manager(tmp_path, {"a": "1"})
    left = tmp_path / "cache" / f".{wanted.sha256}.new"
    left.mkdir(parents=True)
    (left / "old").write_text("half")
    wanted.apply(wanted.plan())
    assert config.read_tree(wanted.path) == {"a": "1"}
    assert not left.exists()


def test_current_is_switched_and_switched_back(tmp_path: Path) -> None:
    link = tmp_path / "cache" / "current"
    first = apply(tmp_path, {"a": "1"}, current=True)
    apply(tmp_path, {"a": "2"}, current=True)
    back = manager(tmp_path, {"a": "1"}, current=True)
    assert back.plan() == ["switch"]
    back.apply(back.plan())
    assert link.readlink() == Path(first.sha256)
    assert manager(tmp_path, {"a": "1"}, current=True).plan() == []


def test_diff_is_against_the_latest(tmp_path: Path) -> None:
    apply(tmp_path, {"a": "1", "same": "s", "gone": "g"})
    diff = manager(tmp_path, {"a": "2", "same": "s", "new": "n"}).diff()
    assert [(entry["before"], entry["after"]) for entry in diff] == [("1", "2"), ("g", ""), ("", "n")]


@pytest.mark.parametrize("name", ["/absolute", "../x", "a//b", "", "a/./b"])
def test_a_path_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(config.ConfigError, match="plain relative path"):
        manager(tmp_path / "configuration", {name.replace("/absolute", str(tmp_path / "x")): ""})


def test_a_file_that_is_also_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="'a' is a file and a directory of 'a/b'"):
        manager(tmp_path, {"a": "", "a/b": ""})


def test_content_that_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"'a\.json' is dict, not text"):
        manager(tmp_path, {"a.json": {"x": 1}})


def test_an_unknown_owner_is_named(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="owner: no user 'nobody-here'"):
        manager(tmp_path, {"a": ""}, owner="nobody-here")


def test_stale_keeps_what_is_named_and_the_last_of_a_reloading_service(tmp_path: Path) -> None:
    kept = [apply(tmp_path, {"a": str(number)}) for number in range(2)]
    reloading = [apply(tmp_path, {"a": str(n)}, service="edge", current=True) for n in range(4)]
    for age, done in enumerate(reloading):
        os.utime(done.path, (age, age))
    found = config.stale(tmp_path, [f"source: {kept[1].path}\n"], keep=2)
    assert found == [kept[0].path, *(done.path for done in reloading[:2])]
