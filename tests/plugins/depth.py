"""Decides how deep each area of tests is run. Loaded by bin/test; without it everything is run.

A test marked `full` is part of its area's whole list; the others are its smoke tests. CI_DEPTH:

- full: everything.
- smoke: nothing that is marked.
- auto (default): full for areas that were never green in full with their present input files on this machine, as far
  as their seconds fit into the time; smoke for the others, and for all on a machine that has no images yet.

tests/areas.yml names the stages' seconds in smoke, and the areas' test files, input files and the seconds that full
adds. The time is TEST_SECONDS (bin/test: until its limit; default 5100) less a reserve. A record for each area lies
below PLATFORM_CACHE (/var/cache/n8n-platform): the inputs' digest and the date when it was green in full.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from stage_table import stage_of

from tests.support.repository import ROOT, repository_files

RECORDS = Path(os.environ.get("PLATFORM_CACHE", "/var/cache/n8n-platform")) / "green"
DEPTHS = ("auto", "full", "smoke")
# Of a run's time: for a day on which everything is slower. Both lanes in full took 66 and 69 minutes, of 85.
RESERVE_SECONDS = 900
# The engine may not run yet when this is asked.
IMAGES = Path("/var/lib/docker/image")


@dataclass(frozen=True)
class Area:
    """`tests` and `inputs`: patterns of paths from the repository's root; `*` crosses folders.

    seconds: what full adds to smoke, on two cores with nothing beside it.
    """

    name: str
    seconds: int
    tests: tuple[str, ...]
    inputs: tuple[str, ...]

    def has(self, path: str) -> bool:
        return any(fnmatch(path, pattern) for pattern in self.tests)

    @cached_property
    def digest(self) -> str:
        """Of the contents of all test and input files."""
        found = hashlib.sha256()
        for path in repository_files():
            name = str(path.relative_to(ROOT))
            if any(fnmatch(name, pattern) for pattern in (*self.tests, *self.inputs)):
                found.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()

    @property
    def record(self) -> Path:
        return RECORDS / f"{self.name}.json"

    @property
    def last(self) -> dict[str, Any]:
        """The record, {} where the area was never green in full on this machine."""
        return json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else {}

    @property
    def due(self) -> bool:
        return bool(self.last.get("digest") != self.digest)

    def write(self) -> None:
        self.record.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {"digest": self.digest, "green": datetime.now(timezone.utc).isoformat("T", "minutes")}
        )
        new = self.record.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(self.record)


def listing() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "tests/areas.yml").read_text(encoding="utf-8"))
    return found


@cache
def areas() -> list[Area]:
    listed = listing()
    shared = tuple(listed["shared_inputs"])
    return [
        Area(name, area["seconds"], tuple(area["tests"]), (*area["inputs"], *shared))
        for name, area in listed["areas"].items()
    ]


def owner(path: str) -> Area | None:
    return next((area for area in areas() if area.has(path)), None)


def images_cached() -> bool:
    return any("n8n-platform/n8n:" in path.read_text() for path in IMAGES.glob("*/repositories.json"))


def seconds_left(stages: set[str]) -> int:
    """What a run of these stages in smoke leaves of its time."""
    smoke = sum(seconds for stage, seconds in listing()["stages"].items() if stage in stages)
    return int(os.environ.get("TEST_SECONDS", "5100")) - smoke - RESERVE_SECONDS


def decide(concerned: list[Area], wanted: str, left: int) -> dict[Area, str]:
    """Area -> full or smoke; in `auto`, with `left` seconds, those that were not green for longest come first."""
    if wanted != "auto":
        return dict.fromkeys(concerned, wanted)
    depths = dict.fromkeys(concerned, "smoke")
    for area in sorted(concerned, key=lambda each: each.last.get("green", "")):
        if area.due and area.seconds <= left:
            depths[area] = "full"
            left -= area.seconds
    return depths


class Depth:
    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.depths: dict[Area, str] = {}
        self.left_out: Counter[Area] = Counter()
        self.open: dict[str, Area] = {}
        self.spoiled: set[Area] = set()

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        owners = {item.nodeid: owner(item.nodeid.split("::")[0]) for item in items}
        concerned = list(dict.fromkeys(area for area in owners.values() if area))
        left = seconds_left({stage_of(nodeid) for nodeid in owners}) if images_cached() else 0
        self.depths = decide(concerned, self.wanted, left)
        kept, dropped = [], []
        for item in items:
            area = owners[item.nodeid]
            if area and self.depths[area] == "smoke" and item.get_closest_marker("full"):
                self.left_out[area] += 1
                dropped.append(item)
                continue
            if area:
                self.open[item.nodeid] = area
            kept.append(item)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    def pytest_runtest_logreport(self, report: Any) -> None:
        area = self.open.get(report.nodeid)
        if area and report.failed:
            self.spoiled.add(area)
        if report.when == "teardown":
            self.open.pop(report.nodeid, None)

    def pytest_sessionfinish(self) -> None:
        # What was never run, after a stop half-way, spoils its area, too.
        self.spoiled.update(self.open.values())
        for area, depth in self.depths.items():
            if depth == "full" and area not in self.spoiled:
                area.write()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.depths:
            return
        terminalreporter.section("depth")
        for area, depth in self.depths.items():
            left = f"{self.left_out[area]} tests left out" if self.left_out[area] else "every test"
            green = f"green in full {area.last['green']}" if area.last else "never green in full here"
            due = ", with other files: due" if area.last and area.due else ""
            terminalreporter.write_line(f"{area.name:10} {depth:6} {left:20} {green}{due}")


def pytest_configure(config: Any) -> None:
    wanted = os.environ.get("CI_DEPTH", "auto")
    if wanted not in DEPTHS:
        raise SystemExit(f"CI_DEPTH: '{wanted}' is none of {', '.join(DEPTHS)}")
    config.pluginmanager.register(Depth(wanted), "depth-of-areas")
