"""Restoring a store from a backup, refusing one that is not whole, and being killed on the way."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import platform_openbao
import pytest
from ansible.module_utils.n8n_platform import openbao_restore, openbao_setup
from ansible.module_utils.n8n_platform.openbao import BaoClient, StoreError
from openbao_server import State, serving
from test_platform_openbao import Killed, params, record
from test_platform_openbao import set_up as set_up_store


def archive(**files: bytes) -> bytes:
    """A snapshot as the server makes it: gzip of tar, with a file of sums."""
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in {**files, "SHA256SUMS": sums.encode()}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> State:
    """The source's state; its files lie in tmp_path/backup."""
    root = tmp_path / "source"
    with serving(root / "run/s", State()) as state:
        set_up_store(root)
    state.kv["local/n8n_encryption_key"] = [{"value": "the key"}]
    backup = tmp_path / "backup"
    backup.mkdir()
    shutil.copy(root / "state/record.json", backup / "openbao.json")
    shutil.copy(root / "seal/openbao.key", backup / "openbao.key")
    (backup / "openbao.snap").write_bytes(archive(meta=b"{}", state=b"x" * 2000))
    return state


@pytest.fixture
def target(tmp_path: Path, source: State) -> Iterator[State]:
    with serving(tmp_path / "run/s", State()) as state:
        begin_anew(tmp_path, state, source)
        yield state


def begin_anew(root: Path, state: State, source: State) -> None:
    """The server as it starts on an empty directory."""
    requests = state.requests
    state.__init__()  # type: ignore[misc]
    state.requests = requests
    key = (root / "backup/openbao.key").read_text()
    state.snapshots = {(root / "backup/openbao.snap").read_bytes(): (key, source)}


def run(root: Path, state: str, check_mode: bool = False) -> list[str]:
    files = {"snapshot": "openbao.snap", "record": "openbao.json", "seal_key": "openbao.key"}
    recovery = {name: str(root / "backup" / file) for name, file in files.items()}
    found = platform_openbao.Manager({"state": state, "store": params(root), "recovery": recovery})
    steps = found.plan()
    if not check_mode:
        found.apply(steps)
    return steps


def start(root: Path, state: State) -> None:
    """`prepared`, then the server's start with the seal key that lies there."""
    run(root, "prepared")
    state.seal_key = (root / "seal/openbao.key").read_text()


def test_the_restored_store_has_the_sources_secrets_and_keys(
    tmp_path: Path, source: State, target: State
) -> None:
    start(tmp_path, target)
    assert run(tmp_path, "restored") == ["restore"]
    assert target.kv["local/n8n_encryption_key"] == [{"value": "the key"}]
    assert run(tmp_path, "configured") == []
    assert run(tmp_path, "verified") == []
    theirs, ours = record(tmp_path / "source"), record(tmp_path)
    assert {key: ours[key] for key in theirs} == theirs
    assert "root_token" not in ours


def test_a_source_that_was_restored_itself_is_restored_like_any(tmp_path: Path, target: State) -> None:
    path = tmp_path / "backup/openbao.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "restored": "an older snapshot"}))
    start(tmp_path, target)
    assert run(tmp_path, "restored") == ["restore"]
    assert (run(tmp_path, "restored"), run(tmp_path, "configured"), run(tmp_path, "verified")) == ([], [], [])


def test_a_second_run_changes_nothing(tmp_path: Path, target: State) -> None:
    start(tmp_path, target)
    run(tmp_path, "restored")
    before = len(target.requests)
    assert (run(tmp_path, "prepared"), run(tmp_path, "restored")) == ([], [])
    assert ("POST", "sys/storage/raft/snapshot") not in target.requests[before:]


def test_check_mode_changes_nothing(tmp_path: Path, target: State) -> None:
    assert "take seal key" in run(tmp_path, "prepared", check_mode=True)
    assert run(tmp_path, "restored", check_mode=True) == ["restore"]
    assert not (tmp_path / "seal").exists() and target.requests == []


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def repack(path: Path) -> None:
    """Gzip and tar are in order; only the sums tell."""
    plain = gzip.decompress(path.read_bytes()).replace(b"x" * 50, b"y" * 50, 1)
    path.write_bytes(gzip.compress(plain))


@pytest.mark.parametrize("harm", [damage, truncate, repack])
def test_a_damaged_snapshot_is_refused_before_the_store_is_touched(
    tmp_path: Path, target: State, harm: Any
) -> None:
    harm(tmp_path / "backup/openbao.snap")
    for state in ("prepared", "restored"):
        with pytest.raises(StoreError, match=r"openbao\.snap is damaged"):
            run(tmp_path, state)
    assert target.requests == [] and not (tmp_path / "seal").exists()


