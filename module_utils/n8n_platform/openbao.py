"""The secret store of one environment: KV v2 and PKI of an OpenBao (or Vault), reached with an AppRole.

How to reach it stands in one root-only JSON file on the target, written by the secrets role:
`{"address": "unix:///... or https://...", "ca_file": "", "namespace": "", "auth_mount": "approle",
"mount": "kv", "pki_mount": "pki", "role_id": "...", "secret_id": "..."}`. Values never pass through Ansible.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.n8n_platform.http import HttpError, JsonClient

STORE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "store_file": {"type": "path", "required": True},
    "environment": {"type": "str", "required": True},
}

# sys/health speaks in statuses: 429 standby, 472/473 replicas, 501 not initialised, 503 sealed.
_HEALTH_STATUSES = (429, 472, 473, 501, 503)


class StoreError(Exception):
    """The store answered, but not as needed. The text names what was asked for, never a value."""


class StoreUnavailable(StoreError):
    """No store yet, no answer from it, or it is sealed: nothing can be read or written now."""


class StoreConflict(StoreError):
    """Somebody else wrote the secret between our reading and our writing it."""


@dataclass(frozen=True)
class Secret:
    """`version` counts from 1; 0 = not there. `fields` is the whole entry, `value` its field `value`."""

    name: str
    version: int
    fields: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def exists(self) -> bool:
        return bool(self.fields)

    @property
    def value(self) -> str | None:
        return self.fields.get("value")


@dataclass(frozen=True)
class Health:
    initialized: bool
    sealed: bool
    active: bool
    version: str

    @property
    def ready(self) -> bool:
        return self.initialized and not self.sealed


class BaoClient:
    """Requests below /v1 with one token; errors as StoreError that name the address."""

    def __init__(
        self, address: str, ca_file: str = "", namespace: str = "", token: str = "", timeout: float = 15.0
    ) -> None:
        self.address = address
        self._client = JsonClient(address, timeout=timeout, ca_file=ca_file or None)
        self._headers = {"X-Vault-Request": "true"}
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace
        self.token = token

    def call(
        self, method: str, path: str, body: Any = None, allowed: tuple[int, ...] = ()
    ) -> tuple[int, dict[str, Any]]:
        """Status and parsed body ({} when empty). `allowed`: error statuses that are answers to the caller."""
        headers = {**self._headers, "X-Vault-Token": self.token} if self.token else self._headers
        try:
            response = self._client.request(method, f"/v1/{path}", body, headers=headers, allowed=allowed)
            return response.status, response.json or {}
        except HttpError as error:
            if error.status == 503:
                raise StoreUnavailable(f"the secret store {self.address} is sealed") from None
            kind = StoreUnavailable if error.status in (0, 502, 504) else StoreError
            raise kind(f"the secret store {self.address}: {error}") from None
        except ValueError as error:
            raise StoreError(
                f"the secret store {self.address} answered {path} with no JSON: {error}"
            ) from None

    def download(self, path: str) -> bytes:
        """A body that is no JSON."""
        headers = {**self._headers, "X-Vault-Token": self.token}
        try:
            return self._client.request("GET", f"/v1/{path}", headers=headers).body
        except HttpError as error:
            kind = StoreUnavailable if error.status in (0, 502, 503, 504) else StoreError
            raise kind(f"the secret store {self.address}: {error}") from None

    def health(self) -> Health:
        """Raises StoreUnavailable when nothing answers; a sealed store is an answer."""
        status, body = self.call("GET", "sys/health", allowed=_HEALTH_STATUSES)
        flags = bool(body.get("initialized")), bool(body.get("sealed", True))
        return Health(*flags, active=status == 200, version=str(body.get("version", "")))

    def wait(self, seconds: float, ready: bool = True) -> Health:
        """The health once it answers (and, with `ready`, is unsealed and active). Raises StoreUnavailable."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                health = self.health()
                if not ready or health.active:
                    return health
                problem = "sealed" if health.sealed else "not active"
            except StoreError as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"the secret store {self.address} was not ready within {seconds:g} s: {problem}"
                )
            time.sleep(0.2)


