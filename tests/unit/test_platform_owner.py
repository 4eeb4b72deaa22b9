"""The mark of the controller that works on a target."""

import datetime
import json
from pathlib import Path
from typing import Any

import platform_owner
import pytest

NOW = datetime.datetime(2026, 1, 1, 10, tzinfo=datetime.timezone.utc)


@pytest.fixture
def owner(tmp_path: Path) -> Any:
    def make(controller: str, minutes: int = 0, **params: Any) -> platform_owner.Manager:
        spec = platform_owner.build_spec()
        given = {
            "path": str(tmp_path / "state/owner.json"),
            "controller": controller,
            "user": "ops",
            "ttl_seconds": 600,
        }
        defaults = {name: option.get("default") for name, option in spec.items()}
        return platform_owner.Manager(defaults | given | params, NOW + datetime.timedelta(minutes=minutes))

    return make


def claim(manager: platform_owner.Manager) -> None:
    manager.apply(manager.plan())


def test_another_controller_is_refused_until_the_mark_runs_out(owner: Any) -> None:
    claim(owner("one"))
    with pytest.raises(platform_owner.TargetHeldError, match="from one by ops, since 2026-01-01T10:00:00"):
        claim(owner("two", minutes=9))
    claim(owner("two", minutes=11))
    assert owner("two").current()["controller"] == "two"


def test_the_same_controller_replaces_its_mark(owner: Any) -> None:
    claim(owner("one"))
    claim(owner("one", minutes=5))
    assert owner("one").current()["until"] == "2026-01-01T10:15:00+00:00"


def test_takeover_replaces_a_valid_mark(owner: Any) -> None:
    claim(owner("one"))
    claim(owner("two", takeover=True))
    assert owner("two").current()["controller"] == "two"


def test_only_ones_own_mark_is_removed(owner: Any) -> None:
    claim(owner("one"))
    claim(owner("two", state="absent"))
    assert owner("one").current() is not None
    claim(owner("one", state="absent"))
    assert owner("one").current() is None
    claim(owner("one", state="absent"))


def test_planning_writes_nothing(owner: Any) -> None:
    manager = owner("one")
    assert manager.plan() and not manager.path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"controller": "x"})])
def test_a_torn_mark_locks_nobody_out(owner: Any, content: str) -> None:
    manager = owner("one")
    manager.path.parent.mkdir()
    manager.path.write_text(content)
    claim(manager)
    assert manager.current()["controller"] == "one"
