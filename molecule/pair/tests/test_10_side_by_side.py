"""Two environments of one host share nothing: what breaks in one is not noticed in the other."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Deployment, wait_until
from tests.support.n8n_rest import Editor, execute, node
from tests.support.proxy import ANSWER, Proxy
from tests.support.secret_store import ForeignStore

VOLUMES = Path("/srv/n8n-test-staging")
BROKEN = ("n8n-main", "postgres-n8n", "redis-queue")


@pytest.fixture
def cron_file(production: Deployment) -> Path:
    return Path("/etc/cron.d") / production.project


def test_both_come_up(staging: Deployment, production: Deployment) -> None:
    # Production first: it makes the images, for which staging's proxy is none.
    for each in (production, staging):
        each.destroy_left_over()
        each.converge()
    assert staging.smoke()[0] == production.smoke()[0] == 200


def test_every_process_lives_in_the_environments_time_zone(staging: Deployment) -> None:
    containers = staging.containers()
    assert {name: execute(staging, name, "date", "+%z").strip() for name in containers} == dict.fromkeys(
        containers, "+0530"
    )
    for name in (each for each in containers if each.startswith("n8n-")):
        assert "GENERIC_TIMEZONE=Asia/Kolkata" in containers[name].attrs["Config"]["Env"], name
    assert staging.sql("SHOW timezone") == staging.sql("SHOW log_timezone") == [["Asia/Kolkata"]]


def test_one_has_its_secrets_in_a_store_that_others_run(production: Deployment, store: ForeignStore) -> None:
    assert "openbao" not in production.containers(stopped=True)
    assert not (production.data_root / "volumes/openbao").exists()
    kept = store.bao(f"bao kv get -field=value kv/{production.name}/n8n_encryption_key")
    assert kept.strip() == production.secret("n8n-main", "n8n_encryption_key")
    before = production.fingerprint()
    nowhere = "https://127.0.0.1:9"
    refused(
        production, f"secrets_openbao_address: the secret store {nowhere}: ", secrets_openbao_address=nowhere
    )
    store.seal()
    try:
        refused(production, f"secrets_openbao_address: the secret store {store.address} is sealed")
        assert production.smoke()[0] == 200
    finally:
        store.unseal()
    run = production.converge()
    assert run.changed == 0, run.changed_tasks()
    assert production.fingerprint() == before


def test_an_encryption_key_that_its_store_has_lost_is_not_made_anew(
    production: Deployment, store: ForeignStore
) -> None:
    path = f"{production.name}/n8n_encryption_key"

    def version() -> int:
        return int(store.root_client.call("GET", f"kv/metadata/{path}")[1]["data"]["current_version"])

    before, latest = production.fingerprint(), version()
    store.root_client.call("DELETE", f"kv/data/{path}")
    try:
        refused(
            production,
            "the store has none. Set n8n_encryption_key_import_file to it, or restore the store; no new one is made",
        )
        assert version() == latest
        assert production.fingerprint() == before
    finally:
        store.root_client.call("POST", f"kv/undelete/{path}", {"versions": [latest]})
    run = production.converge()
    assert run.changed == 0, run.changed_tasks()
    assert version() == latest
    assert production.fingerprint() == before


def test_a_secret_that_nobody_has_given_is_named(staging: Deployment) -> None:
    refused(
        staging,
        "secret n8n_smtp_password: service n8n-main reads it, but n8n_smtp_password is not set",
        n8n_smtp_host="mail.example.org",
        n8n_smtp_user="n8n",
    )


def refused(deployment: Deployment, named: str, **variables: Any) -> None:
    run = deployment.run("site", **variables)
    assert run.rc != 0, "accepted"
    assert named in "\n".join(run.failures())
    assert run.changed == 0, run.changed_tasks()


def test_what_opens_productions_backups_lies_elsewhere_and_is_nobodys_to_read(
    production: Deployment, bundles: Path
) -> None:
    refused(production, "production needs backup_bundle_recipients", backup_bundle_recipients=[])
    refused(production, "production needs backup_bundle_destination", backup_bundle_destination="")
    run = production.run("backup", backup_type="full")
    assert run.rc == 0, run.failures()
    newest = max(bundles.rglob("*.age"), key=lambda path: path.stat().st_mtime)
    assert newest.read_bytes().startswith(b"age-encryption.org/")
    assert newest.stat().st_mode & 0o777 == 0o600


def test_where_there_is_no_systemd_cron_calls_what_is_due(production: Deployment, cron_file: Path) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("with systemd it is a timer, which molecule/host looks at")
    (command,) = re.findall(r"^1-59/2 \* \* \* \* root (.+) >/dev/null$", cron_file.read_text(), re.MULTILINE)
    done = subprocess.run([*shlex.split(command), "--list"], capture_output=True, text=True, check=False)
    # What is due depends on whether cron has just called it.
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(f"/proc/{Path('/run/crond.pid').read_text().strip()}/comm").read_text().strip() == "cron"


def test_volumes_lie_where_the_inventory_says(staging: Deployment) -> None:
    for name, container in staging.containers().items():
        elsewhere = {m["Source"] for m in container.attrs["Mounts"] if "/volumes" in m.get("Source", "")}
        assert not elsewhere, name
    assert (VOLUMES / "postgres-n8n").is_dir() and not (staging.data_root / "volumes").exists()


@pytest.mark.parametrize(
    ("scheme", "asked"),
    [
        ("http", ["GET http://192.31.196.1/words"]),
        ("https", ["CONNECT 192.31.196.1:443", "GET /words"]),
    ],
)
def test_requests_of_workflows_leave_by_the_outbound_proxy(
    staging: Deployment, tmp_path: Path, scheme: str, asked: list[str]
) -> None:
    """And what is inside does not: databases and queue are reached without it, or nothing would run. What the proxy
    signs is trusted by `platform_extra_ca_file`."""
    with Proxy(tmp_path) as proxy:
        # A literal address: n8n resolves a name and judges what it leads to before it asks the proxy.
        url = f"{scheme}://192.31.196.1/words"
        run = Editor(staging).run(node("Ask", "httpRequest", 4.2, url=url, options={"timeout": 10000}))
        assert run.status == "success", run.error
        assert ANSWER in json.dumps(run.items("Ask"))
        assert proxy.asked == asked


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
    for service in BROKEN:
        staging.containers()[service].kill()
    assert production.smoke()[0] == 200
    assert production.run("verify").rc == 0

    status = staging.run("status")
    assert status.rc == 0, status.failures()
    assert "test-staging on localhost: NOT HEALTHY\n" in status.report
    wrong, works = (
        status.report.partition(title)[2].partition("\n\n")[0] for title in ("Does not work", "Works")
    )
    assert [name for name in BROKEN if f"container {name}: exited" not in wrong or name in works] == []
    assert "openbao, traefik" in works

    verify = staging.run("verify")
    assert verify.rc != 0
    assert [name for name in BROKEN if name not in "".join(verify.failures())] == []
    assert re.search(r"^ +FAIL +Every container runs as released.*n8n-main", verify.report, re.MULTILINE)
    assert re.search(r"^ +not reached +A webhook from outside", verify.report, re.MULTILINE)
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
    assert "off-site: none" in staging.run("verify").report


def test_one_destroyed_the_other_untouched(
    staging: Deployment, production: Deployment, cron_file: Path
) -> None:
    before = production.fingerprint()
    staging.destroy()
    assert not staging.data_root.exists() and not VOLUMES.exists()
    assert production.fingerprint() == before
    assert production.smoke()[0] == 200
    production.destroy()
    assert not cron_file.exists()
