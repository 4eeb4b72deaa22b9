"""Folders of key bundles that environments share, of which one's name begins with the other's."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.backup import Context, Definition
from ansible.module_utils.n8n_platform.backup_offsite import deliver_bundle
from ansible.module_utils.n8n_platform.backup_prune import Prune

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
OLD, OURS = "20261101T020000Z", "20261122T120000Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles"


@pytest.fixture
def context(tmp_path: Path, folder: Path) -> Context:
    values: dict[str, Any] = {
        "environment": "prod",
        "project": "p",
        "timezone": "UTC",
        "images": {},
        "items": [],
    }
    roots = {f"{name}_root": str(tmp_path / name) for name in ("volumes", "secrets", "state", "backup")}
    retention = {"local_days": 7, "offsite_days": 30, "minimum_sets": 2}
    bundle = {"destination": str(folder)}
    definition = Definition({**values, **roots, "retention": retention, "bundle": bundle})
    unused: Any = None
    return Context(definition, unused, unused, OURS, NOW, "full", print)


def test_only_bundles_of_this_very_environment_go_with_their_run(context: Context, folder: Path) -> None:
    for name in (f"prod-{OLD}.age", f"prod-{OURS}.age", f"prod-eu-{OLD}.age", "prod-mine.age"):
        (folder / name).touch()
    listed = Prune(context)._bundles()
    assert [(each.name, each.run) for each in listed] == [(str(folder / f"prod-{OLD}.age"), OLD)]


def test_a_bundle_that_another_environment_is_writing_is_left_alone(
    context: Context, folder: Path, tmp_path: Path
) -> None:
    theirs, ours = folder / f"prod-eu-{OURS}.new", folder / f"prod-{OLD}.new"
    theirs.touch()
    ours.touch()
    made = tmp_path / f"prod-{OURS}.age"
    made.write_text("sealed")
    assert deliver_bundle(context, made, str(folder)) == str(folder / made.name)
    assert sorted(folder.iterdir()) == sorted([folder / made.name, theirs])
