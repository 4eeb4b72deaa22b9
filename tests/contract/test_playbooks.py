"""Every playbook checks its input first, stops all hosts on an error, and asks before it loses data."""

import re
from pathlib import Path

import pytest
from contract.conftest import PLAYBOOKS, plays, tasks_of_play, text_of

DATA_LOSING = {"destroy", "restore", "promote", "adopt"}
ENTRIES = [path for path in PLAYBOOKS if not path.name.startswith("_")]
every_playbook = pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
every_entry = pytest.mark.parametrize("playbook", ENTRIES, ids=lambda path: path.stem)


@every_entry
def test_the_boilerplate_comes_first(playbook: Path) -> None:
    first = plays(playbook)[0]
    assert first.get("ansible.builtin.import_playbook", "").endswith("_boilerplate.yml") or (
        first.get("ansible.builtin.import_playbook") in {path.name for path in ENTRIES}
    )


@every_playbook
def test_an_error_on_one_host_stops_all(playbook: Path) -> None:
    own = [play for play in plays(playbook) if "hosts" in play]
    assert [play.get("name") for play in own if play.get("any_errors_fatal") is not True] == []
    assert [play.get("name") for play in own if play.get("gather_facts") is not False] == []


@every_playbook
def test_a_rescue_fails_in_the_end(playbook: Path) -> None:
    for play in plays(playbook):
        for task in tasks_of_play(play):
            if "rescue" in task:
                last = task["rescue"][-1]
                assert any(key in last for key in ("ansible.builtin.fail", "ansible.builtin.assert")), task[
                    "name"
                ]


@every_entry
def test_a_playbook_that_can_lose_data_asks(playbook: Path) -> None:
    if playbook.stem in DATA_LOSING:
        assert re.search(r"platform_confirm\s*==\s*platform_environment", text_of(playbook))


@every_entry
def test_its_first_comment_says_what_it_is_for(playbook: Path) -> None:
    comment = next((line for line in text_of(playbook).splitlines() if line.startswith("# ")), "")
    assert len(comment) > 20
    assert len(comment) <= 120, "make help prints it"
