"""The policy of slots as pure functions, and the library that carries it out."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from ansible.module_utils.n8n_platform import slot_policy
from ansible.module_utils.n8n_platform.slot_policy import Act, Bounds, Member, Slot, SlotError
from ansible.module_utils.n8n_platform.slots import Paths, Slots, _groups
from support.fake_project import FakeCompose, FakeProject


def slot(
    name: str, state: str = "stopped", outdated: bool = False, health: str = "healthy", orphan: bool = False
) -> Slot:
    states = {
        "running": ("running", "running"),
        "partial": ("exited", "running"),
        "stopped": ("exited", "exited"),
    }
    one, two = (Member(name, name, member, health, outdated) for member in states[state])
    return Slot(name, (one, two), orphan)


def slots(running: int, total: int = 6, kind: str = "worker") -> list[Slot]:
    return [slot(f"{kind}-{i}", "running" if i <= running else "stopped") for i in range(1, total + 1)]


def said(acts: list[Act]) -> list[str]:
    return [f"{act.verb} {act.slot.name}" for act in acts]


def worker(minimum: int = 0, maximum: int | None = None) -> Bounds:
    return Bounds({"worker": minimum}, {} if maximum is None else {"worker": maximum})


class TestPolicy:
    def test_starts_the_lowest_up_to_the_minimum(self) -> None:
        found = [slot("worker-1", "running"), slot("worker-2"), slot("worker-3", "running"), slot("worker-4")]
        assert said(slot_policy.started(found, worker(3), [])) == ["start worker-2"]

    def test_leaves_those_beyond_the_minimum(self) -> None:
        assert slot_policy.started(slots(5), worker(3), []) == []

    def test_drains_the_highest_beyond_the_maximum(self) -> None:
        assert said(slot_policy.started(slots(5), worker(1, 3), [])) == ["drain worker-5", "drain worker-4"]

    def test_completes_a_slot_of_which_a_part_runs(self) -> None:
        assert said(slot_policy.started([slot("worker-1", "partial")], Bounds(), [])) == ["start worker-1"]

    def test_starts_what_an_interrupted_roll_left_stopped(self) -> None:
        assert said(slot_policy.started(slots(2), worker(2), ["worker-5"])) == ["start worker-5"]

    def test_removes_slots_that_no_release_has(self) -> None:
        found = [*slots(1, 1), slot("worker-9", "running", orphan=True)]
        assert said(slot_policy.started(found, worker(1), [])) == ["remove worker-9"]

    def test_kinds_do_not_count_for_each_other(self) -> None:
        found = slots(2, 3) + slots(0, 2, "webhook")
        acts = slot_policy.started(found, Bounds({"worker": 2, "webhook": 1}), [])
        assert said(acts) == ["start webhook-1"]

    @pytest.mark.parametrize("bounds", [worker(7), worker(4, 3), Bounds({"other": 1})])
    def test_a_minimum_that_cannot_be_reached_is_refused(self, bounds: Bounds) -> None:
        with pytest.raises(SlotError, match=r"minimum\.(worker|other): \d is more than the"):
            slot_policy.started(slots(0), bounds, [])

    def test_rolls_only_what_is_outdated_and_runs_the_sick_first(self) -> None:
        found = [
            slot("worker-1", "running", outdated=True),
            slot("worker-2", "running"),
            slot("worker-3", "running", outdated=True, health="unhealthy"),
            slot("worker-4", "stopped", outdated=True),
        ]
        assert said(slot_policy.rolled(found, worker(1), [])) == ["roll worker-3", "roll worker-1"]

    def test_does_not_roll_what_it_has_just_started(self) -> None:
        found = [slot("worker-1", "partial", outdated=True), slot("worker-2", "stopped", outdated=True)]
        assert said(slot_policy.rolled(found, worker(2), [])) == ["start worker-1", "start worker-2"]

    def test_draining_keeps_the_minimum(self) -> None:
        assert said(slot_policy.drained(slots(3), ["worker-2", "worker-6"], worker(2))) == ["drain worker-2"]
        with pytest.raises(SlotError, match="would leave 1 of kind worker, the minimum is 2"):
            slot_policy.drained(slots(3), ["worker-1", "worker-2"], worker(2))

    def test_draining_nothing_is_no_refusal(self) -> None:
        assert slot_policy.drained(slots(1), ["worker-6"], worker(2)) == []

    def test_starting_by_name_keeps_the_maximum(self) -> None:
        assert said(slot_policy.started_by_name(slots(2), ["worker-5"], worker(0, 3))) == ["start worker-5"]
        with pytest.raises(SlotError, match="4 of kind worker would run, the maximum is 3"):
            slot_policy.started_by_name(slots(2), ["worker-5", "worker-6"], worker(0, 3))

    def test_an_unknown_slot_is_named(self) -> None:
        with pytest.raises(SlotError, match="there is no worker-9"):
            slot_policy.drained(slots(1), ["worker-9"], Bounds())

    def test_restart_is_for_those_that_run(self) -> None:
        assert said(slot_policy.restarted(slots(1), ["worker-1", "worker-2"])) == ["restart worker-1"]


def test_rolls_and_restarts_are_never_side_by_side() -> None:
    verbs = ["roll", "roll", "start", "start", "start", "drain", "restart", "restart"]
    groups = _groups([Act(verb, slot(f"worker-{number}")) for number, verb in enumerate(verbs)], 2)
    assert [[act.verb for act in group] for group in groups] == [
        *(["roll"], ["roll"], ["start", "start"], ["start"], ["drain"], ["restart"], ["restart"])
    ]


MEMBERS = {f"worker-{i}": [f"n8n-worker-{i}", f"n8n-runner-{i}"] for i in (1, 2, 3)}


@pytest.fixture
def project(tmp_path: Path) -> FakeProject:
    return FakeProject(tmp_path / "release", {}, MEMBERS)


def library(
    project: FakeProject, tmp_path: Path, parallel: int = 1, wait: float = 5, patience: int | None = None
) -> Slots:
    (tmp_path / "state").mkdir(exist_ok=True)
    paths = Paths(tmp_path / "release", tmp_path / "state")
    return Slots("p", project, FakeCompose(project), paths, parallel, wait, "test", patience)  # type: ignore[arg-type]


def run(project: FakeProject, *names: str, config_hash: str = "h1") -> None:
    for name in names:
        for service in MEMBERS[name]:
            project.add(service, config_hash=config_hash)


class TestLibrary:
    def test_describes_slots_from_containers(self, project: FakeProject, tmp_path: Path) -> None:
        run(project, "worker-1", config_hash="old")
        project.add("n8n-runner-2")
        project.add("old-worker-7", slot="worker-7")
        found = {item.name: item for item in library(project, tmp_path).all()}
        assert [item.state for item in found.values()] == ["running", "partial", "stopped", "running"]
        assert found["worker-1"].outdated and not found["worker-2"].outdated
        assert found["worker-7"].orphan and not found["worker-3"].orphan
        assert [member.service for member in found["worker-1"].members] == MEMBERS["worker-1"]

    def test_rolls_one_at_a_time_the_worker_before_its_runner(
        self, project: FakeProject, tmp_path: Path
    ) -> None:
        run(project, "worker-1", "worker-2", config_hash="old")
        subject = library(project, tmp_path, parallel=5)
        subject.carry_out(slot_policy.rolled(subject.all(), Bounds(), []))
        assert project.calls == [
            *("stop n8n-worker-1", "stop n8n-runner-1", "up n8n-worker-1 n8n-runner-1"),
            *("stop n8n-worker-2", "stop n8n-runner-2", "up n8n-worker-2 n8n-runner-2"),
        ]
        assert slot_policy.rolled(subject.all(), Bounds(), subject.interrupted()) == []

    def test_a_slot_that_stays_sick_ends_the_roll_and_leaves_the_others(
        self, project: FakeProject, tmp_path: Path
    ) -> None:
        run(project, "worker-1", "worker-2", config_hash="old")
        project.broken = {"n8n-runner-1"}
        subject = library(project, tmp_path, wait=0)
        with pytest.raises(
            SlotError, match="worker-1: n8n-runner-1 is unhealthy after 0 s: no answer on port 5678"
        ):
            subject.carry_out(slot_policy.rolled(subject.all(), Bounds(), []))
        assert "stop n8n-worker-2" not in project.calls

    def test_an_interrupted_roll_is_remembered(self, project: FakeProject, tmp_path: Path) -> None:
        run(project, "worker-2", config_hash="old")
        subject = library(project, tmp_path)
        run(project, "worker-1")

        def killed(_: list[str]) -> None:
            raise KeyboardInterrupt

        subject._compose.up = killed  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            subject.carry_out(slot_policy.rolled(subject.all(), Bounds(), []))
        after = library(project, tmp_path)
        acts = slot_policy.rolled(after.all(), worker(0), after.interrupted())
        assert said(acts) == ["start worker-2"]
        after.carry_out(slot_policy.drained(after.all(), ["worker-1"], Bounds()))
        assert after.interrupted() == ["worker-2"]
        after.carry_out(acts)
        assert after.interrupted() == []

    def test_draining_a_slot_by_hand_is_no_interruption(self, project: FakeProject, tmp_path: Path) -> None:
        run(project, "worker-1", "worker-2")
        (tmp_path / "state").mkdir()
        (tmp_path / "state/slots-rolling.json").write_text('["worker-2"]')
        subject = library(project, tmp_path)
        subject.carry_out(slot_policy.drained(subject.all(), ["worker-2"], Bounds()))
        assert subject.interrupted() == []

    def test_drains_with_less_patience_where_asked(self, project: FakeProject, tmp_path: Path) -> None:
        run(project, "worker-1")
        subject = library(project, tmp_path, patience=30)
        subject.carry_out(slot_policy.drained(subject.all(), ["worker-1"], Bounds()))
        assert project.calls == ["stop n8n-worker-1 within 30", "stop n8n-runner-1 within 30"]

    def test_starts_side_by_side_in_groups(self, project: FakeProject, tmp_path: Path) -> None:
        subject = library(project, tmp_path, parallel=2)
        subject.carry_out(slot_policy.started(subject.all(), worker(3), []))
        assert project.calls == [
            "up n8n-worker-1 n8n-runner-1 n8n-worker-2 n8n-runner-2",
            "up n8n-worker-3 n8n-runner-3",
        ]

    def test_orphans_are_drained_and_removed(self, project: FakeProject, tmp_path: Path) -> None:
        project.add("n8n-worker-9", slot="worker-9")
        project.add("n8n-runner-9", slot="worker-9")
        subject = library(project, tmp_path)
        subject.carry_out(slot_policy.started(subject.all(), Bounds(), []))
        assert project.calls == [
            *("stop n8n-worker-9", "stop n8n-runner-9", "remove n8n-worker-9", "remove n8n-runner-9")
        ]

    def test_every_act_is_a_line_in_the_log_a_failed_one_too(
        self, project: FakeProject, tmp_path: Path
    ) -> None:
        run(project, "worker-1")
        project.broken = {"n8n-worker-2"}
        subject = library(project, tmp_path, wait=0)
        subject.carry_out(slot_policy.drained(subject.all(), ["worker-1"], Bounds()))
        with pytest.raises(SlotError):
            subject.carry_out(slot_policy.started_by_name(subject.all(), ["worker-2"], Bounds()))
        lines = [json.loads(line) for line in (tmp_path / "state/slots.log").read_text().splitlines()]
        assert [(line["act"], line["slot"], line["result"]) for line in lines] == [
            ("drain", "worker-1", "ok"),
            ("start", "worker-2", "failed"),
        ]
        assert {line["actor"] for line in lines} == {"test"}

    def test_says_when_patience_ran_out(self, project: FakeProject, tmp_path: Path) -> None:
        run(project, "worker-1")
        project.exit_codes = {"n8n-worker-1": 137}
        subject = library(project, tmp_path)
        subject.carry_out(slot_policy.drained(subject.all(), ["worker-1"], Bounds()))
        assert subject.messages[0] == "worker-1: n8n-worker-1 had to be killed when its stop time was over"

    def test_a_second_actor_waits_and_is_refused_in_the_end(
        self, project: FakeProject, tmp_path: Path
    ) -> None:
        subject = library(project, tmp_path, wait=0)
        with (tmp_path / "state/slots.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(SlotError, match="another run has been at work"), subject.lock():
                pass
        with subject.lock():
            pass
