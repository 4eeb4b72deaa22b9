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
    assert not seen["cron"]
    expected = {"value": "", "right": False, "writable": False, "kept": False}
    assert seen["sysctl"] == {"vm.overcommit_memory": expected}


def test_a_host_with_everything(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/logrotate.d").mkdir(parents=True)
    write(tmp_path / ".dockerenv")
    write(tmp_path / "usr/sbin/cron")
    write(tmp_path / "proc/1/comm", "systemd\n")
    write(tmp_path / "proc/77/comm", "chronyd\n")
    write(tmp_path / "proc/sys/vm/overcommit_memory", "1\n")
    seen = platform_host_info.observe(tmp_path, {"vm.overcommit_memory": 1})
    assert seen["systemd"] and seen["container"] and seen["logrotate"]
    assert seen["clock"]["service"] == "chronyd"
    assert seen["cron"]
    expected = {"value": "1", "right": True, "writable": True, "kept": False}
    assert seen["sysctl"] == {"vm.overcommit_memory": expected}


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


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A host that two environments have been set up on."""
    for project, value, size in (("n8n-staging", "0", 512), ("n8n-production", "1", 1024)):
        write(tmp_path / f"etc/sysctl.d/60-{project}.conf", f"# own\nvm.overcommit_memory = {value}\n")
        write(
            tmp_path / f"etc/systemd/journald.conf.d/60-{project}.conf", f"[Journal]\nSystemMaxUse={size}M\n"
        )
    return tmp_path


def test_another_environments_value_is_refused_with_its_file(shared: Path) -> None:
    found = platform_host_info.clashes(shared, "n8n-production", {"vm.overcommit_memory": 1}, 1024)
    assert found == [
        "host_baseline_sysctl: vm.overcommit_memory is to be 1 here and 0 in /etc/sysctl.d/60-n8n-staging.conf: "
        "environments of one host have to agree",
        "host_baseline_journal_max_mb: SystemMaxUse is to be 1024M here and 512M in "
        "/etc/systemd/journald.conf.d/60-n8n-staging.conf: environments of one host have to agree",
    ]


@pytest.mark.parametrize(
    ("project", "sysctl", "journal_max_mb"),
    [
        ("n8n-production", {"vm.swappiness": 10}, 0),  # nothing that the other wants, too
        ("n8n-production", {"vm.overcommit_memory": "0"}, 512),  # its own values may change
        ("n8n-third", {}, 0),
    ],
)
def test_what_agrees_is_not_refused(
    shared: Path, project: str, sysctl: dict[str, object], journal_max_mb: int
) -> None:
    assert platform_host_info.clashes(shared, project, sysctl, journal_max_mb) == []


def test_values_of_several_words_are_compared_by_words(tmp_path: Path) -> None:
    write(tmp_path / "etc/sysctl.d/60-n8n-staging.conf", "net.ipv4.ip_local_port_range=1024\t65000\n")
    wanted = {"net.ipv4.ip_local_port_range": "1024 65000"}
    assert platform_host_info.clashes(tmp_path, "n8n-local", wanted, 0) == []


def test_a_parameter_that_is_wanted_no_more_is_named(shared: Path) -> None:
    seen = platform_host_info.observe(shared, {"vm.swappiness": 10}, "n8n-staging")
    assert seen["dropped"] == ["vm.overcommit_memory"]
    assert platform_host_info.observe(shared, {"vm.swappiness": 10}, "n8n-new")["dropped"] == []


def test_a_parameter_is_kept_where_the_projects_own_file_says_it(shared: Path) -> None:
    def kept(project: str, value: object) -> bool:
        seen = platform_host_info.observe(shared, {"vm.overcommit_memory": value}, project)
        return bool(seen["sysctl"]["vm.overcommit_memory"]["kept"])

    assert kept("n8n-staging", 0)
    assert not kept("n8n-staging", 1)
    assert not kept("n8n-new", 0)


def test_this_host_answers() -> None:
    seen = platform_host_info.observe(platform_host_info.ROOT, {"kernel.ostype": "Linux"})
    assert seen["sysctl"]["kernel.ostype"]["right"]
    assert isinstance(seen["clock"]["synchronised"], bool)
