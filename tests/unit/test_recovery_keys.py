"""Where keys lie while a backup is chosen from the bucket, and after; the bucket is a stub."""

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import platform_recovery
import pytest
from ansible.module_utils.n8n_platform.backup_manifest import Set, seal
from ansible.module_utils.n8n_platform.recovery import RecoveryError
from ansible.module_utils.n8n_platform.secrets import fingerprint

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
RUN = "20261122T020000Z"


class Host:
    """A running source, with what would have to lie in its bucket."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys = root / "state/recovery/keys"
        self.write("seal/openbao.key", "seal")
        self.write("secrets/n8n-main/n8n_encryption_key", "encryption")
        self.write("secrets/host/backup_restic_password", "password")
        self.write("secrets/host/backup_s3_credentials", "credentials")
        roots = {f"{name}_root": str(root / name) for name in ("volumes", "secrets", "state", "backup")}
        self.definition: dict[str, Any] = {
            "environment": "prod",
            "project": "p",
            "timezone": "UTC",
            "images": {},
            "items": [],
            **roots,
            "data_root": str(root),
            "retention": {},
            "s3": {"network": "n"},
        }
        self.read: list[dict[str, str]] = []
        self.environment = "prod"

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def manager(self) -> Any:
        (self.root / "backup.json").write_text(platform_recovery.json.dumps(self.definition))
        paths = {
            "definition": "backup.json",
            "directory": "state/recovery",
            "volumes_root": "v",
            "data_root": "",
        }
        params = {name: str(self.root / below) for name, below in paths.items()}
        texts = dict.fromkeys(("run", "time", "backup_image", "n8n_version", "postgres_major"), "")
        params |= texts | {"state": "fetched", "source_environment": "prod", "repository": "s3"}
        return platform_recovery.Manager({**params, "parts": []}, self, NOW)

    def networks(self, _labels: Any) -> list[Any]:
        return []

    def sets(self, source: Any) -> list[Set]:
        """What Offsite finds, and which keys it was given."""
        folder = source.secret_file("backup_restic_password").parent
        assert folder.stat().st_mode & 0o777 == 0o700
        self.read.append({path.name: path.read_text() for path in folder.iterdir()})
        made = {
            "version": 1,
            "run": RUN,
            "environment": self.environment,
            "finished": "2026-11-22T02:10:00+00:00",
            "items": [],
            "restic": {"local": "l", "s3": "s"},
            "fingerprints": {"n8n_encryption_key": fingerprint("encryption")},
        }
        return [Set(RUN, seal(made))]

    def held(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(self.root.rglob("recovery/keys/*"))}


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def host(tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path / "host")

    class Bucket:
        def __init__(self, source: Any, _oneshots: Any) -> None:
            self.source = source

        def sets(self) -> list[Set]:
            return made.sets(self.source)

    monkeypatch.setattr(platform_recovery, "Offsite", Bucket)
    monkeypatch.setattr(platform_recovery, "memory_directory", lambda: str(memory))
    monkeypatch.setattr(platform_recovery.recovery_fetch, "fetch", lambda *_: None)
    return made


def test_what_is_only_planned_or_refused_leaves_no_key(host: Host, memory: Path) -> None:
    assert host.manager().plan() == [f"fetch run {RUN} from the s3 repository"]
    host.environment = "staging"
    with pytest.raises(RecoveryError, match="cannot be restored here"):
        host.manager().plan()
    assert [sorted(keys)[0] for keys in host.read] == ["backup_restic_password"] * 2
    assert not (host.root / "state").exists() and list(memory.iterdir()) == []


def test_a_restore_takes_the_keys_of_now_and_not_those_that_were_left(host: Host) -> None:
    manager = host.manager()
    steps = manager.plan()
    host.write("state/recovery/keys/n8n_encryption_key", "of long ago")
    host.write("state/recovery/keys/pgbackrest.conf", "of long ago")
    assert host.manager().plan() == steps, "they are not asked either"
    manager.apply(steps)
    names = ("backup_restic_password", "backup_s3_credentials", "n8n_encryption_key", "openbao.key")
    assert host.held() == dict(zip(names, ("password", "credentials", "encryption", "seal"), strict=True))


def test_one_that_was_begun_goes_on_with_its_own(host: Host) -> None:
    manager = host.manager()
    manager.apply(manager.plan())
    before = host.held()
    host.write("secrets/host/backup_restic_password", "a new one")
    again = host.manager()
    again.apply(again.plan())
    assert host.held() == before == host.read[-1]


def test_those_of_a_bundle_are_taken_for_what_they_are(host: Host) -> None:
    for name in ("backup_s3_credentials", "backup_restic_password", "openbao.key"):
        host.write(f"state/recovery/keys/{name}", "of the bundle")
    host.write("state/recovery/keys/n8n_encryption_key", "encryption")
    host.write("state/recovery/keys/backup.json", platform_recovery.json.dumps(host.definition))
    host.keys.chmod(0o700)
    before = host.held()
    manager = host.manager()
    manager.apply(manager.plan())
    assert host.held() == before == host.read[-1]


def in_state(host: Host, state: str) -> Any:
    made = host.manager()
    made.params["state"] = state
    return made


def test_what_is_being_taken_back_is_not_gone_on_with(host: Host) -> None:
    """Its marks say of each step that it is done, and the way back has undone some."""
    assert in_state(host, "returning").plan() == []
    begins = host.manager()
    begins.apply(begins.plan())
    returns = in_state(host, "returning")
    returns.apply(returns.plan())
    for _ in range(2):
        for state in ("chosen", "fetched"):
            with pytest.raises(RecoveryError, match="being taken back: restore_target=back"):
                in_state(host, state).plan()
        # As the way back ends.
        shutil.rmtree(host.keys.parent, ignore_errors=True)
    assert in_state(host, "returning").plan() == []
    assert (host.root / "state/recovery.returning").exists()
    (host.root / "state/recovery.returning").unlink()
    assert host.manager().plan()


def test_there_is_no_way_back_once_something_of_it_may_be_removed(host: Host) -> None:
    begins = host.manager()
    begins.apply(begins.plan())
    settles = in_state(host, "settled")
    settles.apply(settles.plan())
    assert in_state(host, "settled").plan() == []
    with pytest.raises(RecoveryError, match="being removed; repeat the restore"):
        in_state(host, "returning").plan()
    host.manager().plan()


def test_a_way_back_to_data_that_are_gone_is_not_begun(host: Host) -> None:
    begins = host.manager()
    begins.apply(begins.plan())
    record = "state/recovery/postgres-n8n.json"
    host.write(record, platform_recovery.json.dumps({"previous": ""}))
    assert in_state(host, "returning").plan()
    host.write(record, platform_recovery.json.dumps({"previous": "17/1"}))
    with pytest.raises(RecoveryError, match="postgres-n8n: 17/1 .* removed; repeat the restore"):
        in_state(host, "returning").plan()
    host.write("v/postgres-n8n/17/1/PG_VERSION", "17")
    assert in_state(host, "returning").plan()
