"""Says at once what has failed, and keeps each stage's seconds and results below TEST_RESULTS. Loaded by bin/test.

`python -m stage_table FOLDER SECONDS` prints all of them, and each failed test with its reason in a line; the last line
is the sum, as `N passed, N failed, N skipped`.
"""

import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any


class StageTable:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: dict[str, Counter[str]] = defaultdict(Counter)
        self.failures: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        stage = self.stages[stage_of(report.nodeid)]
        stage["seconds"] += report.duration
        if report.when == "call" or report.outcome != "passed":
            stage[report.outcome] += 1
        if report.failed:
            # At once: the end of a run of deployments is an hour away.
            print(f"\n{report.nodeid}: {report.when} failed\n{report.longreprtext[-4000:]}", flush=True)
            self.failures.append(in_a_line(report))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.stages[stage_of(report.nodeid)]["failed"] += 1
            self.failures.append(in_a_line(report))

    def pytest_sessionfinish(self) -> None:
        results = self.folder / str(os.getpid())
        results.with_suffix(".json").write_text(json.dumps(self.stages), encoding="utf-8")
        results.with_suffix(".failures").write_text("".join(self.failures), encoding="utf-8")


def in_a_line(report: Any) -> str:
    """`stage test_x.py::test: reason`, at most 160 characters: many readers see a run's last lines only."""
    crash = getattr(report.longrepr, "reprcrash", None)
    reason = " ".join((crash.message if crash else report.longreprtext).split())
    return f"{stage_of(report.nodeid)} {report.nodeid.split('/')[-1]}: {reason}"[:160] + "\n"


def stage_of(nodeid: str) -> str:
    """tests/unit/test_x.py::test -> unit, molecule/core/tests/test_x.py::test -> core"""
    return [*nodeid.split("/"), "?"][1]


def pytest_configure(config: Any) -> None:
    if folder := os.environ.get("TEST_RESULTS"):
        config.pluginmanager.register(StageTable(Path(folder)), "stage-table")


def main(folder: Path, seconds: int) -> None:
    total: Counter[str] = Counter(passed=0, failed=0, skipped=0)
    for path in sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime):
        for stage, results in json.loads(path.read_text(encoding="utf-8")).items():
            took = results.pop("seconds", 0)
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(results.items()))
            print(f"{stage:10} {took:6.0f} s  {counts}")
            total.update(results)
    print(f"{'all':10} {seconds:6d} s")
    for path in sorted(folder.glob("*.failures")):
        print(path.read_text(encoding="utf-8"), end="")
    print(", ".join(f"{count} {outcome}" for outcome, count in total.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
