"""n8n's HTTP interfaces: its public API v1, and /rest only for what v1 does not have (owner, login, API keys)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode

from ansible.module_utils.n8n_platform.engine import Engine, EngineError
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient, Response
from ansible.module_utils.n8n_platform.openbao import STORE_ARGUMENTS, SecretStore

PORT = 5678
MAIN_SERVICE = "n8n-main"
NETWORK = "edge"
OWNER_ENTRY = "n8n_owner_password"
KEY_ENTRY = "n8n_api_key"
POLL_SECONDS = 0.5
LOGIN_SECONDS, LOGIN_POLL_SECONDS = 90.0, 5.0
PAGE = 250
MFA_REQUIRED = 998

# Where n8n is: `url`, or the container of its main process in Compose project `project`.
ADDRESS_ARGUMENTS: dict[str, dict[str, Any]] = {"url": {"type": "str"}, "project": {"type": "str"}}
ADDRESS_RULES: dict[str, Any] = {
    "required_one_of": [("url", "project")],
    "mutually_exclusive": [("url", "project")],
}
API_ARGUMENTS = ADDRESS_ARGUMENTS | STORE_ARGUMENTS


class N8nError(Exception):
    """n8n is not there, not ready, or did not do what it was asked; the text says what and where, never a value."""


class PasswordRefused(N8nError):
    """n8n has answered, and does not know this password."""


def address(params: dict[str, Any], engine: Callable[[], Engine] = Engine) -> str:
    """Base URL from ADDRESS_ARGUMENTS. Raises N8nError when the project has no running main process."""
    if params["url"]:
        return str(params["url"]).rstrip("/")
    project = params["project"]
    try:
        container = engine().service(project, MAIN_SERVICE)
        if container is None:
            raise N8nError(f"project {project} has no container of service {MAIN_SERVICE}")
        return f"http://{engine().address(container['Id'], f'{project}_{NETWORK}')}:{PORT}"
    except (EngineError, HttpError) as error:
        raise N8nError(f"project {project}: {error}") from None


def client_from_params(params: dict[str, Any]) -> N8n:
    """A client with the API key of the store. Raises N8nError, StoreError."""
    key = SecretStore.from_params(params).get(KEY_ENTRY)
    if key is None:
        raise N8nError(
            f"the store has no {KEY_ENTRY} for environment {params['environment']}: module n8n_api_key makes it"
        )
    return N8n(address(params), key)


class N8n:
    """One n8n instance. Every method raises HttpError (status 0: no answer) unless it says otherwise."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 30.0) -> None:
        self.url = url
        self._client = JsonClient(url, timeout=timeout)
        self._key = {"X-N8N-API-KEY": api_key} if api_key else {}
        self._cookie: dict[str, str] = {}

    # --- health

    def ready(self) -> bool:
        """Database connected and migrated, all routes mounted."""
        try:
            return (
                self._client.request("GET", "/healthz/readiness", allowed=(404, 503), timeout=5).status == 200
            )
        except HttpError:
            return False

    def wait_until_ready(self, seconds: float) -> None:
        """Raises N8nError when n8n is not ready in time."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() >= deadline:
                raise N8nError(f"{self.url}/healthz/readiness did not become 200 within {seconds:g} s")
            time.sleep(POLL_SECONDS)

    def metrics(self) -> dict[str, float]:
        """Samples without labels of /metrics, by name."""
        text = self._client.request("GET", "/metrics", headers={"Accept": "text/plain"}).text
        found = re.findall(r"^([a-z_][a-z0-9_]*)(?:\{\})? ([0-9.eE+-]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    # --- owner and keys (/rest)

    def has_owner(self) -> bool:
        settings = self._client.request("GET", "/rest/settings").json["data"]
        return not settings["userManagement"]["showSetupOnFirstLoad"]

    def set_up_owner(self, email: str, first_name: str, last_name: str, password: str) -> None:
        body = {"email": email, "firstName": first_name, "lastName": last_name, "password": password}
        self._client.request("POST", "/rest/owner/setup", body)

    def login(self, email: str, password: str) -> None:
        """Raises N8nError when n8n refuses the account, with what to do about it."""
        answer = self._try_login(email, password)
        if answer.status == 401:
            raise N8nError(_login_refused(email, _asks_second_factor(answer)))
        cookies = answer.headers.get_all("Set-Cookie") or []
        self._cookie = {"Cookie": "; ".join(cookie.partition(";")[0] for cookie in cookies)}

    def check_password(self, email: str, password: str) -> None:
        """Raises PasswordRefused unless the password is right; only then does n8n ask for a second factor."""
        answer = self._try_login(email, password)
        if answer.status == 401 and not _asks_second_factor(answer):
            raise PasswordRefused(
                f"n8n refuses the given password of {email}; if the owner's address was changed, set n8n_owner_email"
            )

    def offered_scopes(self) -> list[str]:
        """What a key of the account that is logged in may have."""
        return list(self._rest("GET", "/rest/api-keys/scopes").json["data"])

    def create_api_key(self, label: str, scopes: list[str]) -> str:
        """The new key; keys of the same label go first, since n8n never shows them again."""
        listed = self._rest("GET", f"/rest/api-keys?{urlencode({'label': label})}").json["data"]
        for entry in listed["items"] if isinstance(listed, dict) else listed:
            if entry["label"] == label:
                self._rest("DELETE", f"/rest/api-keys/{quote(entry['id'], safe='')}")
        body = {"label": label, "scopes": scopes, "expiresAt": None}
        return str(self._rest("POST", "/rest/api-keys", body).json["data"]["rawApiKey"])

    def key_scopes(self) -> set[str] | None:
        """Scopes of our API key, None when n8n refuses it."""
        answer = self._api("GET", "/discover", allowed=(401, 403))
        return set(answer.json["data"]["scopes"]) if answer.status == 200 else None

    # --- workflows and executions (public API)

    def workflows(self, name: str | None = None) -> Iterator[dict[str, Any]]:
        yield from self._pages("/workflows", {"name": name} if name else {})

    def create_workflow(self, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._api("POST", "/workflows", body).json)

    def update_workflow(self, identifier: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._api("PUT", f"/workflows/{quote(identifier, safe='')}", body).json)

    def publish_workflow(self, identifier: str) -> dict[str, Any]:
        return dict(self._api("POST", f"/workflows/{quote(identifier, safe='')}/activate", {}).json)

    def unpublish_workflow(self, identifier: str) -> dict[str, Any]:
        return dict(self._api("POST", f"/workflows/{quote(identifier, safe='')}/deactivate", {}).json)

    def delete_workflow(self, identifier: str) -> None:
        self._api("DELETE", f"/workflows/{quote(identifier, safe='')}")

    def execution(self, identifier: str, data: bool = False) -> dict[str, Any] | None:
        """None while n8n knows no such execution."""
        query = "?includeData=true" if data else ""
        answer = self._api("GET", f"/executions/{quote(identifier, safe='')}{query}", allowed=(404,))
        return None if answer.status == 404 else dict(answer.json)

    def _try_login(self, email: str, password: str) -> Response:
        """n8n answers 429 to the sixth login of an account within a minute, which is worth waiting for."""
        body = {"emailOrLdapLoginId": email, "password": password}
        deadline = time.monotonic() + LOGIN_SECONDS
        while True:
            allowed = (401, 429) if time.monotonic() < deadline else (401,)
            answer = self._client.request("POST", "/rest/login", body, allowed=allowed)
            if answer.status != 429:
                return answer
            time.sleep(LOGIN_POLL_SECONDS)

    def _pages(self, path: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            words = {**query, "limit": PAGE} | ({"cursor": cursor} if cursor else {})
            page = self._api("GET", f"{path}?{urlencode(words)}").json
            yield from page["data"]
            cursor = page.get("nextCursor")

    def _api(self, method: str, path: str, body: Any = None, allowed: tuple[int, ...] = ()) -> Response:
        return self._client.request(method, f"/api/v1{path}", body, headers=self._key, allowed=allowed)

    def _rest(self, method: str, path: str, body: Any = None) -> Response:
        return self._client.request(method, path, body, headers=self._cookie)


def _asks_second_factor(answer: Response) -> bool:
    return isinstance(answer.json, dict) and answer.json.get("code") == MFA_REQUIRED


def _login_refused(email: str, second_factor: bool) -> str:
    if second_factor:
        return (
            f"{email} has a second factor, so no key can be made without a person: switch it off in the editor"
            " (Settings > Personal) for one run, which keeps the key it makes, and on again"
        )
    return (
        f"n8n refuses the password of {email}: if it was changed in the editor, playbooks/owner.yml takes over the new"
        " one; if the owner's address was changed, set n8n_owner_email"
    )
