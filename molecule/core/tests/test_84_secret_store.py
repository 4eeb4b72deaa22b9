"""A secret store that others run, whose policy allows nothing but what is documented; and stores that do not answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import platform_secrets
import pytest
from ansible.module_utils.n8n_platform.openbao import SecretStore, StoreError, StoreUnavailable
from cryptography import x509

from tests.support.deployment import Deployment
from tests.support.secret_store import ForeignStore, OwnStore

NAMED = "secrets_openbao_address: the secret store"


@pytest.fixture(scope="module")
def image(core: Deployment) -> str:
    return str(core.containers(stopped=True)["openbao"].attrs["Config"]["Image"])


@pytest.fixture(scope="module")
def foreign(core: Deployment, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignStore]:
    with ForeignStore(core.engine, image, tmp_path_factory.mktemp("foreign")) as store:
        yield store


def secrets(target: Path, environment: str = "production") -> dict[str, Any]:
    """A password, a key that is made once, and a certificate of each issuer, for one service."""
    entries = [
        {"name": "password", "kind": "password"},
        {"name": "key", "kind": "create_only", "bytes": 32},
        {"name": "edge", "kind": "certificate", "dns_names": ["n8n.example.org", "*.n8n.example.org"]},
        {"name": "inner", "kind": "certificate", "dns_names": ["postgres-n8n"]},
    ]
    defaults = {name: option.get("default") for name, option in platform_secrets._SECRET.items()}
    files = ["password", "key", "edge.crt", "edge.key", "inner.crt", "inner.ca"]
    params = {
        "state": "present",
        "store_file": str(target / "state/store.json"),
        "environment": environment,
        "secrets": [{**defaults, **entry} for entry in entries],
        "services": {"web": {"user": "1000:1000", "secrets": files}},
        "secrets_root": str(target / "secrets"),
        "releases_root": str(target / "releases"),
        "domain": "n8n.example.org",
        "versions_file": str(target / "state/versions.json"),
        "ca_file": str(target / "ca.crt"),
    }
    return platform_secrets.run(SimpleNamespace(params=params, check_mode=False, no_log_values=set()))


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_documented_rights_are_all_that_a_deployment_needs(foreign: ForeignStore, tmp_path: Path) -> None:
    assert foreign.run("prepared", tmp_path, check=True) == ["write store file", "write CA certificate"]
    assert not list(tmp_path.iterdir())
    foreign.run("prepared", tmp_path)
    assert foreign.run("prepared", tmp_path) == foreign.run("configured", tmp_path) == []
    foreign.run("verified", tmp_path)

    made = secrets(tmp_path)
    assert sorted(made["secrets_changed"]) == ["edge", "inner", "key", "password"]
    web = tmp_path / "secrets/web"
    certificate(web / "edge.crt").verify_directly_issued_by(certificate(tmp_path / "ca.crt"))
    certificate(web / "inner.crt").verify_directly_issued_by(certificate(web / "inner.ca"))
    assert (
        foreign.bao("bao kv get -field=value kv/production/password").strip()
        == (web / "password").read_text()
    )
    assert not secrets(tmp_path)["changed"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "kv/data/staging/password"),
        ("POST", "kv/data/staging/password"),
        ("DELETE", "kv/data/production/password"),
        ("GET", "kv/metadata/production?list=true"),
        ("DELETE", "kv/metadata/production/password"),
        ("POST", "pki/issue/staging-edge"),
        ("GET", "pki/issuer/production-edge"),
        ("POST", "pki/roles/production-edge"),
        ("POST", "pki/root/generate/exported"),
        ("GET", "sys/mounts"),
        ("GET", "sys/policies/acl/production-deployer"),
        ("POST", "sys/policies/acl/production-deployer"),
        ("GET", "sys/storage/raft/snapshot"),
        ("POST", "auth/token/create"),
        ("POST", "auth/approle/role/production-deployer/secret-id"),
    ],
)
def test_nothing_else_is_allowed(foreign: ForeignStore, tmp_path: Path, method: str, path: str) -> None:
    foreign.run("prepared", tmp_path)
    store = SecretStore.from_params(
        {"store_file": str(tmp_path / "state/store.json"), "environment": "production"}
    )
    assert store.call(method, path, {} if method == "POST" else None, allowed=(403,))[0] == 403


RIGHTS = [
    ("kv/data/production/*", "create"),
    ("kv/data/production/*", "read"),
    ("kv/data/production/*", "update"),
    ("pki/issue/production-edge", "update"),
    ("pki/issue/production-internal", "update"),
    ("pki/issuer/production-edge/json", "read"),
    ("pki/issuer/production-internal/json", "read"),
    ("sys/capabilities-self", "update"),
]


def test_each_right_that_is_missing_is_named_before_anything_is_written(
    foreign: ForeignStore, tmp_path: Path
) -> None:
    granted = re.findall(r'path "(.*)" {\n  capabilities = \[(.*)\]', foreign.policy)
    assert [(path, right) for path, rights in granted for right in re.findall(r"\w+", rights)] == RIGHTS
    try:
        for path, right in RIGHTS:
            others = {known: re.findall(r"\w+", rights) for known, rights in granted}
            others[path].remove(right)
            foreign.allow("".join(_rule(known, rights) for known, rights in others.items()))
            said = (
                path.replace("*", "any") if path.startswith("sys/") else f"{right} {path.replace('*', 'any')}"
            )
            with pytest.raises(StoreError, match=rf"^{NAMED} .*{said}"):
                foreign.run("prepared", tmp_path)
    finally:
        foreign.allow(foreign.policy)
    assert not list(tmp_path.iterdir())


def _rule(path: str, rights: list[str]) -> str:
    listed = ", ".join(f'"{right}"' for right in rights or ["deny"])
    return f'path "{path}" {{ capabilities = [{listed}] }}\n'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ca_certificate": ""}, "certificate verify failed"),
        ({"secret_id": "11111111-1111-1111-1111-111111111111"}, "refuses our AppRole"),
        ({"address": "https://127.0.0.1:1"}, "no answer"),
    ],
    ids=["authority", "approle", "address"],
)
def test_a_store_that_cannot_be_used_is_refused(
    foreign: ForeignStore, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(StoreError, match=f"^{NAMED} .*{said}"):
        foreign.run("prepared", tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_a_sealed_and_a_stopped_store_are_refused(foreign: ForeignStore, tmp_path: Path) -> None:
    """The last of the foreign one's: it loses what it holds."""
    used, new = tmp_path / "used", tmp_path / "new"
    foreign.run("prepared", used)
    foreign.seal()
    try:
        refused(foreign, used, new, "is sealed")
    finally:
        foreign.unseal()
    assert foreign.run("prepared", used) == []
    foreign.container.stop(timeout=5)
    refused(foreign, used, new, "no answer")


