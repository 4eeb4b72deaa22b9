"""The same command again changes nothing and touches no container."""

import re

import yaml

from tests.support.deployment import ROOT, Deployment

REPORT = yaml.safe_load((ROOT / "roles/platform_report/vars/main.yml").read_text())
CHECKS = [each for each in REPORT["__platform_report_hardening"] if "check" in each]

TASK_BUDGET = 70


def test_second_run_changes_nothing(core: Deployment) -> None:
    before = core.fingerprint()
    run = core.converge()
    assert run.changed == 0, run.changed_tasks()
    assert core.fingerprint() == before
    assert run.executed_tasks <= TASK_BUDGET, f"{run.executed_tasks} tasks"


def test_check_mode_agrees(core: Deployment) -> None:
    before = core.fingerprint()
    run = core.run("site", check=True)
    assert run.rc == 0, run.failures()
    assert run.changed == 0, run.changed_tasks()
    assert core.fingerprint() == before


def test_verify_passes_and_changes_nothing(core: Deployment) -> None:
    run = core.run("verify")
    assert run.rc == 0, run.failures()
    assert run.changed == 0, run.changed_tasks()
    checklist = run.report.partition("Hardening checklist")[2].partition("\n\n")[0]
    assert len(re.findall(r"^ +pass ", checklist, re.MULTILINE)) == len(CHECKS), checklist
