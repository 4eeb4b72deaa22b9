"""The copy that a restore makes is the one that is taken away: two playbooks cannot share variables of imports."""

from contract.conftest import ROOT, load

PLACES = (
    "environment",
    "project",
    "data_root",
    "volumes_root",
    "config_root",
    "secrets_root",
    "releases_root",
)
PLACES += ("state_root", "backup_root")


def test_what_is_removed_is_what_was_made_whatever_the_inventory_says() -> None:
    (made,) = load(ROOT / "playbooks/_restore_scratch.yml")
    (removed,) = load(ROOT / "playbooks/_restore_remove.yml")
    assert {f"platform_{place}" for place in PLACES} <= set(removed["vars"])
    assert {name: made["vars"].get(name) for name in removed["vars"]} == removed["vars"]


def test_no_place_of_an_environment_is_forgotten() -> None:
    shared = load(ROOT / "group_vars/all/platform.yml")
    marks = ("platform_environment", "platform_data_root")
    roots = {
        name for name in shared if name.endswith("_root") and any(mark in str(shared[name]) for mark in marks)
    }
    (made,) = load(ROOT / "playbooks/_restore_scratch.yml")
    assert roots and roots <= set(made["vars"])


def test_a_copy_delivers_no_bundle_of_keys() -> None:
    """To a bucket it could not, having none, and would be refused."""
    (made,) = load(ROOT / "playbooks/_restore_scratch.yml")
    assert made["vars"]["platform_object_storage"] == "none"
    assert (made["vars"]["backup_bundle_destination"], made["vars"]["backup_bundle_recipients"]) == ("", [])
