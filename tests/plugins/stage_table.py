"""Prints one line per stage (seconds, results) above pytest's own summary. Loaded by bin/test."""

import os
import time
from collections import Counter, defaultdict
from typing import Any

FIRST = time.monotonic()


class StageTable:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.results: dict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: Any) -> None:
        stage = stage_of(report.nodeid)
        self.seconds[stage] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.results[stage][report.outcome] += 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("stages")
        lint = os.environ.get("TEST_STAGE_LINT")
        lint_seconds = 0
        if lint:
            lint_seconds, failed = (int(word) for word in lint.split())
            terminalreporter.write_line(
                f"{'lint':10} {lint_seconds:6d} s  {'FAILED' if failed else 'passed'}"
            )
        for stage, seconds in self.seconds.items():
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.results[stage].items()))
            terminalreporter.write_line(f"{stage:10} {seconds:6.0f} s  {counts}")
        terminalreporter.write_line(f"{'all':10} {lint_seconds + time.monotonic() - FIRST:6.0f} s")


def stage_of(nodeid: str) -> str:
    """tests/unit/test_x.py::test -> unit, molecule/core/tests/test_x.py::test -> core"""
    return nodeid.split("/")[1]


def pytest_configure(config: Any) -> None:
    config.pluginmanager.register(StageTable(), "stage-table")
