"""What production refuses to be backed up with, before anything is changed: each refusal names its variable."""

import json
from pathlib import Path
from typing import Any

from tests.support.made_up_play import play, run_play, written

GOOD: dict[str, Any] = {
    "platform_environment": "production",
    "backup_bundle_recipients": ["age1" + "q" * 58],
    "backup_bundle_destination": "/srv/bundles",
    "platform_object_storage": "external",
    "platform_s3_endpoint": "https://192.0.2.7:9000",
    "platform_s3_bucket": "data",
}
OWN = {"platform_s3_endpoint": "https://127.0.0.1:9000"}
STAGING = {"platform_environment": "staging"}
# Role, what is other than good, and what is said of it; nothing where it is taken.
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "good": ("backup", {}, ""),
    "no recipient": ("backup", {"backup_bundle_recipients": []}, "backup_bundle_recipients"),
    "no destination": ("backup", {"backup_bundle_destination": ""}, "backup_bundle_destination, a folder"),
    "the data's bucket": (
        "backup",
        {"backup_bundle_destination": "s3://data/keys"},
        "backup_bundle_destination must not be platform_s3_bucket",
    ),
    "another bucket": ("backup", {"backup_bundle_destination": "s3://data-keys/x"}, ""),
    "a bucket of no store": (
        "backup",
        {"backup_bundle_destination": "s3://data-keys/x", "platform_object_storage": "none"},
        "backup_bundle_destination is a bucket, which needs platform_object_storage",
    ),
    "a private key": (
        "backup",
        {"backup_bundle_recipients": ["AGE-SECRET-KEY-1" + "Q" * 58]},
        "backup_bundle_recipients: public",
    ),
    "inside the data": (
        "backup",
        {"platform_backup_root": "{{ platform_data_root }}/backups"},
        "platform_backup_root and platform_data_root",
    ),
    "mail without a server": ("backup", {"backup_mail_to": ["ops@example.org"]}, "backup_mail_host"),
    "no calendar": (
        "backup",
        dict.fromkeys(("backup_full_calendar", "backup_diff_calendar", "backup_incr_calendar"), ""),
        "backup_full_calendar",
    ),
    "no second place": ("object_storage", OWN, "platform_s3_endpoint: 127.0.0.1"),
    "said to be one": ("object_storage", {**OWN, "object_storage_same_host_allowed": True}, ""),
    "a store elsewhere": ("object_storage", {}, ""),
    "staging without a bundle": (
        "backup",
        {**STAGING, "backup_bundle_recipients": [], "backup_bundle_destination": ""},
        "",
    ),
    "staging with a private key": (
        "backup",
        {**STAGING, "backup_bundle_recipients": ["AGE-SECRET-KEY-1"]},
        "backup_bundle_recipients: public",
    ),
    "staging beside itself": ("object_storage", {**STAGING, **OWN}, ""),
    "no TLS": (
        "object_storage",
        {"platform_s3_endpoint": "http://192.0.2.7:9000"},
        "platform_s3_endpoint: 'http://192.0.2.7:9000'",
    ),
}


def said(folder: Path) -> dict[str, str]:
    """What each case's preflight fails with, empty where it does not."""
    tasks = [
        {
            "block": [
                {
                    "ansible.builtin.include_role": {"name": role, "tasks_from": "preflight"},
                    "vars": {**GOOD, **changes},
                }
            ],
            "rescue": [
                {"ansible.builtin.set_fact": {f"said_{n}": "{{ ansible_failed_result.msg }}"}},
            ],
        }
        for n, (role, changes, _) in enumerate(CASES.values())
    ]
    words = {name: f"{{{{ said_{n} | default('') }}}}" for n, name in enumerate(CASES)}
    book = [play(*tasks, written(folder / "said.json", words))]
    run_play(folder, book, platform_root=str(folder / "data"))
    assert not (folder / "data").exists(), "something was changed"
    found: dict[str, str] = json.loads((folder / "said.json").read_text())
    return found


def test_each_refusal_names_its_variable_and_what_is_good_is_taken(tmp_path: Path) -> None:
    found = said(tmp_path)
    wrong = {
        name: found[name]
        for name, (_, _, words) in CASES.items()
        if words not in found[name] or bool(words) != bool(found[name])
    }
    assert wrong == {}
