"""What differs between a release and the running containers, and what is done about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import platform_compose_apply
import pytest
from ansible.module_utils.n8n_platform.compose_policy import ComposeError
from support.fake_project import FakeCompose, FakeProject

TIERS = {"secrets": ["openbao"], "data": ["db", "queue"], "app": ["main"], "edge": ["proxy"]}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    release = tmp_path / "releases/current"
    found = FakeProject(release, TIERS, {"worker-1": ["worker"]})
    (release / "compose.yaml").write_text("")
    monkeypatch.setattr(platform_compose_apply, "Engine", lambda _: found)
    monkeypatch.setattr(platform_compose_apply, "ComposeCli", lambda *_: FakeCompose(found))
    return found


def manager(tmp_path: Path, docker: str | None = "docker", **given: Any) -> platform_compose_apply.Manager:
    defaults = {name: option.get("default") for name, option in platform_compose_apply.build_spec().items()}
    fixed = {"project": "p", "releases_root": str(tmp_path / "releases"), "wait_timeout": 0}
    return platform_compose_apply.Manager({**defaults, **fixed, **given}, docker)


def said(subject: platform_compose_apply.Manager, check_mode: bool = False) -> list[str]:
    return [f"{item.service}: {item.reason}" for item in subject.plan(check_mode)]


def run(tmp_path: Path, **given: Any) -> None:
    manager(tmp_path, **given).converge()


def test_starts_tier_by_tier_without_slots(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path)
    assert project.calls == ["up openbao", "up db queue", "up main", "up proxy"]


def test_networks_that_are_not_there_are_made_before_anything_starts(
    project: FakeProject, tmp_path: Path
) -> None:
    project.present = []
    run(tmp_path, tiers=["secrets"])
    assert project.calls == ["make networks", "up openbao"]
    run(tmp_path, tiers=["data"])
    assert project.calls[2:] == ["up db queue"]


def test_an_unchanged_run_asks_nothing_of_compose(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path)
    project.calls.clear()
    assert said(manager(tmp_path)) == []
    run(tmp_path)
    assert project.calls == []


def test_only_what_differs_is_handed_over(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path)
    project.hashes["queue"] = "h2"
    project.add("main", "exited")
    del project.found["proxy"]
    project.calls.clear()
    assert said(manager(tmp_path)) == ["queue: changed", "main: exited", "proxy: missing"]
    run(tmp_path)
    assert project.calls == ["up queue", "up main", "up proxy"]


def test_the_busy_tiers_are_the_first_that_differs_or_waits_and_those_after_it(
    project: FakeProject, tmp_path: Path
) -> None:
    def busy(**given: Any) -> list[str]:
        subject = manager(tmp_path, **given)
        return subject.busy(subject.plan(check_mode=True))

    assert busy() == ["secrets", "data", "app", "edge"]
    run(tmp_path)
    assert busy() == []
    del project.found["main"]
    assert busy() == ["app", "edge"]
    assert busy(tiers=["secrets", "data"]) == []
    run(tmp_path)
    project.found["queue"]["Status"] = "Up 1 second (health: starting)"
    assert busy() == ["data", "app", "edge"]
    project.add("former")
    assert busy() == ["secrets", "data", "app", "edge"]


def test_tiers_narrow(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path, tiers=["app", "data"])
    assert project.calls == ["up db queue", "up main"]


def test_a_sick_service_ends_the_run_before_the_next_tier(project: FakeProject, tmp_path: Path) -> None:
    project.broken = {"db"}
    with pytest.raises(
        ComposeError, match=r"service db is unhealthy after 0 s: no answer on port 5678 \(docker logs"
    ):
        run(tmp_path)
    assert "up main" not in project.calls


def test_a_service_that_is_sick_already_is_waited_for_not_restarted(
    project: FakeProject, tmp_path: Path
) -> None:
    run(tmp_path)
    project.broken = {"main"}
    project.add("main")
    project.calls.clear()
    assert said(manager(tmp_path)) == ["main: unhealthy"]
    with pytest.raises(ComposeError, match="service main is unhealthy"):
        run(tmp_path)
    assert project.calls == []


def test_orphans_go_first_but_slots_are_left_to_their_library(project: FakeProject, tmp_path: Path) -> None:
    project.add("former")
    project.add("old-worker", slot="worker-9")
    run(tmp_path)
    assert project.calls[:3] == ["stop former", "remove former", "up openbao"]
    assert "old-worker" in project.found


def test_a_network_with_another_definition_is_refused(project: FakeProject, tmp_path: Path) -> None:
    project.network_definition = "d0"
    with pytest.raises(ComposeError, match="network p_data exists with another definition"):
        manager(tmp_path).plan(check_mode=False)


def looked_at(project: FakeProject) -> None:
    """Every service runs, slots too, and all of them with less memory than the release says."""
    inspected = {
        "Image": "id of image:1",
        "Config": {"User": "1:1"},
        "HostConfig": {
            **dict.fromkeys(("Privileged", "ReadonlyRootfs"), False),
            **dict.fromkeys(("CapDrop", "CapAdd", "SecurityOpt", "PidsLimit")),
            "Memory": 1073741824,
            "NanoCpus": 0,
        },
        "NetworkSettings": {"Networks": {"p_data": {}}, "Ports": {}},
    }
    service = {
        "image": "image:1",
        "user": "1:1",
        "networks": {"data": None},
        "deploy": {"resources": {"limits": {"memory": "2147483648"}}},
    }
    project.composed = {
        "services": dict.fromkeys(project.hashes, service),
        "networks": {"data": {"name": "p_data"}},
    }
    for name in project.hashes:
        project.add(name)
        project.inspected[name] = inspected


def test_containers_changed_by_hand_are_told_of_and_left_alone(project: FakeProject, tmp_path: Path) -> None:
    looked_at(project)
    subject = manager(tmp_path, inspect=True)
    assert subject.drift() == [
        f"service {name}: memory is 1073741824, the release says 2147483648"
        for name in ("db", "main", "openbao", "proxy", "queue", "worker")
    ]
    assert said(subject) == []
    run(tmp_path, inspect=True)
    assert project.calls == []


def test_only_those_of_this_release_that_run_are_looked_at(project: FakeProject, tmp_path: Path) -> None:
    looked_at(project)
    project.add("db", config_hash="h0")
    project.add("worker", "exited")
    project.add("former")
    del project.found["queue"]
    # Ends between the list and the look.
    project.inspected["proxy"] = {**project.inspected["proxy"], "State": {"Running": False}}
    assert [line.split(":")[0] for line in manager(tmp_path, inspect=True).drift()] == [
        *("service main", "service openbao")
    ]


def test_nobody_looks_unasked_or_where_there_is_no_release(project: FakeProject, tmp_path: Path) -> None:
    looked_at(project)
    assert manager(tmp_path).drift() == []
    assert manager(tmp_path, inspect=True, state="stopped").drift() == []
    assert manager(tmp_path, inspect=True, release="next").drift() == []


def test_stopping_goes_backwards_and_leaves_other_tiers(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path)
    project.calls.clear()
    run(tmp_path, state="stopped", tiers=["secrets", "data", "app"])
    assert project.calls == ["compose stop main", "compose stop db queue", "compose stop openbao"]
    assert said(manager(tmp_path, state="stopped", tiers=["secrets", "data", "app"])) == []


def test_only_tier_app_is_stopped_with_less_patience(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path)
    project.calls.clear()
    run(tmp_path, state="stopped", tiers=["data", "app"], app_patience=30)
    assert project.calls == ["compose stop main within 30", "compose stop db queue"]
    run(tmp_path)
    project.calls.clear()
    run(tmp_path, state="absent", app_patience=30)
    assert project.calls[:2] == ["stop proxy", "stop main within 30"]
    assert {"stop db", "stop queue", "stop openbao"} < set(project.calls)


def test_removing_stops_the_edge_first(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path)
    project.calls.clear()
    run(tmp_path, state="absent")
    assert [*project.calls[:2], *sorted(project.calls[2:4]), *project.calls[4:]] == [
        *("stop proxy", "stop main", "stop db", "stop queue", "stop openbao", "down")
    ]


def test_removing_takes_the_networks_of_slots_that_are_no_more(project: FakeProject, tmp_path: Path) -> None:
    run(tmp_path)
    project.present.append("slot-3")
    project.calls.clear()
    run(tmp_path, state="absent")
    assert project.calls[-2:] == ["down", "remove p_slot-3"]
    assert said(manager(tmp_path, state="absent")) == [], "nothing is left for another run"


def test_a_first_check_run_says_what_is_missing(tmp_path: Path) -> None:
    assert said(manager(tmp_path, docker=None), check_mode=True) == [
        "the Docker client: missing",
        "release current: missing",
    ]
    with pytest.raises(ComposeError, match="not on this host"):
        manager(tmp_path, docker=None).plan(check_mode=False)
