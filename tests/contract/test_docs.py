"""Commands that the documentation shows are commands that a test runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from contract.conftest import ROOT, repository_files, text_of

BLOCK = re.compile(r"^```[a-z]+ id=(?P<id>[a-z0-9-]+)\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
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
