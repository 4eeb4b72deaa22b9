"""Preparing, setting up and checking the store, and being killed while doing so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import platform_openbao
import pytest
from ansible.module_utils.n8n_platform import openbao_setup
from ansible.module_utils.n8n_platform.openbao import BaoClient, StoreError, StoreUnavailable
from openbao_server import State, serving


class Killed(BaseException):
    """Not an Exception: nothing may catch it on the way."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with serving(tmp_path / "run/s", State()) as state:
        yield state


def params(root: Path, **more: Any) -> dict[str, Any]:
    defaults = {name: option.get("default") for name, option in platform_openbao._STORE.items()}
    own = {
        "environment": "local",
        "address": f"unix://{root}/run/s",
        "store_file": str(root / "state/store.json"),
        "record_file": str(root / "state/record.json"),
        "seal_directory": str(root / "seal"),
        "data_directory": str(root / "data"),
        "owner": os.getuid(),
        "policy": "path",
        "edge_names": ["localhost"],
        "wait_seconds": 1,
    }
    return {**defaults, **own, **more}


def manager(state: str, store: dict[str, Any]) -> platform_openbao.Manager:
    return platform_openbao.Manager({"state": state, "store": store})


def run(root: Path, state: str, check_mode: bool = False, **more: Any) -> tuple[list[str], list[str]]:
    """Steps and warnings."""
    found = manager(state, params(root, **more))
    steps = found.plan()
    if not check_mode:
        found.apply(steps)
    return steps, found.warnings


def set_up(root: Path, **more: Any) -> None:
    run(root, "prepared", **more)
    run(root, "configured", **more)


def record(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "state/record.json").read_text())
    return found


