"""platform_host_info on made-up hosts, and once on this one."""

from __future__ import annotations

from pathlib import Path

import platform_host_info
import pytest


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_bare_host(tmp_path: Path) -> None:
    seen = platform_host_info.observe(tmp_path, {"vm.overcommit_memory": 1})
    assert not seen["systemd"] and not seen["container"] and not seen["logrotate"]
    assert seen["clock"]["service"] == ""
    assert seen["sysctl"] == {"vm.overcommit_memory": {"value": "", "right": False, "writable": False}}


def test_a_host_with_everything(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/logrotate.d").mkdir(parents=True)
    write(tmp_path / ".dockerenv")
    write(tmp_path / "proc/1/comm", "systemd\n")
    write(tmp_path / "proc/77/comm", "chronyd\n")
    write(tmp_path / "proc/sys/vm/overcommit_memory", "1\n")
    seen = platform_host_info.observe(tmp_path, {"vm.overcommit_memory": 1})
    assert seen["systemd"] and seen["container"] and seen["logrotate"]
    assert seen["clock"]["service"] == "chronyd"
    assert seen["sysctl"] == {"vm.overcommit_memory": {"value": "1", "right": True, "writable": True}}


@pytest.mark.parametrize(
    ("value", "writable", "refused_by"),
    [("1", True, []), ("1", False, []), ("0", True, ["met"]), ("0", False, ["possible", "met"])],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, writable: bool, refused_by: list[str]
) -> None:
    write(tmp_path / "proc/sys/vm/overcommit_memory", f"{value}\n")
    monkeypatch.setattr(platform_host_info.os, "access", lambda *_: writable)
    wanted = {"vm.overcommit_memory": 1}
    seen = platform_host_info.observe(tmp_path, wanted)
    found = {mode: platform_host_info.problems(seen, wanted, mode) for mode in ("none", "possible", "met")}
    assert [mode for mode, texts in found.items() if texts] == refused_by
    if refused_by:
        assert found["met"][0].startswith("vm.overcommit_memory is '0' instead of '1'")


def test_this_host_answers() -> None:
    seen = platform_host_info.observe(platform_host_info.ROOT, {"kernel.ostype": "Linux"})
    assert seen["sysctl"]["kernel.ostype"]["right"]
    assert isinstance(seen["clock"]["synchronised"], bool)
