"""Making secrets in the store and writing the files of services."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import platform_secrets
import pytest
from ansible.module_utils.n8n_platform.openbao import StoreUnavailable
from ansible.module_utils.n8n_platform.secrets import SecretError
from openbao_server import State, serving

ME = f"{os.getuid()}:{os.getgid()}"


@pytest.fixture(autouse=True)
def state(tmp_path: Path) -> Iterator[State]:
    state = State()
    state.initialized, state.secret_ids = True, ["secret"]
    state.issuers = {f"local-{name}": {"certificate": f"CA {name}"} for name in ("edge", "internal")}
    store = {"address": f"unix://{tmp_path}/s", "role_id": "role", "secret_id": "secret"}
    (tmp_path / "store.json").write_text(json.dumps(store))
    with serving(tmp_path / "s", state):
        yield state


def module(root: Path, entries: list[dict[str, Any]], check_mode: bool = False, **more: Any) -> Any:
    defaults = {name: option.get("default") for name, option in platform_secrets._SECRET.items()}
    params = {
        "state": "present",
        "store_file": str(root / "store.json"),
        "environment": "local",
        "secrets": [{**defaults, "dns_names": [], "ip_addresses": [], **entry} for entry in entries],
        "services": {},
        "secrets_root": str(root / "secrets"),
        "releases_root": str(root / "releases"),
        "domain": "localhost",
        "versions_file": str(root / "versions.json"),
        "ca_file": str(root / "ca.crt"),
        **more,
    }
    return SimpleNamespace(params=params, check_mode=check_mode, no_log_values=set())


def run(root: Path, entries: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return platform_secrets.run(module(root, entries, **more))


PASSWORD = {"name": "pw", "kind": "password"}
WEB = {"web": {"user": ME, "secrets": ["pw"]}}


def test_makes_once_then_changes_nothing(tmp_path: Path, state: State) -> None:
    first = run(tmp_path, [PASSWORD], services=WEB)
    assert first["secrets_changed"] == ["pw"] and first["versions"] == {"pw": 1}
    file = tmp_path / "secrets/web/pw"
    assert file.read_text() == state.kv["local/pw"][-1]["value"]
    assert file.stat().st_mode & 0o7777 == 0o400
    second = run(tmp_path, [PASSWORD], services=WEB)
    assert not second["changed"] and second["files"] == [] and len(state.kv["local/pw"]) == 1


def test_versions_and_ca_are_left_for_others(tmp_path: Path) -> None:
    run(tmp_path, [PASSWORD])
    assert json.loads((tmp_path / "versions.json").read_text()) == {"pw": 1}
    assert (tmp_path / "ca.crt").read_text() == "CA edge\n"
    assert (tmp_path / "ca.crt").stat().st_mode & 0o7777 == 0o444


def test_no_value_is_in_the_result(tmp_path: Path, state: State) -> None:
    given = {"name": "smtp", "kind": "provided", "value": "smtp"}
    found = json.dumps(run(tmp_path, [PASSWORD, given], services=WEB))
    assert state.kv["local/pw"][-1]["value"] not in found
    assert json.loads(found)["versions"] == {"pw": 1, "smtp": 1}


def test_a_harmed_file_is_repaired_and_a_stray_one_removed(tmp_path: Path) -> None:
    run(tmp_path, [PASSWORD], services=WEB)
    file = tmp_path / "secrets/web/pw"
    file.chmod(0o600)
    file.write_text("x")
    (tmp_path / "secrets/gone").mkdir()
    (tmp_path / "secrets/gone/pw").write_text("x")
    found = run(tmp_path, [PASSWORD], services=WEB)
    assert found["files"] == [str(file), str(tmp_path / "secrets/gone/pw")] and found["secrets_changed"] == []
    assert not (tmp_path / "secrets/gone").exists()
    assert not run(tmp_path, [PASSWORD], services=WEB)["changed"]


def test_a_file_that_a_kept_release_names_stays(tmp_path: Path) -> None:
    run(tmp_path, [PASSWORD], services=WEB)
    (tmp_path / "releases/1").mkdir(parents=True)
    (tmp_path / "releases/1/compose.yaml").write_text(f"file: {tmp_path}/secrets/web/pw\n")
    run(tmp_path, [PASSWORD])
    assert (tmp_path / "secrets/web/pw").exists()
    (tmp_path / "releases/1/compose.yaml").unlink()
    run(tmp_path, [PASSWORD])
    assert not (tmp_path / "secrets/web").exists()


def test_check_mode_before_there_is_a_store(tmp_path: Path) -> None:
    (tmp_path / "store.json").unlink()
    found = run(tmp_path, [PASSWORD], services=WEB, check_mode=True)
    assert found["changed"] and found["secrets_changed"] == ["pw"] and found["versions"] == {}
    with pytest.raises(StoreUnavailable):
        run(tmp_path, [PASSWORD], services=WEB)
    assert not (tmp_path / "secrets").exists()


def test_check_mode_writes_nothing_anywhere(tmp_path: Path, state: State) -> None:
    found = run(tmp_path, [PASSWORD], services=WEB, check_mode=True)
    assert found["files"] == [str(tmp_path / "secrets/web/pw"), *found["files"][1:]]
    assert state.kv["local/pw"] == [] and not (tmp_path / "secrets").exists()


def test_a_store_that_is_down_says_nothing_about_its_content(tmp_path: Path, state: State) -> None:
    state.sealed = True
    guarded = {"name": "key", "kind": "create_only", "guard_path": str(tmp_path)}
    found = run(tmp_path, [guarded], check_mode=True)
    assert not found["changed"]
    with pytest.raises(StoreUnavailable, match="sealed"):
        run(tmp_path, [guarded])


class TestEncryptionKey:
    """The one secret that must never be made anew."""

    @pytest.fixture
    def key(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "pg").mkdir()
        return {
            "name": "key",
            "kind": "create_only",
            "guard_path": str(tmp_path / "pg"),
            "fingerprint_path": str(tmp_path / "pg/fp"),
            "variable": "n8n_encryption_key_import_file",
        }

    def test_made_once_with_a_fingerprint(self, tmp_path: Path, state: State, key: dict[str, Any]) -> None:
        run(tmp_path, [key])
        made = state.kv["local/key"][-1]["value"]
        assert made not in (tmp_path / "pg/fp").read_text()
        (tmp_path / "pg/base").mkdir()
        assert not run(tmp_path, [key])["changed"] and len(state.kv["local/key"]) == 1

    def test_data_without_a_key_is_refused(self, tmp_path: Path, state: State, key: dict[str, Any]) -> None:
        (tmp_path / "pg/base").mkdir()
        with pytest.raises(SecretError, match=r"secret key: .*Set n8n_encryption_key_import_file"):
            run(tmp_path, [PASSWORD, key])
        with pytest.raises(SecretError, match=rf"secret key: .*make recover\), or move {tmp_path}/pg away"):
            run(tmp_path, [PASSWORD, {**key, "variable": None}])
        assert not any(state.kv.values())

    def test_another_key_is_refused(self, tmp_path: Path, state: State, key: dict[str, Any]) -> None:
        run(tmp_path, [key])
        (tmp_path / "pg/base").mkdir()
        state.kv["local/key"].append({"value": "another"})
        with pytest.raises(SecretError, match="the value in the store is not the one that the data in"):
            run(tmp_path, [key])

    def test_an_import_is_taken_once(self, tmp_path: Path, state: State, key: dict[str, Any]) -> None:
        (tmp_path / "pg/base").mkdir()
        assert run(tmp_path, [{**key, "value": "former"}])["secrets_changed"] == ["key"]
        assert state.kv["local/key"] == [{"value": "former"}]
        assert not run(tmp_path, [{**key, "value": "former"}])["changed"]
        with pytest.raises(
            SecretError, match="n8n_encryption_key_import_file differs from the value in the store"
        ):
            run(tmp_path, [{**key, "value": "another"}])

    def test_a_wrong_import_is_refused(self, tmp_path: Path, state: State, key: dict[str, Any]) -> None:
        run(tmp_path, [key])
        (tmp_path / "pg/base").mkdir()
        state.kv.clear()
        with pytest.raises(SecretError, match="the value in n8n_encryption_key_import_file is not the one"):
            run(tmp_path, [{**key, "value": "another"}])

    def test_gone_data_sets_the_fingerprint_free(
        self, tmp_path: Path, state: State, key: dict[str, Any]
    ) -> None:
        (tmp_path / "pg/fp").write_text("former\n")
        run(tmp_path, [key])
        assert (tmp_path / "pg/fp").read_text() != "former\n"


def test_a_provided_value_follows_the_operator(tmp_path: Path, state: State) -> None:
    entry = {"name": "smtp", "kind": "provided", "variable": "n8n_smtp_password"}
    assert run(tmp_path, [entry])["secrets_changed"] == []
    with pytest.raises(
        SecretError, match="secret smtp: service web reads it, but n8n_smtp_password is not set"
    ):
        run(tmp_path, [entry], services={"web": {"user": ME, "secrets": ["smtp"]}})
    assert run(tmp_path, [{**entry, "value": "a"}])["versions"] == {"smtp": 1}
    assert run(tmp_path, [{**entry, "value": "b"}])["versions"] == {"smtp": 2}
    assert not run(tmp_path, [entry])["changed"]


def test_a_value_that_stands_for_two_never_replaces_another_that_is_stored(
    tmp_path: Path, state: State
) -> None:
    def pair(writes: str, prunes: str) -> list[dict[str, Any]]:
        own = {"name": "writes", "kind": "provided", "variable": "object_storage_writes", "value": writes}
        other = {"name": "prunes", "kind": "provided", "variable": "object_storage_prunes", "value": prunes}
        return [own, {**other, "falls_back_to": "writes"}]

    run(tmp_path, pair("a", "a"))
    # Left by a run that ended between the two.
    state.kv["local/prunes"].append({"value": "b"})
    assert run(tmp_path, pair("b", "b"))["secrets_changed"] == ["writes"]
    assert run(tmp_path, pair("c", "c"))["secrets_changed"] == ["prunes", "writes"], "one pair is one"
    run(tmp_path, pair("c", "p"))
    left_out = [{name: each for name, each in entry.items() if name != "value"} for entry in pair("", "")]
    assert run(tmp_path, left_out)["secrets_changed"] == [], "a run that is given none"
    with pytest.raises(
        SecretError, match="secret prunes: the store has one of its own.* object_storage_prunes with"
    ):
        run(tmp_path, pair("d", "d"))
    assert state.kv["local/writes"][-1]["value"] == "c", "before anything is written"
    assert run(tmp_path, pair("d", "q"))["secrets_changed"] == ["prunes", "writes"]


def test_what_is_derived_of_nothing_is_left_out_or_refused(tmp_path: Path) -> None:
    entries = [
        {"name": "smtp", "kind": "provided", "variable": "n8n_smtp_password"},
        {"name": "conf", "kind": "derived", "template": "pass={smtp}"},
    ]
    assert run(tmp_path, entries)["versions"] == {}
    with pytest.raises(SecretError, match="service web reads it, but n8n_smtp_password is not set"):
        run(tmp_path, entries, services={"web": {"user": ME, "secrets": ["conf"]}})


def test_derived_values_follow_their_sources(tmp_path: Path, state: State) -> None:
    entries = [
        {"name": "users", "kind": "derived", "template": "admin:{hashed}"},
        {"name": "hashed", "kind": "derived", "hash": "bcrypt", "of": "pw"},
        PASSWORD,
    ]
    run(tmp_path, entries)
    assert not run(tmp_path, entries)["changed"]
    before = state.kv["local/users"][-1]["value"]
    state.kv["local/pw"].append({"value": "rotated"})
    assert run(tmp_path, entries)["secrets_changed"] == ["hashed", "users"]
    assert state.kv["local/users"][-1]["value"] != before
    assert state.kv["local/users"][-1]["value"] == "admin:" + state.kv["local/hashed"][-1]["value"]
    assert not run(tmp_path, entries)["changed"]


TLS = {"name": "tls", "kind": "certificate", "dns_names": ["db"], "ttl_days": 90}
DB = {"db": {"user": ME, "secrets": ["tls.crt", "tls.key"]}, "web": {"user": ME, "secrets": ["tls.ca"]}}


def test_a_certificate_is_three_files_of_one_version(tmp_path: Path, state: State) -> None:
    found = run(tmp_path, [TLS], services=DB)
    assert found["versions"] == {"tls.crt": 1, "tls.key": 1, "tls.ca": 1}
    assert (tmp_path / "secrets/db/tls.key").read_text() == "KEY"
    assert (tmp_path / "secrets/web/tls.ca").read_text() == "CA internal"
    assert not run(tmp_path, [TLS], services=DB)["changed"]


def test_names_below_the_domain_are_signed_by_the_edge(tmp_path: Path, state: State) -> None:
    run(tmp_path, [{**TLS, "dns_names": ["n8n.localhost"]}])
    assert ("POST", "pki/issue/local-edge") in state.requests
    assert ("POST", "pki/issue/local-internal") not in state.requests


@pytest.mark.parametrize(("days", "due"), [(31, False), (29, True)])
def test_renewed_when_less_than_a_third_is_left(tmp_path: Path, state: State, days: int, due: bool) -> None:
    run(tmp_path, [TLS])
    state.kv["local/tls"][-1]["expires"] = time.time() + days * 86400
    assert run(tmp_path, [TLS], check_mode=True)["secrets_changed"] == (["tls"] if due else [])
    assert run(tmp_path, [TLS])["versions"]["tls.crt"] == 1 + due


@pytest.mark.parametrize(
    "change", [{"dns_names": ["db", "db2"]}, {"ip_addresses": ["127.0.0.1"]}, {"common_name": "x"}]
)
def test_renewed_when_asked_for_something_else(tmp_path: Path, state: State, change: dict[str, Any]) -> None:
    run(tmp_path, [TLS])
    assert run(tmp_path, [{**TLS, **change}])["secrets_changed"] == ["tls"]


def test_renewed_when_its_issuer_was_replaced(tmp_path: Path, state: State) -> None:
    run(tmp_path, [TLS])
    state.issuers["local-internal"] = {"certificate": "CA new"}
    assert run(tmp_path, [TLS])["secrets_changed"] == ["tls"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([PASSWORD, PASSWORD], "secret pw: is contributed twice"),
        ([{"name": "A b", "kind": "password"}], "secret A b: its name"),
        ([{**TLS, "dns_names": []}], "secret tls: dns_names is empty"),
        ([{"name": "d", "kind": "derived"}], "secret d: needs either template, or hash and of"),
        ([PASSWORD, {"name": "d", "kind": "derived", "hash": "bcrypt"}], "secret d: needs either"),
    ],
)
def test_contributions_are_checked(tmp_path: Path, entries: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(SecretError, match=words):
        run(tmp_path, entries)


def test_verifying_changes_nothing(tmp_path: Path, state: State) -> None:
    run(tmp_path, [PASSWORD], services=WEB)
    (tmp_path / "secrets/web/pw").unlink()
    found = run(tmp_path, [PASSWORD, {"name": "b", "kind": "hex"}], services=WEB, state="verified")
    assert found["secrets_changed"] == ["b"] and found["files"] == [str(tmp_path / "secrets/web/pw")]
    assert not (tmp_path / "secrets/web/pw").exists() and not state.kv["local/b"]
