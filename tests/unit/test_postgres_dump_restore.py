"""Which steps a restore from a dump still has to do; what they do to a server, tests/backup shows."""

import json
from pathlib import Path
from typing import Any

import postgres_dump_restore
import pytest
from ansible.module_utils.n8n_platform.backup import BackupError


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
