"""Parts of a restore against the real servers, each in a container of its own: the secret store and a queue."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis_restore
from ansible.module_utils.n8n_platform import backup_manifest, openbao_setup, recovery_fetch
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.engine import Engine
from ansible.module_utils.n8n_platform.openbao import StoreError
from ansible.module_utils.n8n_platform.recovery import RecoveryError

from tests.support.deployment import Deployment
from tests.support.secret_store import OwnStore


@pytest.fixture(scope="module")
def image(core: Deployment) -> Callable[[str], str]:
    def of(service: str) -> str:
        return str(core.containers(stopped=True)[service].attrs["Config"]["Image"])

    return of


@pytest.fixture(scope="module")
def made(core: Deployment, image: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshot, record and seal key of a store with one secret."""
    root = tmp_path_factory.mktemp("store")
    source = OwnStore(core.engine, image("openbao"), root / "source")
    source.run("prepared")
    backup = root / "backup"
    backup.mkdir()
    with source.serving():
        source.run("configured")
        source.store().put("n8n_encryption_key", "the key of the source")
        (backup / "openbao.snap").write_bytes(source.store().snapshot())
    shutil.copy(root / "source/state/openbao.json", backup)
    shutil.copy(root / "source/seal/openbao.key", backup)
    return backup


def test_a_fresh_store_takes_the_sources_snapshot_and_keys(
    core: Deployment, image: Any, made: Path, tmp_path: Path
) -> None:
    target = OwnStore(core.engine, image("openbao"), tmp_path / "target")
    target.run("prepared", made)
    with target.serving():
        assert target.run("restored", made) == ["restore"]
        assert target.store().get("n8n_encryption_key") == "the key of the source"
        assert target.run("configured", made) == []
        target.run("verified")
        assert target.run("restored", made) == []
        again = tmp_path / "again"
        again.mkdir()
        (again / "openbao.snap").write_bytes(target.store().snapshot())
    shutil.copy(tmp_path / "target/state/openbao.json", again)
    shutil.copy(tmp_path / "target/seal/openbao.key", again)

    third = OwnStore(core.engine, image("openbao"), tmp_path / "third")
    third.run("prepared", again)
    with third.serving():
        assert third.run("restored", again) == ["restore"], "what was restored can be lost, too"
        assert third.store().get("n8n_encryption_key") == "the key of the source"


