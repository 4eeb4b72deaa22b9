"""Two environments of one host share nothing: what breaks in one is not noticed in the other."""

import json
import subprocess
from pathlib import Path

from tests.support.deployment import Deployment, wait_until


def test_both_come_up(staging: Deployment, production: Deployment) -> None:
    for each in (staging, production):
        each.destroy_left_over()
        each.converge()
    assert staging.smoke()[0] == production.smoke()[0] == 200


def test_they_share_no_network_volume_secret_or_port(staging: Deployment, production: Deployment) -> None:
    def owned(deployment: Deployment) -> tuple[set[str], set[str]]:
        containers = deployment.containers().values()
        networks = {name for c in containers for name in c.attrs["NetworkSettings"]["Networks"]}
        sources = {m["Source"] for c in containers for m in c.attrs["Mounts"] if m["Type"] == "bind"}
        return networks, sources

    for one, other in zip(owned(staging), owned(production), strict=True):
        assert one and other and not one & other
    for path in (staging.data_root / "secrets").rglob("*"):
        twin = production.data_root / "secrets" / path.relative_to(staging.data_root / "secrets")
        if path.is_file() and twin.is_file() and len(path.read_bytes()) >= 16:
            assert path.read_bytes() != twin.read_bytes(), path.name


def test_one_broken_the_other_untouched(staging: Deployment, production: Deployment) -> None:
    before = production.fingerprint()
    for service in ("postgres-n8n", "redis-queue", "n8n-main"):
        staging.containers()[service].kill()
    assert production.smoke()[0] == 200
    assert production.run("verify").rc == 0
    assert staging.run("verify").rc != 0
    assert production.fingerprint() == before

    run = staging.run("site")
    assert run.rc == 0, run.failures()
    wait_until(lambda: staging.smoke()[0] == 200, "staging to answer again")
    assert production.fingerprint() == before


def test_one_backs_up_into_a_store_of_its_own_which_is_no_second_place(staging: Deployment) -> None:
    assert staging.healthy("object-storage")
    run = staging.run("backup", backup_type="full")
    assert run.rc == 0, run.failures()
    (path,) = staging.backup_root.glob("runs/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["problems"] == []
    assert manifest["restic"]["s3"] and manifest["pgbackrest"]["n8n"]["s3"]
    program = staging.data_root / "state/platform-backup"
    info = subprocess.run([program, "info"], capture_output=True, text=True, check=True).stdout
    assert "off-site: none" in info


def test_one_destroyed_the_other_untouched(staging: Deployment, production: Deployment) -> None:
    before = production.fingerprint()
    staging.destroy()
    assert not Path(staging.data_root).exists()
    assert production.fingerprint() == before
    assert production.smoke()[0] == 200
    production.destroy()
