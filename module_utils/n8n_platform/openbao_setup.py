"""Initialising and setting up an OpenBao of our own, so that being killed at any point loses nothing.

What is known stands in a root-only record: `generation` (number of the data directory), `phase` (`new`, `started`:
asked for initialisation but no answer recorded, `initialised`), `recovery_key`, `root_token` (only until the set-up
is done), `role_id`, `secret_id`, `setup` (digest of what was set up), `domains` (names each issuer may sign),
`restored` (digest of the snapshot that the store was restored from).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.files import open_regular, replacing, write_file
from ansible.module_utils.n8n_platform.openbao import BaoClient, SecretStore, StoreError

SEAL_KEY = "openbao.key"
# Hexadecimal, because the server trims white space off a raw key.
SEAL_KEY_LENGTH = 64
_CA_TTL = "87600h"
_LOGIN_TTL = "15m"
_KV_UPGRADE_SECONDS = 20.0


class Record:
    """The record in its file; every `update` is on disk, whole, before it returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        if path.exists():
            try:
                self._values = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise StoreError(f"{path} cannot be read: {error}; restore it from a backup") from None

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    @property
    def values(self) -> dict[str, Any]:
        return dict(self._values)

    @property
    def phase(self) -> str:
        return str(self.get("phase", "new"))

    @property
    def generation(self) -> int:
        return int(self.get("generation", 1))

    def update(self, **values: Any) -> None:
        """None removes a key."""
        merged = {**self._values, **values}
        self._values = {key: value for key, value in merged.items() if value is not None}
        write_file(self.path, json.dumps(self._values, indent=2, sort_keys=True) + "\n", mode=0o600)


class StoreManager:
    """What both kinds of store share: the file by which other modules reach them."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.store_file = Path(params["store_file"])
        self.result: dict[str, Any] = {}

    def connection(self) -> dict[str, str]:
        raise NotImplementedError

    def store(self) -> SecretStore:
        return SecretStore(self.connection(), self.params["environment"])

    def store_text(self) -> str:
        return json.dumps(self.connection(), indent=2, sort_keys=True) + "\n"

    def plan_store_file(self) -> list[str]:
        there = self.store_file.exists() and self.store_file.read_text(encoding="utf-8") == self.store_text()
        return [] if there else ["write store file"]

    def write_store_file(self) -> None:
        self.store_file.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.store_file, self.store_text(), mode=0o600)

    def verify(self) -> list[str]:
        """Raises StoreError unless the store is unsealed and takes our AppRole."""
        self.store().login()
        if steps := self.plan_store_file():
            raise StoreError(f"{self.store_file} is out of date ({steps[0]}): run the site playbook")
        return []


def refuse_lost_parts(seal_key: Path, data: Path, record: Record) -> None:
    """Raises StoreError when data is there, but not what opens it: a new key would only hide the loss."""
    used = data.is_dir() and any(data.iterdir())
    if seal_key.exists():
        if seal_key.stat().st_size != SEAL_KEY_LENGTH:
            raise StoreError(f"the seal key {seal_key} is damaged: restore it from a backup")
    elif used:
        raise StoreError(
            f"the seal key {seal_key} is missing, and {data} holds a store that only it opens: "
            "restore it from a backup. No new key is made"
        )
    if used and not record.path.exists():
        raise StoreError(
            f"{record.path} is missing, and {data} holds a store whose recovery key and AppRole stand only there: "
            "restore it from a backup"
        )


@dataclass(frozen=True)
class Setup:
    """What the store should look like. `domains`: names per issuer, `edge` and `internal`; sub-domains are included."""

    environment: str
    mount: str
    pki_mount: str
    policy: str
    domains: dict[str, list[str]] = field(default_factory=dict)

    def widened(self, known: dict[str, list[str]]) -> Setup:
        """With the names that issuers sign already: one is replaced only when a name is missing, never to narrow it."""
        both = {
            issuer: {*self.domains.get(issuer, []), *known.get(issuer, [])}
            for issuer in {*self.domains, *known}
        }
        domains = {issuer: sorted(names) for issuer, names in both.items() if names}
        return Setup(self.environment, self.mount, self.pki_mount, self.policy, domains)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()

    @property
    def role(self) -> str:
        return f"{self.environment}-deployer"


def initialise(client: BaoClient, record: Record) -> None:
    """Initialises an empty store and records its recovery key and root token. The intention is recorded first."""
    record.update(phase="started", generation=record.generation)
    _, answer = client.call("POST", "sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
    record.update(
        phase="initialised", recovery_key=answer["recovery_keys_base64"][0], root_token=answer["root_token"]
    )


def root_client(client: BaoClient, record: Record, store: SecretStore) -> BaoClient:
    """A client with a root token: the one of the initialisation, else a new one from AppRole and recovery key."""
    token = record.get("root_token")
    if token and _is_valid(client, token):
        return _with_token(client, token)
    store.call("DELETE", "sys/generate-root-token/attempt")
    _, begun = store.call("POST", "sys/generate-root-token/attempt", {})
    attempt = begun.get("data") or begun
    share = {"key": record.get("recovery_key"), "nonce": attempt["nonce"]}
    _, answer = store.call("POST", "sys/generate-root-token/update", share)
    encoded = (answer.get("data") or answer)["encoded_token"]
    token = _decode(encoded, attempt["otp"])
    # Recorded, so that a run killed from here on leaves no root token that nobody revokes.
    record.update(root_token=token)
    return _with_token(client, token)


def revoke_root(root: BaoClient, record: Record) -> None:
    root.call("POST", "auth/token/revoke-self", {})
    record.update(root_token=None)


def apply_setup(root: BaoClient, setup: Setup, record: Record) -> None:
    """Engines, issuers, policy and AppRole; each step can be repeated. Credentials end up in the record."""
    _, mounts = root.call("GET", "sys/mounts")
    present = mounts.get("data") or mounts
    if f"{setup.mount}/" not in present:
        root.call("POST", f"sys/mounts/{setup.mount}", {"type": "kv", "options": {"version": "2"}})
    if f"{setup.pki_mount}/" not in present:
        root.call(
            "POST", f"sys/mounts/{setup.pki_mount}", {"type": "pki", "config": {"max_lease_ttl": _CA_TTL}}
        )
    for issuer, names in sorted(setup.domains.items()):
        _apply_issuer(root, setup, issuer, names, record)
    _apply_approle(root, setup, record)
    _await_kv(root, setup.mount)


def rotate_audit(path: Path, limit_bytes: int = 64 * 2**20) -> None:
    """Keeps one former audit log. Copied and emptied, since the server appends to the file that it has open. Raises
    OSError: its folder is the server's, and a symlink in it is not followed."""
    with suppress(FileNotFoundError), open_regular(path, os.O_RDWR) as log:
        status = os.fstat(log.fileno())
        if status.st_size > limit_bytes:
            former, mode = path.with_name(f"{path.name}.1"), stat.S_IMODE(status.st_mode)
            with replacing(former, status.st_uid, status.st_gid, mode) as copy:
                shutil.copyfileobj(log, copy)
            log.truncate(0)


