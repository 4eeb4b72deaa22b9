"""What is read from pgBackRest's answers, and which sets a retention keeps."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform import pgbackrest, pgbackrest_retention
from ansible.module_utils.n8n_platform.backup import BackupError, Context, Definition, Exit
from ansible.module_utils.n8n_platform.backup_pgbackrest import PgBackRestItem
from ansible.module_utils.n8n_platform.engine_run import Result
from ansible.module_utils.n8n_platform.pgbackrest import Backup, PgBackRest, PgBackRestError, Repository

DAY = 86400


def backup(day: float, type_: str = "full", damaged: bool = False, base: float = 0) -> Backup:
    label = f"day{day:g}F" if type_ == "full" else f"day{base:g}F_day{day:g}I"
    stop = int(day * DAY)
    return Backup(label, type_, stop - 60, stop, f"{stop:024X}", f"{stop:024X}", 1, 1, damaged, (), {})


WEEKLY = [backup(0), backup(1, "incr", base=0), backup(7), backup(8, "incr", base=7), backup(14), backup(21)]


@pytest.mark.parametrize(
    ("now", "days", "minimum", "gone", "from_day"),
    [
        (13.9, 7, 1, [], 0),
        (14.0, 7, 1, ["day0F", "day0F_day1I"], 7),
        (20.9, 7, 1, ["day0F", "day0F_day1I"], 7),
        (21.0, 7, 1, ["day0F", "day0F_day1I", "day7F", "day7F_day8I"], 14),
        (36.9, 30, 1, [], 0),
        (37.0, 30, 1, ["day0F", "day0F_day1I"], 7),
        (100, 7, 1, ["day0F", "day0F_day1I", "day7F", "day7F_day8I", "day14F"], 21),
        (100, 7, 3, ["day0F", "day0F_day1I"], 7),
        (100, 7, 9, [], 0),
    ],
)
def test_every_moment_of_the_time_and_the_minimum_of_sets_stay(
    now: float, days: int, minimum: int, gone: list[str], from_day: int
) -> None:
    made = [one for one in WEEKLY if one.stop <= now * DAY]
    plan = pgbackrest_retention.plan(made, now * DAY, days, minimum)
    assert list(plan.gone) == gone
    assert plan.wal_from == f"{from_day * DAY:024X}"
    assert plan.keep_fulls == len([one for one in made if one.type == "full" and one.label not in gone])


def test_the_newest_set_before_the_time_stays_though_it_is_old() -> None:
    assert pgbackrest_retention.plan([backup(0), backup(50)], 51 * DAY, 7, 1).gone == ()


def test_a_set_with_damaged_pages_counts_neither_as_reaching_back_nor_as_one_of_the_minimum() -> None:
    sets = [backup(0), backup(10, damaged=True), backup(20)]
    assert pgbackrest_retention.plan(sets, 21 * DAY, 7, 1).gone == ()
    assert pgbackrest_retention.plan([*sets, backup(30)], 40 * DAY, 7, 2).gone == ("day0F", "day10F")
    assert pgbackrest_retention.plan([*sets, backup(30)], 40 * DAY, 7, 3).gone == ()


def test_an_empty_repository_has_nothing_to_expire() -> None:
    assert pgbackrest_retention.plan([], 0, 7, 2) == pgbackrest_retention.Expiry(0, (), "")


def run_set(hours: float, type_: str, run: str, damaged: bool = False) -> Backup:
    return replace(backup(hours / 24, type_, damaged), annotations={"run": run} if run else {})


FAILED = [run_set(0, "full", "r1"), run_set(24, "full", "r2"), run_set(25, "incr", "r3")]


@pytest.mark.parametrize(
    ("wanted", "sets", "newest", "made"),
    [
        # At hour 26 the full set of hour 24 is there, though its run has come to nothing.
        ("full", FAILED, "r1", "incr"),
        ("full", FAILED, "", "incr"),
        ("diff", FAILED, "r1", "incr"),
        ("incr", FAILED, "r1", "incr"),
        ("full", FAILED, "r2", "full"),
        ("full", FAILED, "r3", "full"),
        # Nobody knows which runs came to something.
        ("full", FAILED, None, "full"),
        ("full", FAILED[:1], "", "full"),
        ("full", [FAILED[0], run_set(24, "diff", "r2")], "r1", "full"),
        ("diff", [FAILED[0], run_set(24, "diff", "r2")], "r1", "incr"),
        ("full", [FAILED[0], run_set(24, "full", "r2", damaged=True)], "r1", "full"),
        ("full", [FAILED[0], run_set(24, "full", "")], "r1", "full"),
    ],
)
def test_a_set_that_was_made_is_not_made_again_because_something_else_of_its_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, sets: list[Backup], newest: str, made: str
) -> None:
    unused: Any = None
    values: dict[str, Any] = {"environment": "test", "project": "p", "timezone": "UTC", "images": {}}
    roots = {f"{name}_root": str(tmp_path) for name in ("volumes", "secrets", "state", "backup")}
    definition = Definition({**values, **roots, "items": [], "retention": {}})
    now = datetime.fromtimestamp(26 * 3600, timezone.utc)
    context = Context(definition, unused, unused, "r9", now, wanted, print, newest=newest)
    item = PgBackRestItem({"name": "postgres-n8n", "service": "postgres-n8n", "stanza": "n8n"})
    monkeypatch.setattr(item, "archiver", lambda _: {})
    monkeypatch.setattr(item, "wal_gaps", lambda *_: [])
    assert item._type(context, Repository("local", "", True, tuple(sets))) == made


@pytest.mark.parametrize(
    ("segments", "holes"),
    [
        ([], []),
        (["000000010000000000000001"], []),
        (["0000000100000000000000FE", "0000000100000000000000FF", "000000010000000100000000"], []),
        (["000000010000000000000001", "000000010000000000000004"], [(1, 4)]),
        (["0000000100000000000000FF", "000000010000000100000001"], [(255, 257)]),
        # A timeline begins where the one before was left.
        (["000000010000000000000009", "000000020000000000000005", "000000020000000000000006"], []),
    ],
)
def test_missing_wal_is_seen_within_a_timeline(segments: list[str], holes: list[tuple[int, int]]) -> None:
    found = [(pgbackrest.number(a), pgbackrest.number(b)) for a, b in pgbackrest.gaps(segments)]
    assert found == holes


def test_what_is_no_segment_has_no_number() -> None:
    with pytest.raises(ValueError, match="no WAL segment"):
        pgbackrest.number("00000002.history")


def client(code: int, stdout: str = "", stderr: str = "") -> PgBackRest:
    def run(argv: Sequence[str], seconds: float) -> Result:
        return Result(code, stdout, stderr)

    return PgBackRest("n8n", run)


HTTP = """ERROR: [039]: HTTP request failed with 403 (Forbidden):
       *** Path/Query ***:
       PUT /bucket/x
       *** Request Headers ***:
       authorization: <redacted>
       *** Response Content ***:
       <Error><Code>AccessDenied</Code><Message>no</Message></Error>"""


@pytest.mark.parametrize(
    ("code", "said", "exit_", "text"),
    [
        (124, "", Exit.FAILED, "time limit of 600 s"),
        (95, "ERROR: [095]: unable to decrypt", Exit.WRONG_KEY, "unable to decrypt"),
        (61, "ERROR: [061]: unable to write: [28] No space left on device", Exit.NO_SPACE, "No space left"),
        (39, HTTP, Exit.FAILED, "403 (Forbidden): *** Path/Query ***: PUT /bucket/x AccessDenied"),
    ],
)
def test_failures_are_told_in_few_words_and_by_their_kind(
    code: int, said: str, exit_: Exit, text: str
) -> None:
    with pytest.raises(PgBackRestError) as failed:
        client(code, stderr=said).call("backup")
    assert failed.value.code == exit_ and text in str(failed.value)
    assert "authorization" not in str(failed.value)


def test_a_repository_that_does_not_answer_does_not_hide_the_other() -> None:
    set_ = {
        "label": "20261122-110318F",
        "type": "full",
        "timestamp": {"start": 1, "stop": 2},
        "archive": {"start": "A", "stop": "B"},
        "info": {"size": 10, "repository": {"delta": 5}},
        "database": {"id": 1, "repo-key": 1},
        "error": False,
        "reference": None,
        "annotation": {"run": "r"},
    }
    answer = {
        "name": "n8n",
        "repo": [
            {"key": 1, "status": {"code": 0, "message": "ok"}},
            {"key": 2, "status": {"code": 99, "message": "[CryptoError] unable"}},
        ],
        "db": [{"id": 1, "repo-key": 1, "system-id": 7, "version": "17"}],
        "archive": [{"database": {"repo-key": 1}, "id": "17-1", "min": "A", "max": "B"}],
        "backup": [set_],
    }
    found = client(0, json.dumps([answer])).repositories(["local", "s3"])
    assert found["local"].backups[0].annotations == {"run": "r"} and found["local"].wal_max == "B"
    assert not found["s3"].created and "CryptoError" in found["s3"].problem


def test_what_another_passphrase_makes_of_a_file_is_not_repeated() -> None:
    status = {"code": 99, "message": "[FormatError] unable to load info file:\nat line 1: GARBAGE"}
    stanza = {"name": "n8n", "db": [], "archive": [], "backup": [], "repo": [{"key": 1, "status": status}]}
    answer = json.dumps([stanza]).replace("GARBAGE", "\x01\x7f")
    found = client(0, answer).repositories(["local"])["local"]
    assert found.problem == "[FormatError] unable to load info file" and not found.created


def test_one_repository_alone_is_asked_alone() -> None:
    asked: list[list[str]] = []

    def run(argv: Sequence[str], _: float) -> Result:
        asked.append([word for word in argv if word.startswith("--repo")])
        return Result(0, "[]", "")

    asking = PgBackRest("n8n", run)
    for names in (["local"], ["s3"], ["local", "s3"]):
        asking.repositories(names)
    assert asked == [["--repo=1"], ["--repo=2"], []]


@pytest.mark.parametrize("said", ["", '[{"name": "n8n", "repo": [{'])
def test_an_answer_that_was_cut_off_is_not_one_of_nothing(said: str) -> None:
    for ask in (
        lambda: client(0, said).repositories(["local"]),
        lambda: client(0, said).segments("local", "17-1"),
    ):
        with pytest.raises(PgBackRestError, match="did not arrive as a whole"):
            ask()


def test_a_repository_without_a_stanza_is_not_there_yet() -> None:
    assert not client(0, "[]").repositories(["local"])["local"].created


def test_one_repository_is_pruned_though_the_other_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused: Any = None
    values: dict[str, Any] = {"environment": "test", "project": "p", "timezone": "UTC", "images": {}}
    roots = {f"{name}_root": str(tmp_path) for name in ("volumes", "secrets", "state", "backup")}
    retention = {"local_days": 7, "offsite_days": 30, "minimum_sets": 1}
    definition = Definition({**values, **roots, "items": [], "retention": retention, "s3": {"bucket": "b"}})
    now = datetime.fromtimestamp(21 * DAY, timezone.utc)
    context = Context(definition, unused, unused, "r9", now, "full", print)
    item = PgBackRestItem({"name": "postgres-n8n", "service": "postgres-n8n", "stanza": "n8n"})
    there = {
        "local": Repository("local", "", True, tuple(WEEKLY)),
        "s3": Repository("s3", "no answer", False),
    }
    expired: list[tuple[Any, ...]] = []
    monkeypatch.setattr(item, "repository", lambda _, name: there[name])
    monkeypatch.setattr(item, "_expire", lambda _context, *given: expired.append(given))
    listed = item.prune(context, "local", dry_run=True)
    assert listed[0] == "set day0F" and listed[-1].startswith("WAL before ") and expired == []
    assert item.prune(context, "local") == listed and expired == [("local", 2)]
    with pytest.raises(BackupError, match="postgres-n8n: no answer"):
        item.prune(context, "s3")
