"""The module around the slot library: arguments, plan, check mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import platform_slots
import pytest
from ansible.module_utils.n8n_platform.slot_policy import SlotError
from support.fake_project import FakeCompose, FakeProject

MEMBERS = {
    "webhook-1": ["n8n-webhook-1"],
    "worker-1": ["n8n-worker-1", "n8n-runner-1"],
    "worker-2": ["n8n-worker-2", "n8n-runner-2"],
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    found = FakeProject(tmp_path / "releases/current", {}, MEMBERS)
    monkeypatch.setattr(platform_slots, "Engine", lambda _: found)
    monkeypatch.setattr(platform_slots, "ComposeCli", lambda *_: FakeCompose(found))
    return found


def manager(tmp_path: Path, **given: Any) -> platform_slots.Manager:
    defaults = {name: option.get("default") for name, option in platform_slots.build_spec().items()}
    fixed = {
        "project": "p",
        "releases_root": str(tmp_path / "releases"),
        "state_root": str(tmp_path / "state"),
    }
    return platform_slots.Manager({**defaults, **fixed, **given}, "docker")


def said(subject: platform_slots.Manager) -> list[str]:
    return [f"{act.verb} {act.slot.name}" for act in subject.plan()]


def test_listing_does_nothing(project: FakeProject, tmp_path: Path) -> None:
    subject = manager(tmp_path)
    assert said(subject) == []
    subject.converge()
    assert [platform_slots._described(slot)["state"] for slot in subject.slots] == ["stopped"] * 3
    assert subject.trouble() == []


def test_numbers_may_come_as_text(project: FakeProject, tmp_path: Path) -> None:
    assert said(manager(tmp_path, state="rolled", minimum={"worker": "1"})) == ["start worker-1"]
    with pytest.raises(SlotError, match="minimum: .* must give a number by kind"):
        manager(tmp_path, minimum={"worker": "many"})


def test_kinds_narrow(project: FakeProject, tmp_path: Path) -> None:
    for services in MEMBERS.values():
        for service in services:
            project.add(service)
    assert said(manager(tmp_path, state="drained", kinds=["worker"])) == ["drain worker-1", "drain worker-2"]
    assert said(manager(tmp_path, state="restarted", slots=["webhook-1"])) == ["restart webhook-1"]


def test_applied_once_there_is_nothing_left(project: FakeProject, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"state": "rolled", "minimum": {"worker": 2, "webhook": 1}, "parallel": 3}
    first = manager(tmp_path, **arguments)
    assert len(first.converge()) == 3
    assert said(manager(tmp_path, **arguments)) == []
    after = manager(tmp_path)
    after.plan()
    assert after.trouble() == []


def test_trouble_is_told(project: FakeProject, tmp_path: Path) -> None:
    project.add("n8n-webhook-1", config_hash="old")
    project.add("n8n-runner-1")
    project.broken = {"n8n-worker-2"}
    project.add("n8n-worker-2")
    project.add("n8n-runner-2")
    subject = manager(tmp_path)
    subject.plan()
    assert subject.trouble() == [
        "webhook-1 is of a release that is no longer in force",
        "worker-1 is not complete",
        "worker-1 is not healthy",
        "worker-2 is not healthy",
    ]


def test_diff_shows_before_and_after(project: FakeProject, tmp_path: Path) -> None:
    acts = manager(tmp_path, state="started", minimum={"webhook": 1}).plan()
    assert platform_slots._diff(acts) == {"before": "webhook-1: stopped\n", "after": "webhook-1: running\n"}
