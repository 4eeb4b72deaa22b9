"""By hand, as the docs say: back to the release from before the last change, and one slot anew."""

from __future__ import annotations

import json
import subprocess

from tests.support.deployment import ROOT, Deployment, wait_until
from tests.support.docs import doc_block
from tests.support.n8n_rest import execute

LEVEL = "N8N_LOG_LEVEL"
PACKAGES = "/usr/local/lib/n8n-packages/node_modules"


def run(core: Deployment, command: str, **changes: str) -> None:
    """A block of the docs for this environment."""
    changes |= {
        "n8n-local": core.project,
        "/local/": f"/{core.name}/",
        "inventories/local": str(core.inventory),
    }
    for written, here in changes.items():
        command = command.replace(written, here)
    done = subprocess.run(["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_release_from_before_a_change_comes_back(core: Deployment) -> None:
    """That of the rolled setting and image goes: every process of n8n runs as before it, with the packages that its
    image has, and the stores have not noticed."""
    releases = core.data_root / "releases"
    former, present = json.loads((releases / "history.json").read_text())[-2:]
    assert (releases / "current").readlink().name == present
    before = core.fingerprint()
    n8n = {each for each in before if each.startswith(("n8n-main", "n8n-webhook-", "n8n-worker-"))}
    levels = {each: core.environment(each).get(LEVEL) for each in n8n}

    run(core, doc_block("going-back"), **{"<id>": former})
    run(core, doc_block("going-back-slots"))

    assert (releases / "current").readlink().name == former
    after = core.fingerprint()
    assert after.keys() == before.keys()
    assert n8n <= {each for each in after if after[each] != before[each]}
    for each in ("openbao", "postgres-n8n", "redis-queue", "redis-cache", "traefik"):
        assert after[each] == before[each], each
    still = [each for each in n8n if core.environment(each).get(LEVEL) == levels[each]]
    assert still == [], "they still run the later release"
    for each in n8n:
        assert "n8n-nodes-turndown-html-to-markdown" in execute(core, each, "ls", PACKAGES).split(), each
    assert [each for each in after if not core.healthy(each)] == []
    wait_until(lambda: core.smoke()[0] == 200, "the edge to serve n8n again")


def test_a_slot_by_hand(core: Deployment) -> None:
    before = core.fingerprint()
    run(core, doc_block("slot-by-hand"), **{"worker-3": "worker-2"})
    after = core.fingerprint()
    assert {each for each in after if after[each] != before[each]} == {"n8n-worker-2", "n8n-runner-2"}
    last = json.loads((core.data_root / "state/slots.log").read_text().splitlines()[-1])
    assert (last["act"], last["slot"], last["result"]) == ("restart", "worker-2", "ok")