def test_another_seal_key_and_a_damaged_snapshot_are_refused_and_nothing_is_kept(
    core: Deployment, image: Any, made: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(made, wrong)
    (wrong / "openbao.key").write_text(secrets.token_hex(32))
    target = OwnStore(core.engine, image("openbao"), tmp_path / "target")
    target.run("prepared", wrong)
    with target.serving(), pytest.raises(StoreError, match="is not the one that .* was sealed with"):
        target.run("restored", wrong)
    assert not {"root_token", "recovery_key"} & set(
        openbao_setup.Record(tmp_path / "target/state/openbao.json").values
    )

    target.run("prepared", made)
    with target.serving():
        target.run("restored", made)
        assert target.store().get("n8n_encryption_key") == "the key of the source"

    content = bytearray((made / "openbao.snap").read_bytes())
    content[len(content) // 2] ^= 1
    (wrong / "openbao.snap").write_bytes(content)
    with pytest.raises(StoreError, match="is damaged"):
        OwnStore(core.engine, image("openbao"), tmp_path / "third").run("prepared", wrong)


FILL = """
redis-server --dir /data --save "" --port 0 --unixsocket /tmp/redis --daemonize yes > /dev/null
until [ "$(redis-cli -s /tmp/redis ping 2>/dev/null)" = PONG ]; do sleep 0.1; done
for i in $(seq 50); do redis-cli -s /tmp/redis set key$i value > /dev/null; done
redis-cli -s /tmp/redis set short value ex 1
redis-cli -s /tmp/redis rpush bull:jobs:wait 1 2 3
redis-cli -s /tmp/redis save
until [ -z "$(redis-cli -s /tmp/redis get short)" ]; do sleep 0.1; done
"""


@pytest.fixture
def dump(core: Deployment, image: Any, tmp_path: Path) -> recovery_fetch.Directory:
    """A recovery directory with the dump of an instance with 52 keys, one of which expires."""
    (tmp_path / "source").mkdir()
    os.chown(tmp_path / "source", 2002, 2002)
    core.engine.containers.run(
        image("redis-queue"),
        ["-c", FILL],
        entrypoint="sh",
        user="2002:2002",
        network_mode="none",
        remove=True,
        volumes={str(tmp_path / "source"): {"bind": "/data", "mode": "rw"}},
    )
    directory = recovery_fetch.Directory(tmp_path / "recovery")
    content = (tmp_path / "source/dump.rdb").read_bytes()
    item = {"name": "redis-queue", "kind": "redis_rdb", "file": "redis-queue.rdb", "bytes": len(content)}
    item |= {"sha256": hashlib.sha256(content).hexdigest(), "details": {"keys": 52}}
    directory.begin(backup_manifest.seal({"version": 1, "run": "20261122T020000Z", "items": [item]}))
    directory.staging.mkdir()
    (directory.staging / "redis-queue.rdb").write_bytes(content)
    (tmp_path / "volumes/redis-queue").mkdir(parents=True)
    (tmp_path / "volumes/redis-queue/former").touch()
    return directory


def load(image: Any, tmp_path: Path, **changes: Any) -> tuple[list[str], int | None]:
    params = {
        "state": "restored",
        "name": "queue",
        "directory": str(tmp_path / "recovery"),
        "volume": str(tmp_path / "volumes/redis-queue"),
        "image": image("redis-queue"),
        "environment": "test-core",
        "owner": 2002,
        "empty": False,
        "timeout": 120,
    }
    manager = redis_restore.Manager({**params, **changes}, Engine())
    steps = manager.plan()
    manager.apply(steps)
    return steps, manager.keys


def test_a_dump_becomes_an_append_only_file_with_every_key(
    dump: recovery_fetch.Directory, image: Any, tmp_path: Path
) -> None:
    assert load(image, tmp_path) == (["load redis-queue.rdb"], 51)
    volume = tmp_path / "volumes/redis-queue"
    assert [path.name for path in volume.iterdir()] == ["appendonlydir"]
    assert (volume.stat().st_uid, volume.stat().st_mode & 0o777) == (2002, 0o700)
    assert load(image, tmp_path) == ([], None)


def test_a_queue_that_must_be_empty_is(dump: recovery_fetch.Directory, image: Any, tmp_path: Path) -> None:
    assert load(image, tmp_path, empty=True)[1] == 0
    assert list((tmp_path / "volumes/redis-queue").iterdir()) == []


def test_a_damaged_dump_leaves_what_was_there(
    dump: recovery_fetch.Directory, image: Any, tmp_path: Path
) -> None:
    content = bytearray((dump.staging / "redis-queue.rdb").read_bytes())
    content[60] ^= 1
    (dump.staging / "redis-queue.rdb").write_bytes(content)
    with pytest.raises(RecoveryError, match=r"redis-queue\.rdb could not be loaded"):
        load(image, tmp_path)
    assert [path.name for path in (tmp_path / "volumes/redis-queue").iterdir()] == ["former"]


def test_a_dump_of_fewer_keys_than_were_backed_up_is_refused(
    dump: recovery_fetch.Directory, image: Any, tmp_path: Path
) -> None:
    manifest = dump.manifest()
    manifest["items"][0]["details"]["keys"] = 60
    dump.begin(backup_manifest.seal(manifest))
    with pytest.raises(BackupError, match="60 keys were backed up, but the dump holds only 52"):
        load(image, tmp_path)
