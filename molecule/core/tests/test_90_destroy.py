"""destroy takes away what runs and never data, unless that is confirmed."""

from tests.support.deployment import Deployment
from tests.support.off_site import ARCHIVE_SECONDS, OffSite
from tests.support.stream import NumberedStream


def test_destroy_keeps_data_and_site_brings_it_back(core: Deployment) -> None:
    workflows = core.sql("SELECT id, name FROM workflow_entity ORDER BY id")
    run = core.run("destroy")
    assert run.rc == 0, run.failures()
    assert not core.containers(stopped=True)
    assert not core.engine.networks.list(filters={"label": f"com.docker.compose.project={core.project}"})
    assert (core.data_root / "volumes/postgres-n8n/current").exists()

    with NumberedStream(core, "/webhook/ledger") as stream:
        core.converge()
    answered = {outcome for outcome in stream.outcomes.values() if isinstance(outcome, int)}
    assert answered <= {200, 502, 503}, stream.summary()
    assert stream.accepted
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
