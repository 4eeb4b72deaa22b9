"""The copy of a queue that a restore in place goes back to; what loads a dump needs a server and is tested there."""

from pathlib import Path
from typing import Any

import pytest
import redis_restore
from ansible.module_utils.n8n_platform.backup_redis import RedisRdb
from ansible.module_utils.n8n_platform.recovery_fetch import former


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A queue with jobs, and a recovery directory."""
    monkeypatch.setattr("os.chown", lambda *_, **__: None)
    (tmp_path / "recovery").mkdir()
    made = tmp_path / "volumes/redis-queue"
    made.mkdir(parents=True)
    (made / "jobs").write_text("of now")
    return made


def restore(volume: Path, state: str) -> list[str]:
    texts = {"state": state, "name": "queue", "image": "x", "environment": "x"}
    directory = str(volume.parents[1] / "recovery")
    params = {**texts, "volume": str(volume), "directory": directory, "owner": 2002, "empty": False}
    manager = redis_restore.Manager(params, None)  # type: ignore[arg-type]
    steps = manager.plan()
    manager.apply(steps)
    return steps


def test_what_is_kept_is_put_back(volume: Path) -> None:
    assert restore(volume, "kept") and restore(volume, "kept") == []
    (volume / "jobs").write_text("restored")
    assert restore(volume, "kept") == [], "a repeated command has the restored queue before it"
    assert restore(volume, "reverted")
    assert (volume / "jobs").read_text() == "of now" and not former(volume).exists()
    assert restore(volume, "reverted") == []
    assert restore(volume, "kept"), "the next try needs a way back, too"


def test_what_an_earlier_restore_has_kept_is_neither_put_back_nor_taken_for_the_queue(volume: Path) -> None:
    former(volume).mkdir()
    (former(volume) / "jobs").write_text("of an earlier restore")
    assert restore(volume, "reverted") == []
    restore(volume, "kept")
    (volume / "jobs").write_text("restored")
    restore(volume, "reverted")
    assert (volume / "jobs").read_text() == "of now"


def test_it_goes_when_it_is_discarded_and_with_the_next_good_set(volume: Path) -> None:
    class Context:
        class definition:  # noqa: N801 (as the backup's)
            volumes_root = volume.parent

    item: Any = RedisRdb({"name": "queue", "service": "redis-queue"})
    assert item.completed(Context) == [] == restore(volume, "discarded")
    restore(volume, "kept")
    (said,) = item.completed(Context)
    assert "redis-queue.before-restore" in said and not former(volume).exists()
    former(volume).mkdir()
    assert restore(volume, "discarded") and not former(volume).exists()
