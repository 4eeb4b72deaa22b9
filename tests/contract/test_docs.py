"""Commands that the documentation shows are commands that a test runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contract.conftest import ROOT, load, plays, repository_files, tasks_of_play, text_of

from tests.support.docs import doc_block

BLOCK = re.compile(r"^```[a-z]+ id=(?P<id>[a-z0-9-]+)\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")
COMMAND = re.compile(
    r"^ {4,}((?:[A-Z_]+=\S* )*(?:make|docker|ansible(?:-playbook)?|pg_\w+|psql|npm|mkdir|cd|ln|bao|\S*bin/\S+) .*)$",
    re.MULTILINE,
)
# What no test can run: how it begins, and why.
UNTRIED = {
    "make test": "it would run itself",
    "make up ENV=production ARGS=--ask-become-pass": "it asks on a terminal; molecule/host gives a file",
    "mkdir inventories/production-packages": "it asks a registry; molecule/core/packages was made so",
    "npm install --package-lock-only": "the same",
}
PAGES = [path for path in repository_files() if path.suffix == ".md"]
BLOCKS = {match["id"]: match["commands"] for path in PAGES for match in BLOCK.finditer(text_of(path))}


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_a_test_runs_the_commands(name: str) -> None:
    """A test names the block by `doc_block("<id>")`, which hands it the very commands."""
    tests = [
        path
        for path in repository_files()
        if path.suffix == ".py" and {"tests", "molecule"} & set(path.parts)
    ]
    assert any(f'doc_block("{name}")' in text_of(path) for path in tests)


@pytest.mark.parametrize("page", ["backup", "restore", "disaster-recovery"])
def test_every_command_of_a_runbook_is_one_that_a_test_runs(page: str) -> None:
    """Nobody tries them before the day on which they have to work."""
    text = text_of(ROOT / f"docs/{page}.md")
    assert re.findall(r"^ *```[a-z]+ *$", text, re.MULTILINE) == []
    assert BLOCK.search(text)


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def commands_outside_of_blocks(page: Path) -> list[str]:
    return COMMAND.findall(BLOCK.sub("", text_of(page)))


@every_page
def test_no_command_stands_outside_of_the_blocks_that_tests_run(page: Path) -> None:
    assert re.findall(r"^ *```(?:sh|bash|console) *$", text_of(page), re.MULTILINE) == []
    assert [line for line in commands_outside_of_blocks(page) if not line.startswith(tuple(UNTRIED))] == []


def test_what_is_excused_from_being_tried_is_still_there() -> None:
    lines = [line for page in PAGES for line in commands_outside_of_blocks(page)]
    assert [start for start in UNTRIED if not any(line.startswith(start) for line in lines)] == []


def test_the_two_commands_of_the_readme_are_those_that_are_run() -> None:
    """A test runs the one, and the other is what continuous integration calls."""
    commands = [line.partition("#")[0].split() for line in doc_block("two-commands").splitlines()]
    assert commands == [doc_block("up").split(), ["make", "test"]]
    assert " test " in text_of(ROOT / ".ci/run").splitlines()[-1]


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in LINK.findall(text_of(page)) if not (page.parent / link).exists()] == []


def test_an_identifier_is_used_once() -> None:
    found = [match["id"] for path in PAGES for match in BLOCK.finditer(text_of(path))]
    assert sorted(found) == sorted(set(found))


@pytest.mark.parametrize("script", ["reference", "routes-doc"])
def test_generated_pages_are_up_to_date(script: str) -> None:
    command = [sys.executable, str(ROOT / "bin" / script), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}; run bin/{script} and commit what it writes"


HARDENING = load(ROOT / "roles/platform_report/vars/main.yml")["__platform_report_hardening"]


def every_verify_task() -> list[dict[str, Any]]:
    """The tasks of the roles that `verify` enters."""
    calls = [
        task.get("ansible.builtin.import_role") or {}
        for play in plays(ROOT / "playbooks/_verify.yml")
        for task in tasks_of_play(play)
    ]
    roles = [call["name"] for call in calls if call.get("tasks_from") == "verify"]
    assert roles
    return [task for role in roles for task in load(ROOT / f"roles/{role}/tasks/verify.yml")]


def test_what_decides_an_item_of_the_hardening_checklist_exists() -> None:
    registered = [task.get("register") for task in every_verify_task()]
    assert [each for each in HARDENING if ("check" in each) == ("test" in each)] == []
    assert [each for each in HARDENING if "check" in each and registered.count(each["check"]) != 1] == []
    lost = []
    for path, _, name in (each["test"].partition("::") for each in HARDENING if "test" in each):
        if f"def {name}(" not in text_of(ROOT / path):
            lost.append(f"{path}::{name}")
    assert lost == []


def test_every_task_of_verify_decides_an_item_of_the_hardening_checklist() -> None:
    listed = {each.get("check") for each in HARDENING}
    assert [task["name"] for task in every_verify_task() if task.get("register") not in listed] == []
