"""A restore in place that ends before its switch leaves nothing that keeps backups from running."""

from contract.conftest import ROOT, load, text_of

MARKER = "{{ platform_state_root }}/restore.json"
FOLDER = "{{ platform_recovery.directory }}"


def imported(task: dict[str, object]) -> str:
    role = task.get("ansible.builtin.import_role")
    return str(role["tasks_from"]) if isinstance(role, dict) else ""


def test_what_comes_before_the_switch_is_taken_away_where_it_fails() -> None:
    (play,) = load(ROOT / "playbooks/_restore_in_place.yml")
    blocks = [task for task in play["tasks"] if "block" in task]
    prepare, switch = blocks
    inside = [imported(task) for task in prepare["block"]]
    assert inside == ["fetch", "", "restore_prepare", "restore_dump_prepare"]
    assert prepare["block"][1]["ansible.builtin.copy"]["dest"] == MARKER
    at = play["tasks"].index(prepare)
    assert play["tasks"][at + 1] is switch, "what lies between would leave the marker behind"

    forget = load(ROOT / "playbooks/tasks/restore_forget.yml")
    removed = [task["ansible.builtin.file"]["path"] for task in forget if "ansible.builtin.file" in task]
    assert removed == [MARKER, FOLDER]
    assert [imported(task) for task in forget[1:-1]] == ["restore_back", "restore_dump_back"]
    assert "restore_forget.yml" in str(prepare["rescue"][0]) and "restore_back.yml" in str(switch["rescue"][0])
    # Of a restore that was killed earlier nobody knows here how far it had come.
    assert prepare["rescue"][0]["when"] == "not __restore_begun.stat.exists"
    assert "Nothing was changed" in text_of(ROOT / "playbooks/_restore_in_place.yml")
