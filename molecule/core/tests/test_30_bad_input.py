"""Bad input is refused by the name of the variable before anything is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Deployment

# What one run can find together it lists together: variables -> what the message says.
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "variables": (
        {
            "n8n_workers_concurency": 3,
            "n8n_worker_concurrency": 3,
            "platform_https_port": "https",
            "platform_bind_address": "::",
            "platform_timezone": "Europe/Berln",
            "platform_http_proxy": "http://me:mine@proxy:3128",
            "container_images_source": "ftp",
            "n8n_owner_email": "{{ no_such_thing }}",
            "n8n_execution_timeout_seconds": 100000,
        },
        (
            "n8n_workers_concurency: no role takes it; did you mean n8n_workers_concurrency?",
            "n8n_worker_concurrency: has been renamed, use n8n_workers_concurrency",
            "platform_https_port: ",
            "platform_bind_address: '::' is not an IPv4 address",
            "platform_timezone: 'Europe/Berln' is no time zone such as Europe/Berlin",
            "platform_http_proxy: its value is not empty, or http://host:port",
            "container_images_source: ",
            "n8n_owner_email: refers to something undefined",
            "n8n_execution_timeout_seconds: 100000 is out of range, it must be at least 10 and at most 86400",
        ),
    ),
    "the host": (
        {
            "platform_confirm": "production",
            "platform_https_port": 22599,
            "platform_volumes_root": "/mnt/c/volumes",
            "platform_preflight_disk_free_gb": 100000,
            "platform_preflight_memory_reserve_mb": 10000000,
        },
        (
            "platform_confirm: production is not this environment, which is test-core",
            "platform_https_port: port 22599",
            "platform_volumes_root: /mnt/c/volumes is below /mnt, where Windows drives are mounted",
            "platform_preflight_disk_free_gb",
            "the host needs 10000000 MiB",
            "choose a smaller platform_profile",
        ),
    ),
    "an unpinned image": ({"container_images_source": "upstream"}, ("has no digest (platform_versions.",)),
    "n8n's own variables, and more pools than Postgres has connections for": (
        {
            "n8n_environment_extra": {
                "N8N_RUNNERS_MOD": "external",
                "N8N_RUNNERS_MODE": "exteranl",
                "NODES_EXCLUDE": "[n8n-nodes-base.git",
                "EXECUTIONS_DATA_PRUNE_MAX_AGE": "168",
                "EXECUTIONS_DATA_SAVE_ON_SUCCESS": "true",
            },
            "n8n_postgres_pool_size": 50,
        },
        (
            "N8N_RUNNERS_MOD: n8n 2.41.1 does not know it; did you mean N8N_RUNNERS_MODE?",
            "N8N_RUNNERS_MODE: 'exteranl' is none of",
            "NODES_EXCLUDE: the value must be a JSON list",
            "EXECUTIONS_DATA_PRUNE_MAX_AGE: n8n has no use for it here; use EXECUTIONS_DATA_MAX_AGE",
            "EXECUTIONS_DATA_SAVE_ON_SUCCESS: 'true' is none of all, none",
            "with n8n_postgres_pool_size 50 take up to",
            "connections, Postgres has 90 for them",
        ),
    ),
    "alarms that nobody would get": (
        {"backup_mail_to": ["somebody@example.org"], "backup_mail_password": ""},
        ("secret backup_mail_password: service host reads it, but backup_mail_password is not set",),
    ),
    "a bucket that does not hold the backups": (
        {"platform_s3_endpoint": "https://s3.example.org"},
        ("platform_s3_endpoint was https://10.203.5.1:18333 and is now https://s3.example.org",),
    ),
}


def refused(core: Deployment, named: tuple[str, ...], **variables: Any) -> None:
    before = core.fingerprint()
    run = core.run("site", **variables)
    message = "\n".join(run.failures())
    assert run.rc != 0, "accepted"
    assert [name for name in named if name not in message] == [], message or run.stdout[-2000:]
    assert run.changed == 0, run.changed_tasks()
    assert core.fingerprint() == before


@pytest.mark.parametrize("case", CASES)
def test_refused_before_anything_changes(core: Deployment, case: str, busy_port: int) -> None:
    variables, named = CASES[case]
    refused(core, named, **variables)


def test_another_encryption_key_for_existing_data_is_refused(core: Deployment, tmp_path: Path) -> None:
    key = core.secret("n8n-main", "n8n_encryption_key")
    other = tmp_path / "key"
    other.write_text("another" * 5)
    refused(
        core,
        ("secret n8n_encryption_key: n8n_encryption_key_import_file differs from the value in the store",),
        n8n_encryption_key_import_file=str(other),
    )
    assert core.secret("n8n-main", "n8n_encryption_key") == key


def test_data_that_was_written_with_another_key_is_refused(core: Deployment) -> None:
    """The store has its key, but beside the data of Postgres it says that this is another one's."""
    fingerprint = core.data_root / "volumes/postgres-n8n/encryption-key.fingerprint"
    kept = fingerprint.read_text()
    fingerprint.write_text("0" * len(kept))
    try:
        refused(core, ("secret n8n_encryption_key: the value in the store is not the one that the data",))
        assert fingerprint.read_text() == "0" * len(kept)
    finally:
        fingerprint.write_text(kept)


def test_a_target_that_another_controller_works_on_is_refused_by_its_name(core: Deployment) -> None:
    path = core.data_root / "state/owner.json"
    kept = path.read_text() if path.exists() else None
    mark = {"controller": "ops-elsewhere", "user": "deploy", "since": "2026-01-01T10:00:00+00:00"}
    path.write_text(json.dumps(mark | {"until": "2999-01-01T10:00:00+00:00"}))
    foreign = path.read_text()
    try:
        refused(core, ("This target is in use from ops-elsewhere by deploy", "platform_lock_takeover=true"))
        assert path.read_text() == foreign
    finally:
        if kept is None:
            path.unlink()
        else:
            path.write_text(kept)
