"""The client of the secret store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.n8n_platform.openbao import SecretStore, StoreConflict, StoreError, StoreUnavailable
from openbao_server import State, serving


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State()
    state.initialized = True
    state.secret_ids = ["secret"]
    with serving(tmp_path / "s", state):
        yield state


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    connection = {"address": f"unix://{tmp_path}/s", "role_id": "role", "secret_id": "secret"}
    file = tmp_path / "store.json"
    file.write_text(json.dumps(connection))
    return SecretStore.from_params({"store_file": str(file), "environment": "local"})


def test_get_put_and_version(state: State, store: SecretStore) -> None:
    assert (store.get("a"), store.version("a")) == (None, 0)
    assert store.put("a", "1") == 1
    assert store.put("a", "2") == 2
    assert (store.get("a"), store.version("a")) == ("2", 2)
    assert list(state.kv) == ["local/a"]


def test_an_equal_value_is_not_written_again(state: State, store: SecretStore) -> None:
    store.put("a", "1")
    assert store.put("a", "1") == 1
    assert len(state.kv["local/a"]) == 1


def test_one_login_serves_all_requests(state: State, store: SecretStore) -> None:
    store.get("a")
    store.get("b")
    assert state.requests.count(("POST", "auth/approle/login")) == 1


def test_a_write_over_somebody_elses_is_a_conflict(state: State, store: SecretStore) -> None:
    state.kv["local/a"] = [{"value": "theirs"}]
    with pytest.raises(StoreConflict, match="secret a: changed in the store by somebody else"):
        store.write("a", {"value": "ours"}, 0)


def test_names_cannot_leave_the_environment(state: State, store: SecretStore) -> None:
    store.get("../production/a")
    assert state.requests[-1] == ("GET", "kv/data/local/..%2Fproduction%2Fa")


def test_a_certificate_comes_with_its_chain_and_without_its_root(state: State, store: SecretStore) -> None:
    state.issuers["local-edge"] = {"certificate": "CA\n"}
    issued = store.issue_certificate("edge", "n8n", ["n8n.localhost"], [], 90)
    assert issued["certificate"].startswith("CERT") and "CA" not in issued["certificate"]
    assert (issued["ca"], issued["private_key"]) == ("CA", "KEY")


def test_no_file_means_not_set_up(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="not set up yet"):
        SecretStore.from_params({"store_file": str(tmp_path / "none"), "environment": "local"})


def test_a_sealed_store_is_unavailable_and_named(state: State, store: SecretStore) -> None:
    state.sealed = True
    with pytest.raises(StoreUnavailable, match=r"unix://.* is sealed"):
        store.get("a")
    assert store.health().sealed


def test_no_answer_is_unavailable(store: SecretStore) -> None:
    with pytest.raises(StoreUnavailable, match="no answer"):
        store.get("a")


def test_a_refused_approle_is_told_from_an_unavailable_store(state: State, store: SecretStore) -> None:
    state.secret_ids = []
    with pytest.raises(StoreError, match="refuses our AppRole") as refused:
        store.get("a")
    assert not isinstance(refused.value, StoreUnavailable)
    assert "secret" not in str(refused.value).replace("the secret store", "").replace("secret_id", "")


def test_access_names_the_missing_right(state: State, store: SecretStore) -> None:
    store.check_access()
    state.capabilities = ["read", "update"]
    with pytest.raises(StoreError, match="does not let our AppRole create kv/data/local/any"):
        store.check_access()


def test_waiting_ends_with_the_reason(state: State, store: SecretStore) -> None:
    assert store.client.wait(1).active
    state.sealed = True
    assert store.client.wait(1, ready=False).sealed
    with pytest.raises(StoreUnavailable, match="was not ready within 0 s: sealed"):
        store.client.wait(0)
