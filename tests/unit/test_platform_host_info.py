"""platform_host_info on made-up hosts, and once on this one."""

from __future__ import annotations

from pathlib import Path

import platform_host_info
import pytest


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_bare_host(tmp_path: Path) -> None:
    seen = platform_host_info.observe(tmp_path, ["vm.overcommit_memory"])
    assert not seen["systemd"] and not seen["container"] and not seen["logrotate"]
    assert seen["clock"]["service"] == ""
    assert seen["sysctl"] == {"vm.overcommit_memory": {"value": "", "writable": False}}


def test_a_host_with_everything(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/logrotate.d").mkdir(parents=True)
    write(tmp_path / ".dockerenv")
    write(tmp_path / "proc/1/comm", "systemd\n")
    write(tmp_path / "proc/77/comm", "chronyd\n")
    write(tmp_path / "proc/sys/vm/overcommit_memory", "1\n")
    seen = platform_host_info.observe(tmp_path, ["vm.overcommit_memory"])
    assert seen["systemd"] and seen["container"] and seen["logrotate"]
    assert seen["clock"]["service"] == "chronyd"
    assert seen["sysctl"] == {"vm.overcommit_memory": {"value": "1", "writable": True}}


def test_a_read_only_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "proc/sys/vm/overcommit_memory", "0\n")
    monkeypatch.setattr(platform_host_info.os, "access", lambda path, mode: False)
    assert platform_host_info.read_sysctl(tmp_path, "vm.overcommit_memory") == {
        "value": "0",
        "writable": False,
    }


def test_this_host_answers() -> None:
    seen = platform_host_info.observe(platform_host_info.ROOT, ["kernel.ostype"])
    assert seen["sysctl"]["kernel.ostype"]["value"] == "Linux"
    assert isinstance(seen["clock"]["synchronised"], bool)
