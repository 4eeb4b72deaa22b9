"""Decides how deep each area of tests is run. Loaded by bin/test; without it everything is run.

A test marked `full` is part of its area's whole list; the others are its smoke tests. CI_DEPTH:

- full: everything.
- smoke: nothing that is marked.
- auto (default): full for areas that were never green in full with their present input files on this machine, smoke
  for the others, and smoke for all on a machine that has no images yet.

tests/areas.yml names the areas' test files and input files. A record per area lies below PLATFORM_CACHE
(/var/cache/n8n-platform): the digest of the inputs of the last run that was green in full, and its date.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDS = Path(os.environ.get("PLATFORM_CACHE", "/var/cache/n8n-platform")) / "green"
DEPTHS = ("auto", "full", "smoke")


@cache
def tracked() -> list[str]:
    """Paths of the files of this checkout, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return sorted(path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file())


@dataclass(frozen=True)
class Area:
    """`tests` and `inputs`: patterns of paths from the repository's root; `*` crosses folders."""

    name: str
    tests: tuple[str, ...]
    inputs: tuple[str, ...]

    def has(self, path: str) -> bool:
        return any(fnmatch(path, pattern) for pattern in self.tests)

    @cached_property
    def digest(self) -> str:
        """Of the contents of all test and input files."""
        found = hashlib.sha256()
        for path in tracked():
            if any(fnmatch(path, pattern) for pattern in (*self.tests, *self.inputs)):
                found.update(f"{path}\0".encode() + hashlib.sha256((ROOT / path).read_bytes()).digest())
        return found.hexdigest()

    @property
    def record(self) -> Path:
        return RECORDS / f"{self.name}.json"

    @property
    def last(self) -> dict[str, Any]:
        """The record, {} where the area was never green in full on this machine."""
        return json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else {}

    def write(self) -> None:
        self.record.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {"digest": self.digest, "green": datetime.now(timezone.utc).isoformat("T", "minutes")}
        )
        new = self.record.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(self.record)


def areas() -> list[Area]:
    listed = yaml.safe_load((ROOT / "tests/areas.yml").read_text(encoding="utf-8"))
    shared = tuple(listed["shared_inputs"])
    return [
        Area(name, tuple(area["tests"]), (*area["inputs"], *shared)) for name, area in listed["areas"].items()
    ]


def images_cached() -> bool:
    images = ["docker", "image", "ls", "--quiet", "n8n-platform/n8n"]
    try:
        return bool(subprocess.run(images, capture_output=True, text=True, check=False).stdout.strip())
    except FileNotFoundError:
        return False


def decide(area: Area, wanted: str, *, cached: bool) -> str:
    """full or smoke"""
    if wanted != "auto":
        return wanted
    return "full" if cached and area.last.get("digest") != area.digest else "smoke"


class Depth:
    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.depths: dict[Area, str] = {}
        self.left_out: Counter[Area] = Counter()
        self.open: dict[str, Area] = {}
        self.spoiled: set[Area] = set()

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        known, cached = areas(), images_cached()
        kept, dropped = [], []
        for item in items:
            area = next((each for each in known if each.has(item.nodeid.split("::")[0])), None)
            if area is None:
                kept.append(item)
                continue
            depth = self.depths.setdefault(area, "") or decide(area, self.wanted, cached=cached)
            self.depths[area] = depth
            if depth == "smoke" and item.get_closest_marker("full"):
                self.left_out[area] += 1
                dropped.append(item)
            else:
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
            green = area.last.get("green", "never here")
            same = "" if area.last.get("digest") == area.digest else ", with other files"
            left = f"  {self.left_out[area]} tests left out" if self.left_out[area] else ""
            terminalreporter.write_line(
                f"{area.name:12} {depth:6} last green in full: {green}{same if area.last else ''}{left}"
            )


def pytest_configure(config: Any) -> None:
    wanted = os.environ.get("CI_DEPTH", "auto")
    if wanted not in DEPTHS:
        raise SystemExit(f"CI_DEPTH: '{wanted}' is none of {', '.join(DEPTHS)}")
    config.pluginmanager.register(Depth(wanted), "depth")
