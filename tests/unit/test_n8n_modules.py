"""Owner, API key, workflows and smoke test against a fake n8n."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import n8n_api_key
import n8n_owner
import n8n_smoke
import n8n_workflow
import pytest
from ansible.module_utils.n8n_platform import n8n as client
from ansible.module_utils.n8n_platform.http import HttpError
from ansible.module_utils.n8n_platform.n8n import N8n, N8nError
from ansible.module_utils.n8n_platform.openbao import StoreUnavailable
from n8n_server import FIXTURES, FakeN8n, running

EMAIL = "owner@n8n.example"
PASSWORD = "A1canary-owner-password"
SMOKE = json.loads((Path(__file__).resolve().parents[2] / "workflows/smoke/workflow.json").read_text())


class Store:
    values: ClassVar[dict[str, str]] = {}
    available = True

    @classmethod
    def from_params(cls, _params: dict[str, Any]) -> Store:
        if not cls.available:
            raise StoreUnavailable("no store yet")
        return cls()

    def get(self, name: str) -> str | None:
        return self.values.get(name)

    def put(self, name: str, value: str) -> int:
        self.values[name] = value
        return 1


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    monkeypatch.setattr(Store, "values", {"n8n_owner_password": PASSWORD})
    for module in (client, n8n_owner, n8n_api_key):
        monkeypatch.setattr(module, "SecretStore", Store)
    return Store


@pytest.fixture
def fake(store: type[Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeN8n]:
    monkeypatch.setattr(client, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(n8n_smoke, "POLL_SECONDS", 0.01)
    with running(FakeN8n()) as server:
        yield server


def params(fake: FakeN8n, **more: Any) -> dict[str, Any]:
    return {
        "url": fake.url,
        "project": None,
        "store_file": "/x",
        "environment": "test",
        "email": EMAIL,
        **more,
    }


def claim(
    fake: FakeN8n, check_mode: bool = False, timeout: float = 5, password: str | None = None
) -> dict[str, Any]:
    given = params(fake, first_name="A", last_name="B", timeout=timeout, password=password)
    return n8n_owner.run(given, check_mode)


def keep_key(fake: FakeN8n, check_mode: bool = False, **more: Any) -> dict[str, Any]:
    return n8n_api_key.run(
        params(fake, label="platform", **{"scopes": n8n_api_key.SCOPES, **more}), check_mode
    )


def deploy(
    fake: FakeN8n, definition: dict[str, Any], check_mode: bool = False, **more: Any
) -> dict[str, Any]:
    return n8n_workflow.run(
        params(fake, definition=definition, **{"state": "present", "active": None, **more}), check_mode
    )


@pytest.fixture
def owned(fake: FakeN8n) -> FakeN8n:
    """Claimed, with a working key in the store."""
    claim(fake)
    keep_key(fake)
    fake.writes.clear()
    return fake


# --- owner


def test_an_instance_is_claimed_once(fake: FakeN8n) -> None:
    assert claim(fake)["changed"]
    assert fake.owner == {"email": EMAIL, "firstName": "A", "lastName": "B", "password": PASSWORD}
    fake.writes.clear()
    assert not claim(fake)["changed"]
    assert fake.writes == []


def test_the_claim_waits_for_readiness(fake: FakeN8n) -> None:
    fake.not_ready = 5
    assert claim(fake)["changed"]
    fake.not_ready = 10_000
    with pytest.raises(N8nError, match=r"readiness did not become 200 within 0\.1 s"):
        claim(fake, timeout=0.1)


def test_a_check_run_writes_nothing_and_needs_no_n8n(fake: FakeN8n) -> None:
    assert claim(fake, check_mode=True)["changed"]
    assert fake.writes == []
    away = FakeN8n()
    away.url = "http://127.0.0.1:1"
    assert claim(away, check_mode=True)["changed"]
    with pytest.raises((N8nError, HttpError)):
        claim(away, timeout=0)


def test_a_store_without_a_password_is_named(fake: FakeN8n, store: type[Store]) -> None:
    del store.values["n8n_owner_password"]
    with pytest.raises(N8nError, match="no n8n_owner_password for environment test"):
        claim(fake)


CHANGED = "B2canary-password-of-the-editor"


def test_a_password_is_proven_however_often_n8n_wants_to_be_asked_later(
    owned: FakeN8n, store: type[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owned.owner
    monkeypatch.setattr(client, "LOGIN_POLL_SECONDS", 0.01)
    owned.owner["password"], owned.too_many_logins = CHANGED, 3
    assert claim(owned, password=CHANGED)["changed"]
    owned.too_many_logins = 10**9
    monkeypatch.setattr(client, "LOGIN_SECONDS", 0.05)
    with pytest.raises(HttpError, match="429"):
        claim(owned, password=PASSWORD)
    assert store.values["n8n_owner_password"] == CHANGED


@pytest.mark.parametrize("mfa", [False, True])
def test_a_password_changed_in_the_editor_is_stored_once_it_is_proven(
    owned: FakeN8n, store: type[Store], mfa: bool
) -> None:
    assert owned.owner
    owned.owner["password"], owned.mfa = CHANGED, mfa
    foretold = claim(owned, check_mode=True, password=CHANGED)
    assert foretold["changed"] and store.values["n8n_owner_password"] == PASSWORD
    assert claim(owned, password=CHANGED)["changed"]
    assert store.values["n8n_owner_password"] == CHANGED
    owned.writes.clear()
    assert not claim(owned, password=CHANGED)["changed"]
    assert owned.writes == []
    assert CHANGED not in json.dumps(foretold)


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize("mfa", [False, True])
def test_a_password_that_n8n_refuses_is_not_stored(
    owned: FakeN8n, store: type[Store], mfa: bool, check_mode: bool
) -> None:
    owned.mfa = mfa
    with pytest.raises(N8nError, match=f"refuses the given password of {EMAIL}"):
        claim(owned, check_mode, password=CHANGED)
    assert store.values["n8n_owner_password"] == PASSWORD


def test_a_given_password_is_the_one_of_a_first_owner(fake: FakeN8n, store: type[Store]) -> None:
    assert claim(fake, password=CHANGED)["changed"]
    assert fake.owner and fake.owner["password"] == store.values["n8n_owner_password"] == CHANGED


def test_no_result_carries_a_secret(fake: FakeN8n, store: type[Store]) -> None:
    results = [claim(fake), keep_key(fake), deploy(fake, SMOKE, active=True)]
    text = json.dumps(results)
    assert PASSWORD not in text
    assert store.values["n8n_api_key"] not in text


# --- API key


def test_a_key_is_made_once_and_kept(fake: FakeN8n, store: type[Store]) -> None:
    claim(fake)
    assert keep_key(fake)["changed"]
    assert store.values["n8n_api_key"] in {key["raw"] for key in fake.keys.values()}
    fake.writes.clear()
    assert not keep_key(fake)["changed"]
    assert fake.writes == []


def test_a_refused_key_is_replaced_and_the_old_one_deleted(owned: FakeN8n, store: type[Store]) -> None:
    store.values["n8n_api_key"] = "refused"
    assert keep_key(owned)["changed"]
    assert [key["raw"] for key in owned.keys.values()] == [store.values["n8n_api_key"]]


def test_a_key_that_lacks_a_scope_is_replaced(owned: FakeN8n) -> None:
    result = keep_key(owned, scopes=[*n8n_api_key.SCOPES, "user:list"])
    assert result["changed"] and result["diff"]["after"] == "user:list\n"
    assert not keep_key(owned, scopes=[*n8n_api_key.SCOPES, "user:list"])["changed"]


def test_a_scope_that_n8n_does_not_offer_is_named(owned: FakeN8n) -> None:
    with pytest.raises(N8nError, match="does not offer the owner workflow:explode"):
        keep_key(owned, scopes=["workflow:explode"])


def test_a_changed_password_and_a_second_factor_say_what_to_do(owned: FakeN8n, store: type[Store]) -> None:
    del store.values["n8n_api_key"]
    store.values["n8n_owner_password"] = "old"
    with pytest.raises(N8nError, match=r"playbooks/owner\.yml takes over the new one"):
        keep_key(owned)
    store.values["n8n_owner_password"] = PASSWORD
    owned.mfa = True
    with pytest.raises(N8nError, match="second factor"):
        keep_key(owned)


def test_a_check_run_works_before_there_is_a_store(fake: FakeN8n, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "available", False)
    assert keep_key(fake, check_mode=True)["changed"]
    assert deploy(fake, SMOKE, check_mode=True)["changed"]
    with pytest.raises(StoreUnavailable):
        keep_key(fake)


# --- workflows


def test_a_workflow_is_created_published_and_then_left_alone(owned: FakeN8n) -> None:
    assert deploy(owned, SMOKE, active=True)["actions"] == ["create", "publish"]
    owned.writes.clear()
    result = deploy(owned, SMOKE, active=True)
    assert (result["changed"], result["active"], owned.writes) == (False, True, [])


def test_what_n8n_adds_does_not_count(owned: FakeN8n) -> None:
    deploy(owned, SMOKE, active=True)
    owned.workflows[0]["settings"] = {**SMOKE["settings"], "callerPolicy": "workflowsFromSameOwner"}
    for node in owned.workflows[0]["nodes"]:
        node.update(id="another", retryOnFail=False)
    owned.workflows[0]["nodes"].reverse()
    assert not deploy(owned, SMOKE, active=True)["changed"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda w: w["nodes"][1]["parameters"].update(jsCode="return []"),
        lambda w: w["nodes"].append({"name": "More", "type": "n8n-nodes-base.noOp", "typeVersion": 1}),
        lambda w: w["nodes"].pop(),
        lambda w: w["connections"].clear(),
        lambda w: w["settings"].update(executionOrder="v0"),
    ],
    ids=["parameter", "node added", "node removed", "connection", "setting"],
)
def test_an_edit_in_n8n_is_undone_and_published(owned: FakeN8n, edit: Any) -> None:
    deploy(owned, SMOKE, active=True)
    owned.workflows[0] = copy.deepcopy(owned.workflows[0])
    edit(owned.workflows[0])
    result = deploy(owned, SMOKE, active=True)
    assert result["actions"] == ["update", "publish"]
    assert result["diff"]["before"] != result["diff"]["after"]
    assert owned.workflows[0]["activeVersionId"] == owned.workflows[0]["versionId"]


def test_a_draft_that_was_never_published_is_published(owned: FakeN8n) -> None:
    deploy(owned, SMOKE, active=True)
    owned.workflows[0]["versionId"] = "draft"
    assert deploy(owned, SMOKE, active=True)["actions"] == ["publish"]


def test_publication_is_left_alone_unless_asked_for(owned: FakeN8n) -> None:
    deploy(owned, SMOKE)
    assert deploy(owned, SMOKE)["actions"] == []
    assert deploy(owned, SMOKE, active=True)["actions"] == ["publish"]
    assert deploy(owned, SMOKE, active=False)["actions"] == ["unpublish"]


def test_a_check_run_only_reads(owned: FakeN8n) -> None:
    result = deploy(owned, SMOKE, check_mode=True, active=True)
    assert result["actions"] == ["create", "publish"] and owned.writes == []


def test_absent_deletes_and_is_content_without(owned: FakeN8n) -> None:
    deploy(owned, SMOKE)
    assert deploy(owned, {"name": SMOKE["name"]}, state="absent")["actions"] == ["delete"]
    assert owned.workflows == []
    assert not deploy(owned, {"name": SMOKE["name"]}, state="absent")["changed"]


def test_two_workflows_of_one_name_are_an_error_found_over_pages(owned: FakeN8n) -> None:
    deploy(owned, SMOKE)
    deploy(owned, {**SMOKE, "name": "Another"})
    owned.workflows.append({**owned.workflows[0], "id": "w9"})
    with pytest.raises(N8nError, match="2 workflows called 'Platform smoke test'"):
        deploy(owned, SMOKE)


def test_a_recorded_workflow_of_n8n_equals_its_file(owned: FakeN8n) -> None:
    owned.workflows = json.loads((FIXTURES / "workflows.json").read_text())["data"]
    assert not deploy(owned, SMOKE, active=True)["changed"]


# --- smoke test


def smoke(fake: FakeN8n, events: Path, timeout: float = 20) -> dict[str, Any]:
    more = {"public_url": fake.url, "connect_to": None, "ca_file": None, "path": "platform-smoke"}
    return n8n_smoke.run(params(fake, events_dir=str(events), timeout=timeout, **more))


@pytest.fixture
def events(tmp_path: Path) -> Path:
    (tmp_path / "worker-1.log").write_text((FIXTURES / "worker-events.log").read_text())
    return tmp_path


def test_the_smoke_test_names_the_worker(owned: FakeN8n, events: Path) -> None:
    owned.statuses = ["missing", "running", "success"]
    result = smoke(owned, events)
    assert (result["execution"], result["worker"]) == ("1", "worker-40a81bca37d1")


def test_a_wrong_sum_fails(owned: FakeN8n, events: Path) -> None:
    owned.answer = {"nonce": "another", "sum": 42, "execution": "1"}
    with pytest.raises(N8nError, match="answered 200"):
        smoke(owned, events)


@pytest.mark.parametrize(("status", "says"), [("error", "ended as error"), ("running", "is running after")])
def test_an_execution_that_does_not_succeed_fails(
    owned: FakeN8n, events: Path, status: str, says: str
) -> None:
    owned.statuses = [status]
    with pytest.raises(N8nError, match=says):
        smoke(owned, events, timeout=1)


def test_an_execution_that_no_worker_took_fails(owned: FakeN8n, tmp_path: Path) -> None:
    with pytest.raises(N8nError, match="no worker's event log"):
        n8n_smoke.worker_of("1", tmp_path, 0)


def test_a_first_request_that_is_never_answered_is_made_again(owned: FakeN8n, events: Path) -> None:
    owned.silent_seconds = [3]
    assert smoke(owned, events, timeout=2)["execution"] == "1"
    assert owned.writes == ["POST /webhook/platform-smoke"] * 2
    owned.silent_seconds = [3, 3]
    with pytest.raises(HttpError, match="timed out"):
        smoke(owned, events, timeout=2)


# --- client


def test_samples_without_labels_are_read(fake: FakeN8n) -> None:
    metrics = N8n(fake.url).metrics()
    assert metrics["n8n_scaling_mode_queue_jobs_waiting"] == 0
    assert metrics["n8n_active_workflow_count"] == 1
    assert "n8n_nodejs_heap_space_size_total_bytes" not in metrics
