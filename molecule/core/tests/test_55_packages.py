"""What the operator lists is in n8n's image: community nodes for every process, modules for Code nodes, no others."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.deployment import Deployment, wait_until
from tests.support.n8n_rest import Editor, Node, code, events_of, execute, node, webhook

HTML, MARKDOWN = "<h1>Listed</h1>", "Listed\n======"
RENDER = (
    "const m = require('mustache'); return [{json: {version: m.version, text: m.render('{{a}}!', {a: 1})}}];"
)
N8N_TREE = "/usr/local/lib/n8n/node_modules"


def turndown(html: str) -> Node:
    """The community node, which needs packages of its own."""
    parameters = {"operation": "htmlToMarkdown", "input": html, "outputKey": "markdown"}
    return {
        **node("Turndown", "", **parameters),
        "type": "n8n-nodes-turndown-html-to-markdown.mdTurndown",
    }


def test_a_listed_module_is_required_in_the_listed_version(core: Deployment, editor: Editor) -> None:
    own = json.loads(execute(core, "n8n-main", "cat", f"{N8N_TREE}/mustache/package.json"))["version"]
    assert own != "4.1.0", "n8n has the same: the test would not notice whose it is"
    run = editor.run(code(RENDER))
    assert run.status == "success", run.error
    assert run.items("Code") == [{"version": "4.1.0", "text": "1!"}]


@pytest.mark.parametrize("module", ["ms", "turndown"])
def test_a_module_that_is_there_but_not_listed_is_refused(editor: Editor, module: str) -> None:
    """One of n8n's own, one that a listed package needs."""
    run = editor.run(code(f"return [{{json: {{kind: typeof require('{module}')}}}}];"))
    assert (run.status, f"Module '{module}' is disallowed" in run.error) == ("error", True), run.error


def test_a_community_node_is_published_and_executed_by_a_worker(core: Deployment, editor: Editor) -> None:
    path = f"test-{uuid4().hex}"
    with editor.workflow(turndown(HTML), trigger=webhook(path)) as workflow:
        editor.publish(workflow)
        wait_until(lambda: core.request("POST", f"/webhook/{path}")[0] == 200, "the webhook to be taken")
        query = f"SELECT id FROM execution_entity WHERE \"workflowId\" = '{workflow['id']}'"
        ((identifier,),) = wait_until(lambda: core.sql(query), "the execution")
        run = editor.finished(identifier)
    assert run.status == "success", run.error
    assert [item["markdown"] for item in run.items("Turndown")] == [MARKDOWN]
    assert events_of(core, run.id)["n8n.node.finished"].startswith("worker-")


@pytest.mark.parametrize("service", ["n8n-main", "n8n-webhook-1", "n8n-worker-1"])
def test_every_process_has_the_images_nodes_and_no_others(core: Deployment, service: str) -> None:
    installed = execute(core, service, "readlink", "-e", "/home/node/.n8n/nodes/node_modules").strip()
    assert installed == "/usr/local/lib/n8n-packages/node_modules"
    assert execute(core, service, "sh", "-c", f"cd {installed} && echo n8n-nodes-*").split() == [
        "n8n-nodes-turndown-html-to-markdown"
    ]


def test_what_is_not_pinned_is_refused_before_anything_changes(core: Deployment, tmp_path: Path) -> None:
    listed = {"dependencies": {"mustache": "^4.1.0"}}
    (tmp_path / "package.json").write_text(json.dumps(listed))
    locked = {"": listed, "node_modules/mustache": {"version": "4.1.0"}}
    (tmp_path / "package-lock.json").write_text(json.dumps({"packages": locked}))
    before = core.fingerprint()
    run = core.run("site", platform_n8n_packages=str(tmp_path))
    message = "\n".join(run.failures())
    assert f"platform_n8n_packages: {tmp_path}: mustache: '^4.1.0' is no exact version" in message, message
    assert "mustache: the lock has no sha512 integrity of it" in message
    assert (run.changed, core.fingerprint()) == (0, before)