@pytest.mark.parametrize("name", ["openbao.snap", "openbao.json", "openbao.key"])
def test_a_missing_file_is_named(tmp_path: Path, target: State, name: str) -> None:
    (tmp_path / "backup" / name).unlink()
    with pytest.raises(StoreError, match=name):
        run(tmp_path, "prepared")
    assert not (tmp_path / "seal").exists()


def test_a_truncated_seal_key_is_refused(tmp_path: Path, target: State) -> None:
    truncate(tmp_path / "backup/openbao.key")
    with pytest.raises(StoreError, match="64 characters"):
        run(tmp_path, "prepared")


def test_another_seal_key_is_refused_and_the_right_one_helps(
    tmp_path: Path, source: State, target: State
) -> None:
    right = (tmp_path / "backup/openbao.key").read_text()
    (tmp_path / "backup/openbao.key").write_text("0" * 64)
    start(tmp_path, target)
    with pytest.raises(StoreError, match="not the one that .* was sealed with"):
        run(tmp_path, "restored")
    assert target.kv == {} and not {"root_token", "recovery_key"} & set(record(tmp_path))

    (tmp_path / "backup/openbao.key").write_text(right)
    begin_anew(tmp_path, target, source)
    start(tmp_path, target)
    run(tmp_path, "restored")
    assert record(tmp_path)["generation"] == 2
    assert run(tmp_path, "verified") == []


def test_a_record_of_another_backup_is_refused(tmp_path: Path, target: State) -> None:
    other = openbao_setup.Record(tmp_path / "backup/openbao.json")
    other.update(secret_id="of another day")
    start(tmp_path, target)
    with pytest.raises(StoreError, match="not of one backup"):
        run(tmp_path, "restored")
    assert record(tmp_path)["phase"] == "started"


def test_a_store_that_is_set_up_is_never_replaced(tmp_path: Path, target: State) -> None:
    set_up_store(tmp_path)
    before = record(tmp_path)
    for state in ("prepared", "restored"):
        with pytest.raises(StoreError, match="only restored where there is none"):
            run(tmp_path, state)
    assert record(tmp_path) == before


def test_a_store_whose_data_are_gone_takes_its_own_snapshot_as_often_as_needed(
    tmp_path: Path, source: State, target: State
) -> None:
    start(tmp_path, target)
    run(tmp_path, "restored")
    for _ in range(2):
        begin_anew(tmp_path, target, source)
        target.seal_key = (tmp_path / "seal/openbao.key").read_text()
        assert run(tmp_path, "prepared") == []
        assert run(tmp_path, "restored")[-1] == "restore"
        assert target.kv["local/n8n_encryption_key"] == [{"value": "the key"}]
        assert (run(tmp_path, "configured"), run(tmp_path, "restored")) == ([], [])


@pytest.mark.parametrize("event", range(1, 9))
def test_killed_at_any_request_or_write_the_next_run_restores(
    tmp_path: Path, source: State, target: State, monkeypatch: pytest.MonkeyPatch, event: int
) -> None:
    start(tmp_path, target)
    left = [event]
    call, update = BaoClient.call, openbao_setup.Record.update

    def tick() -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    def killed_call(self: Any, method: str, path: str, *rest: Any, **body: Any) -> Any:
        answer = call(self, method, path, *rest, **body)
        if path != "sys/health":
            tick()
        return answer

    def killed_update(self: Any, **values: Any) -> None:
        tick()
        update(self, **values)

    with monkeypatch.context() as killing, suppress(Killed):
        killing.setattr(BaoClient, "call", killed_call)
        killing.setattr(openbao_setup.Record, "update", killed_update)
        run(tmp_path, "restored")
    generation = record(tmp_path)["generation"]
    run(tmp_path, "prepared")
    if record(tmp_path)["generation"] != generation:
        begin_anew(tmp_path, target, source)
    start(tmp_path, target)
    run(tmp_path, "restored")
    assert target.kv["local/n8n_encryption_key"] == [{"value": "the key"}]
    assert run(tmp_path, "configured") == [] and run(tmp_path, "verified") == []


def test_an_external_store_is_not_ours_to_restore() -> None:
    store = {**params(Path("/nowhere")), "address": "https://store:8200"}
    manager = platform_openbao.Manager({"state": "restored", "store": store, "recovery": None})
    assert manager.plan() == []
    manager.apply([])


def test_the_digest_is_of_the_snapshots_bytes(tmp_path: Path, source: State) -> None:
    files = [tmp_path / "backup" / name for name in ("openbao.snap", "openbao.json", "openbao.key")]
    backup = openbao_restore.StoreBackup(*files)
    assert backup.digest == hashlib.sha256(files[0].read_bytes()).hexdigest()
