"""Which sets and moments a history of Postgres holds, after restores that have left others."""

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import postgres_history
from ansible.module_utils.n8n_platform.backup import BackupError
from ansible.module_utils.n8n_platform.pgbackrest import Backup, Repository
from ansible.module_utils.n8n_platform.postgres_choice import Request, choose
from ansible.module_utils.n8n_platform.postgres_history import History


def at(hour: int, minute: int) -> datetime:
    return datetime(2026, 11, 22, hour, minute, tzinfo=timezone.utc)


def backup(timeline: int, end: str, when: datetime) -> Backup:
    wal = f"{timeline:08X}{0:08X}{1:08X}"
    stop = int(when.timestamp())
    return Backup(f"set-{end}", "full", stop - 60, stop, wal, wal, 1, 1, False, (), {}, end)


TEN = backup(1, "0/5000100", at(10, 0))
ELEVEN = backup(1, "0/7000100", at(11, 0))
NOON = backup(2, "0/8000100", at(12, 0))
SETS = [TEN, ELEVEN, NOON]
# At 11:20 restored to 10:30, in a zone of its own; the first transaction left out is of 10:31.
TEXT = "1\t0/6000028\tbefore 2026-11-22 16:01:00.5+05:30\n\n"
BEGUN = {2: at(11, 20).timestamp()}


def history(text: str = TEXT, timeline: int = 2, begun: dict[int, float] = BEGUN) -> History:
    return postgres_history.parse(timeline, text, begun, SETS)


def test_a_set_of_what_was_left_is_no_beginning() -> None:
    assert [one.holds(TEN) for one in (history(), History(1, (), BEGUN))] == [True, True]
    assert not history().holds(ELEVEN) and history().holds(NOON)
    assert History(1, (), BEGUN).holds(ELEVEN) and not History(1, (), BEGUN).holds(NOON)
    assert history().holds(replace(ELEVEN, wal_stop="")), "nobody knows"


@pytest.mark.parametrize("moment", [at(10, 15), at(10, 31), at(11, 21)])
def test_moments_of_the_history_in_use_are_not_refused(moment: datetime) -> None:
    history().refuse_abandoned(moment)


@pytest.mark.parametrize("moment", [at(10, 32), at(11, 19)])
def test_a_moment_that_was_left_is_refused_with_the_timeline_that_has_it(moment: datetime) -> None:
    with pytest.raises(BackupError, match=r"between 2026-11-22T10:31:00\+00:00.*restore_timeline=1,"):
        history().refuse_abandoned(moment)


def test_after_two_restores_the_one_in_use_then_is_named() -> None:
    """At 13:00 back to 10:15: all that the second timeline has is left, too."""
    begun = {**BEGUN, 3: at(13, 0).timestamp()}
    third = history("1\t0/5800028\tbefore 2026-11-22 10:15:00+00\n", 3, begun)
    for moment, used in ((at(11, 0), 1), (at(12, 0), 2)):
        with pytest.raises(BackupError, match=f"restore_timeline={used},"):
            third.refuse_abandoned(moment)
    third.refuse_abandoned(at(13, 1))
    assert [third.holds(one) for one in SETS] == [True, False, False]
    nested = history(f"{TEXT}2\t0/8800028\tno recovery target specified\n", 3, begun)
    assert [(fork.parent, fork.child) for fork in nested.forks] == [(1, 2), (2, 3)]
    assert [nested.holds(one) for one in SETS] == [True, False, True]
    nested.refuse_abandoned(at(12, 30))


def test_the_moment_of_a_restore_to_a_sets_end_is_the_sets() -> None:
    restored = history("1\t0/5000200\treached consistency\n")
    with pytest.raises(BackupError, match="between 2026-11-22T10:00:00"):
        restored.refuse_abandoned(at(10, 15))


def test_a_newest_timeline_that_was_left_again_is_not_followed() -> None:
    history().refuse_older(SETS)
    late = backup(1, "0/9000100", at(11, 30))
    with pytest.raises(BackupError, match=r"timeline, 2, was left again .*restore_timeline=1,"):
        history().refuse_older([*SETS, late])


class Archive:
    """pgBackRest of a repository with the sets and the second timeline from above."""

    def repositories(self, names: list[str]) -> dict[str, Repository]:
        wal = f"{2:08X}{0:08X}{8:08X}"
        return {"local": Repository("local", "", True, tuple(SETS), "17-1", "", wal, "7", "17")}

    def histories(self, name: str, archive_id: str) -> dict[int, float]:
        return BEGUN

    def history(self, name: str, archive_id: str, timeline: int) -> str:
        return TEXT

    def segments(self, name: str, archive_id: str) -> list[str]:
        return [f"{1:08X}{0:08X}{9:08X}", f"{2:08X}{0:08X}{8:08X}"]


@pytest.mark.parametrize(
    ("asked", "chosen", "newest"),
    [
        ({}, NOON, "000000020000000000000008"),
        ({"timeline": "1"}, ELEVEN, "000000010000000000000009"),
        ({"time": at(10, 20)}, TEN, "000000020000000000000008"),
        ({"time": at(11, 25)}, TEN, "000000020000000000000008"),
        ({"time": at(11, 10), "timeline": "1"}, ELEVEN, "000000010000000000000009"),
        ({"label": "set-0/7000100", "at_set": True}, ELEVEN, "000000020000000000000008"),
    ],
)
def test_a_set_is_chosen_from_the_history_that_is_followed(
    tmp_path: Path, asked: dict[str, Any], chosen: Backup, newest: str
) -> None:
    request = Request("n8n", "17", "local", tmp_path, tmp_path, tmp_path, "image", **asked)
    assert choose(Archive(), request) == (chosen, newest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"time": at(10, 45)}, "restore_timeline=1,"),
        ({"timeline": "4"}, "holds no set that timeline 4 can be reached from"),
        ({"time": at(9, 0)}, "before the end of the oldest set"),
    ],
)
def test_what_no_set_of_it_reaches_is_refused(tmp_path: Path, asked: dict[str, Any], says: str) -> None:
    request = Request("n8n", "17", "local", tmp_path, tmp_path, tmp_path, "image", **asked)
    with pytest.raises(BackupError, match=says):
        choose(Archive(), request)  # type: ignore[arg-type]
