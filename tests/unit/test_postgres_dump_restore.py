"""Which steps a restore from a dump still has to do; what they do to a server, tests/backup shows."""

import json
import shutil
from pathlib import Path
from typing import Any

import postgres_dump_restore
import pytest
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.postgres_dump_restore import DumpRestore, Target


class Worker:
    """Notes what it is asked for; `prepare` fails with `words`, if there are some."""

    def __init__(self, words: str = "") -> None:
        self.words = words
        self.asked: list[str] = []

    def prepare(self, _dump: Path, _sha256: str) -> dict[str, Any]:
        self.asked.append("prepare")
        if self.words:
            raise BackupError(self.words)
        return {"tables": 1, "bytes": 8}

    def switch(self) -> str:
        self.asked.append("switch")
        return "n8n_before_restore"

    def back(self) -> None:
        self.asked.append("back")

    def discard_new(self) -> None:
        self.asked.append("discard_new")


def manager(folder: Path, state: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Any:
    params = {"name": "n8n", "directory": str(folder), "state": state}
    made = postgres_dump_restore.Manager(params, None, "docker")  # type: ignore[arg-type]
    monkeypatch.setattr(made, "_worker", lambda: worker)
    monkeypatch.setattr(made, "_dump", lambda: (folder / "dump", "0" * 64))
    return made


def test_a_half_restored_database_goes_and_none_of_an_earlier_restore_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Worker("too little room")
    begun = manager(tmp_path, "prepared", broken, monkeypatch)
    with pytest.raises(BackupError, match="too little room"):
        begun.apply(begun.plan())
    assert manager(tmp_path, "prepared", broken, monkeypatch).plan() == ["prepare"], "it can be repeated"
    back = manager(tmp_path, "reverted", broken, monkeypatch)
    back.apply(back.plan())
    assert broken.asked == ["prepare", "discard_new"]
    assert manager(tmp_path, "reverted", broken, monkeypatch).plan() == []


def test_the_way_back_of_a_restored_one_gives_the_former_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    for state, steps in (("prepared", ["prepare"]), ("switched", ["switch"]), ("reverted", ["revert"])):
        step = manager(tmp_path, state, worker, monkeypatch)
        assert step.plan() == steps
        step.apply(steps)
        assert state == "reverted" or json.loads(step.file.read_text())["tables"] == 1
    assert worker.asked == ["prepare", "switch", "back"] and not step.file.exists()


@pytest.mark.parametrize("planted", [".restore", ".restore/dump"])
def test_a_link_that_the_servers_user_puts_in_the_way_of_the_dump_changes_no_file_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """The volume is the server's, which runs: its user puts it there when what an earlier restore has left is gone."""
    host, volume, dump = tmp_path / "host", tmp_path / "volume", tmp_path / "dump"
    host.mkdir()
    (host / "dump").write_text("of the host")
    volume.mkdir()
    dump.write_text("a dump")
    target = host if planted == ".restore" else host / "dump"
    mkdir, removed = Path.mkdir, shutil.rmtree

    def plant(*_: Any, **__: Any) -> None:
        removed(volume / ".restore", ignore_errors=True)
        mkdir((volume / planted).parent, exist_ok=True)
        if not (volume / planted).exists():
            (volume / planted).symlink_to(target)

    monkeypatch.setattr(shutil, "rmtree", plant)
    # As if it had been swapped after it was made.
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    restore = DumpRestore(Target(None, volume, "n8n", "n8n"))  # type: ignore[arg-type]
    try:
        with restore._in_sight(dump) as path:
            assert path == "/var/lib/postgresql/.restore/dump"
            assert (volume / ".restore/dump").read_text() == "a dump"
    except NotADirectoryError as error:
        assert planted == ".restore" and ".restore is in the way" in str(error)
    assert (host / "dump").read_text() == "of the host" and (host / "dump").stat().st_uid != 2001
