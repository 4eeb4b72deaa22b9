"""The deployment is backed up by its own playbook and by the commands of the documentation."""

import hashlib
import json
import re
import subprocess
import time
from typing import Any

import pytest

from tests.support.deployment import ROOT, Deployment, wait_until
from tests.support.docs import doc_block
from tests.support.metrics import metrics
from tests.support.off_site import OffSite


@pytest.fixture(scope="module")
def made(core: Deployment) -> dict[str, Any]:
    """The manifest of a full set."""
    await_schedule(core)
    command = doc_block("backup").strip() + " ENV=../molecule/core/inventory"
    done = subprocess.run(["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return manifests(core)[-1]


def await_schedule(core: Deployment) -> None:
    """The environment's own schedule may be making a set just now."""
    lock = core.data_root / "state/backup.lock"
    wait_until(lambda: not lock.exists() or not lock.read_text(), "the scheduled backup to end", 300)


def manifests(core: Deployment) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(core.backup_root.glob("runs/*/manifest.json"))]


def command(core: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = core.data_root / "state/platform-backup"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_the_manifest_names_everything_that_there_is(core: Deployment, made: dict[str, Any]) -> None:
    items = {item["name"] for item in made["items"]}
    assert {
        "postgres-n8n",
        "dump-n8n",
        "redis-queue",
        "openbao",
        "n8n-home",
        "n8n-data",
        "n8n-scripts",
    } <= items
    rest = {key: value for key, value in made.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == made["sha256"]
    count, last = core.sql(
        "SELECT count(*), (SELECT name FROM migrations ORDER BY id DESC LIMIT 1) FROM migrations"
    )[0]
    assert made["migrations"] == {"count": int(count), "last": last}
    assert made["pgbackrest"]["n8n"]["local"]
    assert made["pgbackrest"]["n8n"]["wal_start"]
    assert made["problems"] == []
    assert all(item["bytes"] > 0 and item["sha256"] for item in made["items"] if "file" in item)


def test_the_documented_commands_work(core: Deployment, made: dict[str, Any]) -> None:
    await_schedule(core)
    script = doc_block("backup-commands").replace("/local/", f"/{core.name}/")
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(incr)" in done.stdout
    assert "off-site: " in done.stdout
    assert "nothing is damaged" in done.stdout
    assert manifests(core)[-1]["type"] == "incr"
    assert made["run"] in [each["run"] for each in manifests(core)]


def test_the_bucket_can_be_looked_into_by_hand(
    core: Deployment, made: dict[str, Any], off_site: OffSite
) -> None:
    source = json.loads((core.data_root / "state/backup.json").read_text())
    store = source["s3"]
    changes = {
        "/var/lib/n8n-platform/production": str(core.data_root),
        "<backup image>": source["images"]["backup"],
        "https://s3.eu-central-1.amazonaws.com": store["endpoint"],
        "eu-central-1": store["region"],
        '"host"': '"path", "ca_file": "/ca.pem"',
        "acme-n8n-backup": store["bucket"],
        "production/runs/": f"{core.name}/runs/",
        # Of a public authority it needs none.
        "docker run ": f"docker run -v {store['ca_file']}:/ca.pem:ro ",
    }
    command = doc_block("bucket-by-hand")
    for written, here in changes.items():
        assert written in command
        command = command.replace(written, here)
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{core.name}/runs/{made['run']}/manifest.json" in {
        each["key"] for each in json.loads(done.stdout)["objects"]
    }


def test_nothing_is_owed_after_it(core: Deployment, made: dict[str, Any]) -> None:
    await_schedule(core)
    run = core.run("backup", backup_type="auto", check=True)
    assert run.rc == 0, run.failures()
    done = command(core, "run")
    assert done.returncode == 0
    assert done.stdout.strip() == "nothing is due" or "(incr)" in done.stdout, "another hour has begun"


def test_no_secret_is_written_in_clear(core: Deployment, made: dict[str, Any]) -> None:
    state = core.data_root / "state"
    texts = [
        path.read_text()
        for path in (state / "backup.log", state / "backup.json", state / "backup-state.json")
    ]
    texts += [path.read_text() for path in core.backup_root.glob("runs/*/manifest.json")]
    secrets = [path.read_text() for path in (core.data_root / "secrets").glob("*/*") if path.is_file()]
    values = {
        line for text in secrets for line in text.splitlines() if re.fullmatch(r"[A-Za-z0-9]{24,}", line)
    }
    assert values
    assert [value[:4] for value in values for text in texts if value in text] == []


def test_metrics_say_that_it_worked(core: Deployment, made: dict[str, Any]) -> None:
    found = metrics(core)
    assert found["last_run_exit_code"] == 0
    for repository in ("local", "s3"):
        of = f"{{{repository}}}"
        assert 0 <= time.time() - found[f"last_success_timestamp_seconds{of}"] < 3600
        assert found[f"last_size_bytes{of}"] > 0 and found[f"sets{of}"] >= 1
    assert found["last_duration_seconds"] > 0 and found["free_bytes"] > found["required_bytes"] > 0
    assert found["item_size_bytes{postgres-n8n}"] > 0
    assert found["archive_gaps{postgres-n8n}"] == 0


def test_verify_still_changes_nothing(core: Deployment, made: dict[str, Any]) -> None:
    run = core.run("verify")
    assert run.rc == 0, run.failures()
    assert run.changed == 0, run.changed_tasks()
