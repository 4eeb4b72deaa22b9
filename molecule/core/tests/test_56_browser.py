"""The editor in a real browser, through the edge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.support.browser import Visit, visit
from tests.support.deployment import Deployment
from tests.support.n8n_rest import Editor, code

# The editor is 450 files; on a machine that does other things, too, they take half a minute.
PATIENCE_MS = 120_000


@pytest.fixture
def seen(core: Deployment, tmp_path: Path) -> Iterator[Visit]:
    """An empty page."""
    password = core.secret("host", "traefik_operator_password")
    with visit(core, tmp_path, password) as opened:
        opened.page.set_default_timeout(PATIENCE_MS)
        yield opened


def opened_or_loaded_again(seen: Visit) -> None:
    """As a person would: where one of its hundreds of files was given up half-way, the page stays empty. What was
    answered before counts no more, unless it was the edge that refused."""
    try:
        seen.page.locator("input[name=emailOrLdapLoginId]").wait_for()
    except PlaywrightTimeoutError:
        assert all(status != 429 for status, _ in seen.answers), "the edge's limits are not for one person"
        seen.answers.clear()
        seen.page.reload(wait_until="commit")


def test_the_owner_logs_in_and_runs_a_workflow_by_hand(core: Deployment, editor: Editor, seen: Visit) -> None:
    """With the push connection: the editor shows the result without being loaded again."""
    ((email,),) = core.sql('SELECT email FROM "user" WHERE "roleSlug" = \'global:owner\'')
    host = f"n8n.{core.domain}:{core.https_port}"
    page = seen.page
    with editor.workflow(code("return [{json: {answer: 42}}];")) as workflow:
        # Not the workflow's own address: a browser that has shown the edge's password for a page below /workflow/ is
        # asked again for each of hundreds of assets.
        page.goto(f"https://{host}/signin?redirect=%2Fworkflow%2F{workflow['id']}", wait_until="commit")
        opened_or_loaded_again(seen)
        page.locator("input[name=emailOrLdapLoginId]").fill(email)
        page.locator("input[name=password]").fill(core.secret("host", "n8n_owner_password"))
        page.get_by_role("button", name="Sign in").click()
        page.get_by_test_id("execute-workflow-button").first.click()
        page.get_by_test_id("canvas-node-status-success").nth(1).wait_for()
        seen.screenshot("executed")
        seen.wait_until(
            lambda: any("executionFinished" in frame for frame in seen.frames), "the push message", 30
        )
        # With any other answer to this one the editor calls itself "Offline" and saves nothing by itself.
        seen.wait_until(lambda: (200, "/healthz") in seen.answers, "the editor to ask for n8n's health", 90)
        failed = sorted(answer for answer in seen.answers if answer[0] >= 400)
        # Before the login. Told in words: of a long list pytest shows but the ends.
        assert failed == [(401, "/rest/login")], (
            f"{len(failed)} of {len(seen.answers)}: {failed[:3]} ... {failed[-1:]}"
        )
    assert seen.sockets
    assert all(address.startswith(f"wss://{host}/rest/push") for address in seen.sockets), seen.sockets
    assert seen.violations == []
    assert seen.hosts == {host}, "the editor calls nobody else"