def refused(foreign: ForeignStore, used: Path, new: Path, said: str) -> None:
    for target in (used, new):
        with pytest.raises(StoreUnavailable, match=f"^{NAMED} {foreign.address}.*{said}"):
            foreign.run("prepared", target)
    with pytest.raises(StoreUnavailable, match=said):
        secrets(used)
    assert not new.exists()
    assert not (used / "secrets").exists()


def test_our_own_store_sealed_or_stopped_is_named_and_nothing_made_anew(
    core: Deployment, image: str, tmp_path: Path
) -> None:
    own = OwnStore(core.engine, image, tmp_path)
    own.policy += 'path "sys/seal" { capabilities = ["update", "sudo"] }\n'
    own.run("prepared")
    with own.serving():
        own.run("configured")
        own.store().put("password", "as it was")
        kept = {path: path.read_bytes() for path in (tmp_path / "state").iterdir()}
        own.store().call("POST", "sys/seal")
        own_store_refused(own, "is sealed", "was not ready within 1 s: sealed")
    own_store_refused(own, "no answer", "was not ready within 1 s: .*no answer")
    assert {path: path.read_bytes() for path in (tmp_path / "state").iterdir()} == kept
    assert own.run("prepared") == []
    with own.serving() as client:
        client.wait(60)
        assert own.run("configured") == []
        assert own.store().get("password") == "as it was"


def own_store_refused(own: OwnStore, said: str, waited: str) -> None:
    named = re.escape(f"the secret store unix://{own.root}/run/api.sock")
    with pytest.raises(StoreUnavailable, match=f"{named}.*{said}"):
        own.run("verified")
    with pytest.raises(StoreUnavailable, match=f"{named} {waited}"):
        own.run("configured", wait_seconds=1)
    with pytest.raises(StoreUnavailable, match=f"{named}.*{said}"):
        secrets(own.root, environment="source")
    assert not (own.root / "secrets").exists()
