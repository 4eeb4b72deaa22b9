"""Runs that lose their power at any moment, on a first start and on a change that rolls everything."""

from __future__ import annotations

import os
import random

import pytest

from tests.support.deployment import Deployment
from tests.support.depth import nightly
from tests.support.killed import killed_after

pytestmark = nightly("twenty runs of several minutes each")
KILLS = 10
LONGEST_SECONDS = 90.0


@pytest.fixture(scope="module")
def moments() -> random.Random:
    """Moments that TEST_SEED repeats."""
    seed = os.environ.get("TEST_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"TEST_SEED={seed}")
    return random.Random(seed)


def test_a_first_start(kill: Deployment, moments: random.Random) -> None:
    kill.destroy()
    struck = [killed_after(kill, "site", moments.uniform(5, LONGEST_SECONDS)) for _ in range(KILLS)]
    assert any(struck)
    converges(kill)


def test_a_change_that_rolls_everything(kill: Deployment, moments: random.Random) -> None:
    rows = kill.sql("SELECT id, name FROM workflow_entity ORDER BY id")
    key = kill.secret("n8n-main", "n8n_encryption_key")
    levels = ["debug", "info"] * (KILLS // 2)
    struck = [
        killed_after(kill, "site", moments.uniform(5, LONGEST_SECONDS), n8n_log_level=level)
        for level in levels
    ]
    assert any(struck)
    converges(kill)
    assert kill.sql("SELECT id, name FROM workflow_entity ORDER BY id") == rows
    assert kill.secret("n8n-main", "n8n_encryption_key") == key


def converges(kill: Deployment) -> None:
    kill.converge()
    before = kill.fingerprint()
    run = kill.converge()
    assert run.changed == 0, run.changed_tasks()
    assert kill.fingerprint() == before
