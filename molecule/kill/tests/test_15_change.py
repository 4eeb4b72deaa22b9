"""A change that is killed while its worker is away goes on with the next run."""

from __future__ import annotations

from tests.support.deployment import Deployment
from tests.support.killed import killed

CHANGE = {"n8n_log_level": "debug"}


def test_a_change_killed_while_a_worker_is_away_goes_on_with_the_next_run(kill: Deployment) -> None:
    key = kill.secret("n8n-main", "n8n_encryption_key")
    workflows = kill.sql("SELECT id, name FROM workflow_entity ORDER BY id")
    former = kill.containers()["n8n-worker-1"].id
    rolling = kill.data_root / "state/slots-rolling.json"

    def worker_is_away() -> bool:
        named = rolling.exists() and "worker" in rolling.read_text()
        return named and "n8n-worker-1" not in kill.containers()

    killed(kill, "site", "configure | Start and roll the slots", worker_is_away, **CHANGE)
    assert rolling.exists() and "n8n-worker-1" not in kill.containers()

    kill.converge(**CHANGE)
    assert not rolling.exists()
    assert kill.containers()["n8n-worker-1"].id != former
    n8n = ("n8n-main", "n8n-webhook-1", "n8n-worker-1")
    assert {kill.environment(service)["N8N_LOG_LEVEL"] for service in n8n} == {"debug"}
    assert kill.smoke()[0] == 200
    assert kill.secret("n8n-main", "n8n_encryption_key") == key
    assert kill.sql("SELECT id, name FROM workflow_entity ORDER BY id") == workflows
    again = kill.run("site", **CHANGE)
    assert again.rc == 0 and again.changed == 0, again.changed_tasks()
