"""Folders of key bundles that environments share, of which one's name begins with the other's."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import backup_offsite
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
    theirs, ours = folder / f".prod-eu-{OURS}.age.0a1b2c3d", folder / f".prod-{OLD}.age.0a1b2c3d"
    theirs.touch()
    ours.touch()
    made = tmp_path / f"prod-{OURS}.age"
    made.write_text("sealed")
    assert deliver_bundle(context, made, str(folder)) == str(folder / made.name)
    assert sorted(folder.iterdir()) == sorted([folder / made.name, theirs])


def test_a_bundle_follows_no_link_in_a_folder_that_others_write_to(
    context: Context, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put there when what a killed run has left was looked for."""
    host, made = tmp_path / "host", tmp_path / f"prod-{OURS}.age"
    host.write_text("of the host")
    made.write_text("sealed")
    (folder / f"prod-{OURS}.new").symlink_to(host)
    (folder / made.name).symlink_to(host)
    monkeypatch.setattr(backup_offsite, "of_environment", lambda *_: {}, raising=False)
    assert deliver_bundle(context, made, str(folder)) == str(folder / made.name)
    assert host.read_text() == "of the host" and not made.exists()
    assert (folder / made.name).read_text() == "sealed" and not (folder / made.name).is_symlink()
    assert (folder / made.name).stat().st_mode & 0o777 == 0o600


def power_cut(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_what_a_killed_run_has_left_of_a_bundle_goes_with_the_next(
    context: Context, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / f"prod-{OLD}.age"
    made.write_text("sealed")
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("os.fchmod", power_cut)
        killed.setattr(Path, "unlink", power_cut)
        deliver_bundle(context, made, str(folder))
    (left,) = folder.iterdir()
    assert left.name.startswith(f".{made.name}.")
    deliver_bundle(context, made, str(folder))
    assert [path.name for path in folder.iterdir()] == [made.name]