def test_the_first_run_sets_up_and_the_second_changes_nothing(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    assert set(state.mounts) == {"kv/", "pki/"} and state.policies == {"local-deployer": "path"}
    assert state.issuers["local-edge"]["permitted_dns_domains"] == ["localhost"]
    before = len(state.secret_ids), record(tmp_path)
    assert run(tmp_path, "prepared") == ([], [])
    assert run(tmp_path, "configured") == ([], [])
    assert run(tmp_path, "verified") == ([], [])
    assert (len(state.secret_ids), record(tmp_path)) == before


def test_no_root_token_survives(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    assert "root_token" not in record(tmp_path)
    assert ("POST", "auth/token/revoke-self") in state.requests


def test_keys_are_for_root_only(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    modes = {
        path: (tmp_path / path).stat().st_mode & 0o7777 for path in ("state/record.json", "state/store.json")
    }
    assert modes == {"state/record.json": 0o600, "state/store.json": 0o600}
    assert (tmp_path / "seal/openbao.key").stat().st_mode & 0o7777 == 0o400
    assert (tmp_path / "run").stat().st_mode & 0o7777 == 0o700


def test_check_mode_says_what_is_missing_and_makes_nothing(tmp_path: Path) -> None:
    steps, _ = run(tmp_path, "prepared", check_mode=True)
    assert "make seal key" in steps
    assert run(tmp_path, "configured", check_mode=True)[0] == ["initialise", "set up"]
    assert list(tmp_path.iterdir()) == []


def killed(monkeypatch: pytest.MonkeyPatch, root: Path, event: int, **more: Any) -> None:
    """Runs `configured` and ends it after the event-th request, or before the event-th write of the record."""
    left = [event]
    call, update = BaoClient.call, openbao_setup.Record.update

    def tick() -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    def killed_call(self: Any, method: str, path: str, *rest: Any, **body: Any) -> Any:
        answer = call(self, method, path, *rest, **body)
        if path != "sys/health":
            tick()
        return answer

    def killed_update(self: Any, **values: Any) -> None:
        tick()
        update(self, **values)

    with monkeypatch.context() as killing, suppress(Killed):
        killing.setattr(BaoClient, "call", killed_call)
        killing.setattr(openbao_setup.Record, "update", killed_update)
        run(root, "configured", **more)


@pytest.mark.parametrize("event", range(1, 27))
def test_killed_at_any_request_or_write_the_next_run_converges(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, event: int
) -> None:
    run(tmp_path, "prepared")
    killed(monkeypatch, tmp_path, event)
    generation = record(tmp_path)["generation"]
    run(tmp_path, "prepared")
    if record(tmp_path)["generation"] != generation:
        # Another data directory: the server has nothing in it yet.
        state.__init__()  # type: ignore[misc]
    run(tmp_path, "configured")
    assert run(tmp_path, "configured") == ([], [])
    assert run(tmp_path, "verified") == ([], [])
    assert not {"root_token", "abandoned"} & set(record(tmp_path))


# Between the answer with a root token (4) and its recording (5) nobody knows that token, and nobody can learn it.
@pytest.mark.parametrize("event", [event for event in range(1, 22) if event not in (4, 5)])
def test_killed_while_changing_the_set_up_no_root_token_is_left(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, event: int
) -> None:
    set_up(tmp_path)
    killed(monkeypatch, tmp_path, event, policy="other")
    set_up(tmp_path, policy="other")
    assert state.policies == {"local-deployer": "other"} and not state.root_tokens
    assert run(tmp_path, "configured", policy="other") == ([], [])


def test_a_cut_off_initialisation_begins_anew(tmp_path: Path, state: State) -> None:
    run(tmp_path, "prepared")
    (tmp_path / "data/1").mkdir(parents=True)
    openbao_setup.Record(tmp_path / "state/record.json").update(phase="started")
    found = manager("prepared", params(tmp_path))
    found.apply(found.plan())
    assert found.store.result == {"generation": 2}
    run(tmp_path, "configured")
    assert not (tmp_path / "data/1").exists()


def test_keys_once_recorded_are_never_given_up(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    state.initialized = False
    with pytest.raises(StoreError, match=r"the store is empty, but .*record\.json says that it was set up"):
        run(tmp_path, "configured", policy="other")
    assert run(tmp_path, "prepared") == ([], [])


def test_a_new_internal_name_replaces_the_internal_issuer_only(tmp_path: Path, state: State) -> None:
    names = [["n8n.localhost"], ["db", "localhost"]]
    set_up(tmp_path, certificates=names)
    edge, internal = state.issuers["local-edge"], state.issuers["local-internal"]
    assert internal["permitted_dns_domains"] == ["db", "localhost"]
    set_up(tmp_path, certificates=[*names, ["cache"]])
    assert state.issuers["local-edge"] is edge
    assert state.issuers["local-internal"]["permitted_dns_domains"] == ["cache", "db", "localhost"]
    assert state.issuers[f"local-internal-{internal['issuer_id']}"] is internal


def test_fewer_names_change_nothing(tmp_path: Path, state: State) -> None:
    set_up(tmp_path, certificates=[["db"]])
    assert run(tmp_path, "configured") == ([], [])


def test_a_changed_policy_takes_a_root_token_for_a_moment(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    assert run(tmp_path, "configured", policy="other")[0] == ["set up"]
    assert state.policies == {"local-deployer": "other"}
    assert ("POST", "sys/generate-root-token/update") in state.requests
    assert "root_token" not in record(tmp_path)


def test_a_missing_seal_key_is_refused_while_there_is_data(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    (tmp_path / "data/1").mkdir(parents=True)
    (tmp_path / "seal/openbao.key").unlink()
    for check_mode in (True, False):
        with pytest.raises(StoreError, match=r"the seal key .* is missing.*No new key is made"):
            run(tmp_path, "prepared", check_mode)
    assert not (tmp_path / "seal/openbao.key").exists()


def test_a_damaged_seal_key_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "prepared")
    key = tmp_path / "seal/openbao.key"
    key.chmod(0o600)
    key.write_text("short")
    with pytest.raises(StoreError, match="damaged"):
        run(tmp_path, "prepared")


def test_a_missing_record_is_refused_while_there_is_data(tmp_path: Path) -> None:
    run(tmp_path, "prepared")
    (tmp_path / "data/1").mkdir(parents=True)
    (tmp_path / "state/record.json").unlink()
    with pytest.raises(StoreError, match=r"record\.json is missing"):
        run(tmp_path, "prepared")


def test_a_lost_store_file_is_written_again(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    (tmp_path / "state/store.json").unlink()
    with pytest.raises(StoreError, match="run the site playbook"):
        run(tmp_path, "verified")
    assert run(tmp_path, "configured")[0] == ["write store file"]
    assert run(tmp_path, "verified") == ([], [])


def test_verify_warns_of_the_seal_key_where_asked(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    assert "seal key" in run(tmp_path, "verified", report_seal_key=True)[1][0]


def test_a_sealed_store_is_named(tmp_path: Path, state: State) -> None:
    set_up(tmp_path)
    state.sealed = True
    with pytest.raises(StoreUnavailable, match="sealed"):
        run(tmp_path, "configured")


def test_a_socket_path_beyond_the_kernels_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="platform_root is too long"):
        run(tmp_path, "prepared", address=f"unix:///{'x' * 120}/s")


def test_a_large_audit_log_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text("12345")
    openbao_setup.rotate_audit(log, limit_bytes=5)
    assert log.read_text() == "12345"
    openbao_setup.rotate_audit(log, limit_bytes=4)
    assert (log.read_text(), (tmp_path / "audit.log.1").read_text()) == ("", "12345")


@pytest.mark.parametrize("planted", ["audit.log", "audit.log.1"])
def test_a_link_among_the_audit_logs_changes_no_file_of_the_host(tmp_path: Path, planted: str) -> None:
    (tmp_path / "host").write_text("of the host")
    (tmp_path / "audit").mkdir()
    log = tmp_path / "audit/audit.log"
    log.write_text("12345")
    (tmp_path / "audit" / planted).unlink(missing_ok=True)
    (tmp_path / "audit" / planted).symlink_to(tmp_path / "host")
    if planted == "audit.log":
        with pytest.raises(OSError, match="audit.log is in the way: it is not a file"):
            openbao_setup.rotate_audit(log, limit_bytes=4)
        assert not (tmp_path / "audit/audit.log.1").exists()
    else:
        openbao_setup.rotate_audit(log, limit_bytes=4)
        assert (log.read_text(), (tmp_path / "audit/audit.log.1").read_text()) == ("", "12345")
    assert (tmp_path / "host").read_text() == "of the host"


def external(root: Path, state: str, check_mode: bool = False, **more: Any) -> list[str]:
    # The kind of store is told by the address, and the fake one has a socket: so it is made by hand.
    found = manager(state, params(root))
    found.store = platform_openbao.ExternalStore(
        params(root, **{"role_id": "role", "secret_id": "secret", **more})
    )
    steps = found.plan()
    if not check_mode:
        found.apply(steps)
    return steps


def test_an_external_store_is_checked_and_left_alone(tmp_path: Path, state: State) -> None:
    state.initialized, state.secret_ids = True, ["secret"]
    assert external(tmp_path, "prepared", check_mode=True, ca_certificate="PEM") != []
    assert not (tmp_path / "state").exists()
    external(tmp_path, "prepared", ca_certificate="PEM")
    assert external(tmp_path, "prepared", ca_certificate="PEM") == []
    assert external(tmp_path, "configured", ca_certificate="PEM") == []
    assert (tmp_path / "state/openbao-ca.pem").read_text() == "PEM"
    assert {path for method, path in state.requests if method != "GET"} == {
        "auth/approle/login",
        "sys/capabilities-self",
    }


@pytest.mark.parametrize(
    ("sealed", "initialized", "words"), [(True, True, "is sealed"), (False, False, "is not initialised")]
)
def test_an_unusable_external_store_is_refused_first(
    tmp_path: Path, state: State, sealed: bool, initialized: bool, words: str
) -> None:
    state.sealed, state.initialized = sealed, initialized
    with pytest.raises(StoreUnavailable, match=f"secrets_openbao_address: .* {words}"):
        external(tmp_path, "prepared")
    assert not (tmp_path / "state").exists()


def test_an_external_store_needs_an_approle(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="secrets_openbao_role_id and secrets_openbao_secret_id_file"):
        external(tmp_path, "prepared", secret_id="")