class SecretStore:
    """get/put of one environment's secrets, `<mount>/data/<environment>/<name>`; logs in when first used."""

    def __init__(self, connection: dict[str, Any], environment: str) -> None:
        self._connection = connection
        self.environment = environment
        self._kv = connection.get("mount", "kv")
        self._pki = connection.get("pki_mount", "pki")
        self.client = BaoClient(
            connection["address"], connection.get("ca_file", ""), connection.get("namespace", "")
        )

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> SecretStore:
        """From the module arguments STORE_ARGUMENTS. Raises StoreUnavailable while `store_file` does not exist."""
        try:
            connection = json.loads(Path(params["store_file"]).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreUnavailable(
                f"store_file: {params['store_file']} is not there: the secret store is not set up yet"
            ) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"store_file: {params['store_file']} cannot be read: {error}") from None
        return cls(connection, params["environment"])

    def health(self) -> Health:
        return self.client.health()

    def login(self) -> None:
        """Raises StoreUnavailable (sealed, no answer) or StoreError (AppRole refused)."""
        credentials = {key: self._connection.get(key, "") for key in ("role_id", "secret_id")}
        path = f"auth/{self._connection.get('auth_mount', 'approle')}/login"
        status, body = self.client.call("POST", path, credentials, allowed=(400, 403))
        if status >= 400:
            raise StoreError(
                f"the secret store {self.client.address} refuses our AppRole (role_id, secret_id) at {path}"
            )
        self.client.token = body["auth"]["client_token"]

    def check_access(self) -> None:
        """Raises StoreUnavailable (sealed, no answer) or StoreError that names a right which our AppRole lacks."""
        health = self.health()
        if not health.ready:
            state = "sealed" if health.initialized else "not initialised"
            raise StoreUnavailable(f"the secret store {self.client.address} is {state}")
        needed = {f"{self._kv}/data/{self.environment}/any": {"create", "read", "update"}}
        for issuer in ("edge", "internal"):
            needed[f"{self._pki}/issue/{self.environment}-{issuer}"] = {"update"}
            needed[f"{self._pki}/issuer/{self.environment}-{issuer}/json"] = {"read"}
        _, answer = self.call("POST", "sys/capabilities-self", {"paths": sorted(needed)})
        for path, wanted in sorted(needed.items()):
            granted = set(answer["data"].get(path) or [])
            missing = ", ".join(sorted(wanted - granted))
            if missing and "root" not in granted:
                raise StoreError(
                    f"the secret store {self.client.address} does not let our AppRole {missing} {path}"
                )

    def call(
        self, method: str, path: str, body: Any = None, allowed: tuple[int, ...] = ()
    ) -> tuple[int, dict[str, Any]]:
        """Any other request with our token."""
        if not self.client.token:
            self.login()
        return self.client.call(method, path, body, allowed)

    def read(self, name: str) -> Secret:
        """The whole entry; a missing or deleted one has no fields."""
        status, body = self.call("GET", self._path("data", name), allowed=(404,))
        data = body.get("data") or {}
        version = int((data.get("metadata") or {}).get("version", 0))
        return Secret(name, version, (data.get("data") or {}) if status == 200 else {})

    def get(self, name: str) -> str | None:
        return self.read(name).value

    def version(self, name: str) -> int:
        return self.read(name).version

    def put(self, name: str, value: str) -> int:
        """Writes a value unless it is there already; returns its version."""
        known = self.read(name)
        return known.version if known.value == value else self.write(name, {"value": value}, known.version)

    def write(self, name: str, fields: dict[str, Any], seen_version: int) -> int:
        """Writes an entry if its version still is `seen_version` (0 = there is none); returns the new version."""
        body = {"data": fields, "options": {"cas": seen_version}}
        status, answer = self.call("POST", self._path("data", name), body, allowed=(400,))
        if status == 400:
            raise StoreConflict(
                f"secret {name}: changed in the store by somebody else, or refused: {answer.get('errors')}"
            )
        return int(answer["data"]["version"])

    def issue_certificate(
        self, issuer: str, common_name: str, dns_names: list[str], ip_addresses: list[str], ttl_days: int
    ) -> dict[str, Any]:
        """From issuer `edge` or `internal`: certificate (with chain), private_key, ca: PEM; expires: Unix seconds."""
        body = {
            "common_name": common_name,
            "alt_names": ",".join(dns_names),
            "ip_sans": ",".join(ip_addresses),
            "ttl": f"{ttl_days * 24}h",
            "exclude_cn_from_sans": True,
        }
        _, answer = self.call("POST", f"{self._pki}/issue/{self.environment}-{issuer}", body)
        data = answer["data"]
        # A root in the chain adds nothing for a client that has to trust it anyway.
        chain = [pem for pem in data.get("ca_chain") or [] if pem.strip() != self.ca_certificate(issuer)]
        return {
            "certificate": "\n".join(pem.strip() for pem in [data["certificate"], *chain]),
            "private_key": data["private_key"].strip(),
            "ca": self.ca_certificate(issuer),
            "expires": int(data["expiration"]),
        }

    def ca_certificate(self, issuer: str) -> str:
        """PEM of issuer `edge` or `internal`."""
        _, answer = self.call("GET", f"{self._pki}/issuer/{self.environment}-{issuer}/json")
        return str(answer["data"]["certificate"]).strip()

    def snapshot(self) -> bytes:
        """The whole store as one archive, its values still encrypted. Raises StoreError."""
        if not self.client.token:
            self.login()
        return self.client.download("sys/storage/raft/snapshot")

    def _path(self, kind: str, name: str) -> str:
        return f"{self._kv}/{kind}/{quote(self.environment, safe='')}/{quote(name, safe='')}"