def _apply_issuer(root: BaoClient, setup: Setup, issuer: str, names: list[str], record: Record) -> None:
    name = f"{setup.environment}-{issuer}"
    path = f"{setup.pki_mount}/issuer/{name}"
    status, found = root.call("GET", path, allowed=(400, 404, 500))
    known = record.get("domains", {})
    if status >= 400 or known.get(issuer) != names:
        if status < 400:
            # Certificates of the former issuer stay valid; only its name goes to the successor.
            former = found["data"]["issuer_id"]
            root.call("POST", f"{setup.pki_mount}/issuer/{former}", {"issuer_name": f"{name}-{former[:8]}"})
        root.call(
            "POST",
            f"{setup.pki_mount}/root/generate/internal",
            {
                "issuer_name": name,
                "common_name": f"n8n platform {setup.environment} {issuer} CA",
                "exclude_cn_from_sans": True,
                "ttl": _CA_TTL,
                "key_type": "ec",
                "key_bits": 256,
                "permitted_dns_domains": names,
            },
        )
        record.update(domains={**known, issuer: names})
    root.call(
        "POST",
        f"{setup.pki_mount}/roles/{name}",
        {
            "issuer_ref": name,
            "allowed_domains": names,
            "allow_bare_domains": True,
            "allow_subdomains": True,
            "allow_wildcard_certificates": True,
            # A client's certificate may carry a user's name as its subject.
            "cn_validations": "disabled",
            "key_type": "ec",
            "key_bits": 256,
            "max_ttl": "9600h",
        },
    )


def _apply_approle(root: BaoClient, setup: Setup, record: Record) -> None:
    root.call("POST", f"sys/policies/acl/{setup.role}", {"policy": setup.policy})
    _, methods = root.call("GET", "sys/auth")
    if "approle/" not in (methods.get("data") or methods):
        root.call("POST", "sys/auth/approle", {"type": "approle"})
    path = f"auth/approle/role/{setup.role}"
    # Batch tokens leave nothing behind in the store and end by themselves.
    limits = {"token_type": "batch", "token_ttl": _LOGIN_TTL, "token_max_ttl": _LOGIN_TTL}
    root.call("POST", path, {"token_policies": [setup.role], "token_no_default_policy": True, **limits})
    _, role = root.call("GET", f"{path}/role-id")
    if record.get("role_id") != role["data"]["role_id"] or not record.get("secret_id"):
        _, secret = root.call("POST", f"{path}/secret-id", {})
        record.update(role_id=role["data"]["role_id"], secret_id=secret["data"]["secret_id"])


def _await_kv(root: BaoClient, mount: str) -> None:
    # A new KV engine refuses requests for a moment while it upgrades itself to version 2.
    deadline = time.monotonic() + _KV_UPGRADE_SECONDS
    while root.call("GET", f"{mount}/config", allowed=(400,))[0] == 400:
        if time.monotonic() > deadline:
            raise StoreError(f"the KV engine {mount}/ did not become ready")
        time.sleep(0.1)


def _is_valid(client: BaoClient, token: str) -> bool:
    return _with_token(client, token).call("GET", "auth/token/lookup-self", allowed=(403,))[0] == 200


def _with_token(client: BaoClient, token: str) -> BaoClient:
    return BaoClient(client.address, token=token)


def _decode(encoded: str, otp: str) -> str:
    raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    return bytes(a ^ b for a, b in zip(raw, otp.encode(), strict=True)).decode()
