"""A first start that is killed again and again goes on each time, and ends as one that never was.

The runs of this module build on each other: each is killed later than the one before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Deployment
from tests.support.killed import killed
from tests.support.n8n_rest import Editor


def recorded(kill: Deployment, phase: str) -> bool:
    record = kill.data_root / "state/openbao.json"
    return record.exists() and json.loads(record.read_text())["phase"] == phase


def files(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


def migrations(kill: Deployment) -> int:
    if "n8n-main" not in kill.containers():
        return 0
    found = kill.sql("SELECT to_regclass('public.migrations') IS NOT NULL")
    return int(kill.sql("SELECT count(*) FROM migrations")[0][0]) if found == [["t"]] else 0


Moment = Callable[[Deployment], Any]
# Name, task, moment in the task, whether the containers are killed too.
SMOKE = {"store-initialised", "n8n-migrations"}
POINTS: list[tuple[str, str, Moment, bool]] = [
    ("volumes", "config | Create the directories", lambda _: True, False),
    (
        "store-initialised",
        "configure_store | Set up the store",
        lambda kill: recorded(kill, "initialised"),
        True,
    ),
    (
        "secret-files",
        "files | Make missing secrets and write the files",
        lambda kill: files(kill.data_root / "secrets", "*/*"),
        False,
    ),
    (
        "postgres-initdb",
        "data | Start tier data",
        lambda kill: files(kill.data_root / "volumes/postgres-n8n", "*/.new.*/PG_VERSION"),
        True,
    ),
    ("n8n-migrations", "app | Start tier app", lambda kill: migrations(kill) > 20, True),
    (
        "slots",
        "configure | Start and roll the slots",
        lambda kill: "n8n-worker-1" in kill.containers(stopped=True),
        False,
    ),
]


@pytest.mark.parametrize(
    ("task", "moment", "containers"),
    [pytest.param(*p[1:], id=p[0], marks=[] if p[0] in SMOKE else pytest.mark.full) for p in POINTS],
)
def test_a_run_is_killed(kill: Deployment, task: str, moment: Moment, containers: bool) -> None:
    killed(kill, "site", task, lambda: moment(kill), containers=containers)


def test_the_next_run_converges_without_a_hand(kill: Deployment) -> None:
    kill.converge()
    health = {
        service: container.attrs["State"].get("Health", {}).get("Status")
        for service, container in kill.containers(stopped=True).items()
    }
    assert set(health.values()) == {"healthy"}, health
    assert kill.smoke()[0] == 200


def test_the_owner_is_ours_and_logs_in(kill: Deployment) -> None:
    assert [row[0] for row in kill.sql('SELECT email FROM "user"')] == ["owner@n8n.localhost"]
    assert Editor(kill).rest("GET", "/workflows")


def test_the_run_after_it_changes_nothing(kill: Deployment) -> None:
    before = kill.fingerprint()
    run = kill.converge()
    assert run.changed == 0, run.changed_tasks()
    assert kill.fingerprint() == before


def test_killed_runs_leave_nothing_behind(kill: Deployment) -> None:
    assert not (kill.data_root / "state/owner.json").exists()
    assert "root_token" not in json.loads((kill.data_root / "state/openbao.json").read_text())
    assert not files(kill.data_root / "volumes/postgres-n8n", "*/.new.*")
    written = [
        path
        for part in ("config", "releases", "secrets", "state")
        for path in (kill.data_root / part).rglob("*")
    ]
    assert not [path for path in written if path.name.endswith((".tmp", ".new"))]
