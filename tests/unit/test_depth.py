"""When an area of tests is run in full, and what counts as green."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins import depth as subject

SMOKE, FULL = "tests/a/test_x.py::test_smoke", "tests/a/test_x.py::test_full"


@dataclass
class Item:
    nodeid: str

    def get_closest_marker(self, name: str) -> Any:
        return name if self.nodeid == FULL else None


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one area `a`, whose result depends on `input`; no records yet, images are there."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/areas.yml").write_text(
        "shared_inputs: []\nstages: {a: 1000, b: 3000}\n"
        "areas: {a: {seconds: 100, tests: [tests/a/*], inputs: [input]}}\n"
    )
    (tmp_path / "input").write_text("1")
    monkeypatch.setattr(subject, "ROOT", tmp_path)
    monkeypatch.setattr(subject, "RECORDS", tmp_path / "records")
    monkeypatch.setenv("TEST_SECONDS", "5000")
    monkeypatch.setattr(subject, "repository_files", lambda: (tmp_path / "input",))
    monkeypatch.setattr(subject, "IMAGES", tmp_path / "engine")
    (tmp_path / "engine/overlay2").mkdir(parents=True)
    (tmp_path / "engine/overlay2/repositories.json").write_text(
        '{"n8n-platform/n8n": {"n8n-platform/n8n:1": ""}}'
    )
    return tmp_path


def run(wanted: str = "auto", failing: str = "", stopped_before: str = "") -> list[str]:
    """The tests that a run of the area runs; its record is written as after a real one."""
    subject.areas.cache_clear()
    plugin = subject.Depth(wanted)
    items = [Item(SMOKE), Item(FULL), Item("tests/b/test_y.py::test")]
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda **_: None))
    plugin.pytest_collection_modifyitems(config, items)
    for item in items:
        if item.nodeid == stopped_before:
            break
        for when in ("setup", "call", "teardown"):
            failed = when == "call" and item.nodeid == failing
            plugin.pytest_runtest_logreport(SimpleNamespace(nodeid=item.nodeid, when=when, failed=failed))
    plugin.pytest_sessionfinish()
    return [item.nodeid for item in items]


def test_full_until_it_was_green_and_again_when_an_input_changes(checkout: Path) -> None:
    assert FULL in run()
    assert FULL not in run() and SMOKE in run()
    (checkout / "input").write_text("2")
    assert FULL in run()
    assert json.loads((checkout / "records/a.json").read_text())["green"]


@pytest.mark.parametrize("what", [{"failing": FULL}, {"failing": SMOKE}, {"stopped_before": FULL}])
def test_a_failed_or_stopped_run_is_no_record(checkout: Path, what: dict[str, str]) -> None:
    run(**what)
    assert FULL in run()


def test_smoke_is_no_record_and_full_is_always_full(checkout: Path) -> None:
    assert FULL not in run("smoke")
    assert FULL in run()
    assert FULL in run("full")


def test_a_machine_without_images_has_enough_to_do(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "engine/overlay2/repositories.json").write_text("{}")
    assert FULL not in run()
    assert FULL in run("full")


def test_what_belongs_to_no_area_is_always_run(checkout: Path) -> None:
    assert "tests/b/test_y.py::test" in run("smoke")


def test_full_is_run_only_where_the_time_lasts(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a 1000, b 3000, the reserve 900: 100 are left, which the area takes.
    monkeypatch.setenv("TEST_SECONDS", "4999")
    assert FULL not in run()
    monkeypatch.setenv("TEST_SECONDS", "5000")
    assert FULL in run()


def test_what_does_not_fit_into_the_time_waits_its_turn(checkout: Path) -> None:
    def area(name: str) -> subject.Area:
        return subject.Area(name, 1000, (), ("input",))

    areas = [area("a"), area("b")]
    assert [subject.decide(areas, "auto", 1500)[each] for each in areas] == ["full", "smoke"]
    areas[0].write()
    (checkout / "input").write_text("2")
    areas = [area("a"), area("b")]
    assert [subject.decide(areas, "auto", 1500)[each] for each in areas] == ["smoke", "full"]
    assert set(subject.decide(areas, "full", 0).values()) == {"full"}
