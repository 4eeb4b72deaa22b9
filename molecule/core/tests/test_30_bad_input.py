"""Bad input is refused by the name of the variable before anything is changed."""

from typing import Any

import pytest

from tests.support.deployment import Deployment

CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown variable": (
        {"n8n_workers_concurency": 3},
        ("n8n_workers_concurency", "n8n_workers_concurrency"),
    ),
    "a wrong type": ({"platform_https_port": "https"}, ("platform_https_port",)),
    "a wrong choice": ({"container_images_source": "ftp"}, ("container_images_source",)),
    "a wrong environment to confirm": ({"platform_confirm": "production"}, ("platform_confirm", "test-core")),
    "an undefined reference": ({"n8n_owner_email": "{{ no_such_thing }}"}, ("n8n_owner_email",)),
    "an n8n variable that is mistyped": (
        {"n8n_environment_extra": {"N8N_RUNNERS_MOD": "external"}},
        ("N8N_RUNNERS_MOD", "N8N_RUNNERS_MODE"),
    ),
    "an n8n value that silently weakens": (
        {"n8n_environment_extra": {"N8N_RUNNERS_MODE": "exteranl"}},
        ("N8N_RUNNERS_MODE",),
    ),
    "a malformed list of excluded nodes": (
        {"n8n_environment_extra": {"NODES_EXCLUDE": "[n8n-nodes-base.git"}},
        ("NODES_EXCLUDE",),
    ),
    "a seed name that n8n does not know": (
        {"n8n_environment_extra": {"EXECUTIONS_DATA_PRUNE_MAX_AGE": "168"}},
        ("EXECUTIONS_DATA_PRUNE_MAX_AGE", "EXECUTIONS_DATA_MAX_AGE"),
    ),
    "saving that is neither all nor none": (
        {"n8n_environment_extra": {"EXECUTIONS_DATA_SAVE_ON_SUCCESS": "true"}},
        ("EXECUTIONS_DATA_SAVE_ON_SUCCESS",),
    ),
    "an unpinned image": ({"container_images_refs": {"n8n": "n8nio/n8n:latest"}}, ("container_images_refs",)),
    "a port in use": ({"platform_https_port": 22599}, ("platform_https_port", "22599")),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_anything_changes(core: Deployment, case: str, busy_port: int) -> None:
    variables, named = CASES[case]
    before = core.fingerprint()
    run = core.run("site", **variables)
    message = "\n".join(run.failures())
    assert run.rc != 0, "accepted"
    for name in named:
        assert name in message, message or run.stdout[-2000:]
    assert run.changed == 0, run.changed_tasks()
    assert core.fingerprint() == before
