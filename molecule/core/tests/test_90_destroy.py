"""destroy takes away what runs and never data, unless that is confirmed."""

from tests.support.deployment import Deployment, wait_until
from tests.support.n8n_rest import execute
from tests.support.off_site import ARCHIVE_SECONDS, OffSite
from tests.support.stream import NumberedStream, executions_of

# Files of the volumes, as n8n's main process sees them.
KEPT = {
    "n8n-home/kept.txt": "/home/node/.n8n/kept.txt",
    "n8n-data/exports/kept.txt": "/data/exports/kept.txt",
    "n8n-scripts/kept.txt": "/root/.n8n/scripts/kept.txt",
}


def test_destroy_keeps_data_and_site_brings_it_back(core: Deployment) -> None:
    workflows = core.sql("SELECT id, name FROM workflow_entity ORDER BY id")
    for name in KEPT:
        path = core.data_root / "volumes" / name
        path.write_text(name)
        path.chmod(0o444)
    run = core.run("destroy")
    assert run.rc == 0, run.failures()
    assert not core.containers(stopped=True)
    assert not core.engine.networks.list(filters={"label": f"com.docker.compose.project={core.project}"})
    assert (core.data_root / "volumes/postgres-n8n/current").exists()

    with NumberedStream(core, "/webhook/ledger", rate=20) as stream:
        core.converge()
    answered = {outcome for outcome in stream.outcomes.values() if isinstance(outcome, int)}
    assert answered <= {200, 502, 503}, stream.summary()
    assert stream.accepted

    def all_succeeded() -> bool:
        found = executions_of(core, stream)
        return all(found.get(n) == ["success"] for n in stream.accepted)

    wait_until(all_succeeded, "every accepted request to have succeeded once", seconds=300, every=5)
    assert {name: execute(core, "n8n-main", "cat", inside) for name, inside in KEPT.items()} == {
        name: name for name in KEPT
    }
    assert core.sql("SELECT id, name FROM workflow_entity ORDER BY id") == workflows


def test_destroying_data_needs_the_environments_name(core: Deployment) -> None:
    before = core.fingerprint()
    run = core.run("destroy", platform_destroy_data=True)
    assert run.rc != 0
    assert "platform_confirm" in "\n".join(run.failures())
    assert core.fingerprint() == before


def test_lost_with_its_data_only_the_bucket_and_the_bundles_are_left(
    core: Deployment, off_site: OffSite
) -> None:
    lost = off_site.lose(core)
    assert lost.archived_seconds <= ARCHIVE_SECONDS, "a commit waits longer for the archive than may be lost"
    core.destroy()
    assert not core.containers(stopped=True)
    assert not core.data_root.exists()
