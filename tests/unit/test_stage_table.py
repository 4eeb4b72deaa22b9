"""What a run of the tests says last."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plugins.stage_table import StageTable, main


def report(nodeid: str, outcome: str = "passed", text: str = "") -> Any:
    crash = SimpleNamespace(reprcrash=SimpleNamespace(message=text))
    return SimpleNamespace(
        nodeid=nodeid,
        when="call",
        outcome=outcome,
        failed=outcome == "failed",
        duration=1.5,
        longrepr=crash,
        longreprtext=text,
    )


def test_each_failure_stands_beside_its_reason_and_the_sum_is_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = StageTable(tmp_path)
    table.pytest_runtest_logreport(report("molecule/core/tests/test_x.py::test_good"))
    long = "AssertionError: first\n  second line " + "x" * 300
    table.pytest_runtest_logreport(report("molecule/core/tests/test_x.py::test_bad", "failed", long))
    table.pytest_collectreport(report("tests/unit/test_y.py", "failed", "ImportError: no y"))
    table.pytest_sessionfinish()
    (tmp_path / "lint.json").write_text(json.dumps({"lint": {"seconds": 2, "passed": 1}}))
    capsys.readouterr()

    main(tmp_path, 7)
    *_, bad, unreadable, total = capsys.readouterr().out.splitlines()
    assert bad.startswith("core test_x.py::test_bad: AssertionError: first second line xxx")
    assert len(bad) <= 160
    assert unreadable == "unit test_y.py: ImportError: no y"
    assert total == "2 passed, 2 failed, 0 skipped"
