"""A small n8n: answers what tests/fixtures/n8n recorded, keeps owner, keys and workflows as state, counts writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/n8n"


def recorded(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


class FakeN8n:
    def __init__(self) -> None:
        self.owner: dict[str, str] | None = None
        self.keys: dict[str, dict[str, Any]] = {}
        self.workflows: list[dict[str, Any]] = []
        self.execution = recorded("execution.json")
        self.statuses: list[str] = ["success"]
        self.not_ready = 0
        self.silent_seconds: list[float] = []
        self.too_many_logins = 0
        self.mfa = False
        self.writes: list[str] = []
        self.answer: Any = None
        self.url = ""

    # Each returns status and body; headers are lower-case.
    def handle(
        self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: Any
    ) -> tuple[int, Any]:
        if method != "GET":
            self.writes.append(f"{method} {path}")
        if path.startswith("/api/v1/"):
            return self._api(method, path.removeprefix("/api/v1"), query, headers, body)
        if path.startswith("/rest/"):
            return self._rest(method, path.removeprefix("/rest"), headers, body)
        if path == "/healthz/readiness":
            self.not_ready -= 1
            return (503, {"status": "error"}) if self.not_ready >= 0 else (200, {"status": "ok"})
        if path == "/metrics":
            return 200, (FIXTURES / "metrics.txt").read_text()
        if path == "/webhook/platform-smoke":
            time.sleep(self.silent_seconds.pop(0) if self.silent_seconds else 0)
            answer = self.answer or {"nonce": body["nonce"], "sum": sum(body["numbers"]), "execution": "1"}
            return 200, answer
        return 404, {}

    def _rest(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, Any]:
        if path == "/settings":
            settings = recorded("settings.json")
            settings["data"]["userManagement"]["showSetupOnFirstLoad"] = self.owner is None
            return 200, settings
        if path == "/owner/setup":
            if self.owner:
                return 400, recorded("owner-refused.json")
            self.owner = body
            return 200, {"data": {}}
        if path == "/login" and self.too_many_logins > 0:
            self.too_many_logins -= 1
            return 429, {"message": "Too many requests"}
        if path == "/login":
            right = self.owner and (self.owner["email"], self.owner["password"])
            if right != (body["emailOrLdapLoginId"], body["password"]):
                return 401, recorded("login-refused.json")
            if self.mfa:
                return 401, {"code": 998, "message": "MFA Error"}
            return 200, {"data": {}}
        if headers.get("cookie") != "n8n-auth=session":
            return 401, {"message": "Unauthorized"}
        return self._keys(method, path, body)

    def _keys(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/api-keys/scopes":
            return 200, recorded("scopes.json")
        if path == "/api-keys" and method == "GET":
            listed = recorded("api-keys.json")
            listed["data"]["items"] = [{"id": i, "label": k["label"]} for i, k in self.keys.items()]
            return 200, listed
        if path == "/api-keys":
            identifier = f"key-{len(self.writes)}"
            self.keys[identifier] = {**body, "raw": f"raw-{identifier}"}
            return 200, {"data": {"id": identifier, "rawApiKey": f"raw-{identifier}"}}
        self.keys.pop(path.rpartition("/")[2])
        return 200, {"data": {"success": True}}

    def _api(
        self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: Any
    ) -> tuple[int, Any]:
        key = next((k for k in self.keys.values() if k["raw"] == headers.get("x-n8n-api-key")), None)
        if key is None:
            return 401, {"message": "unauthorized"}
        if path == "/discover":
            return 200, {"data": {"scopes": key["scopes"]}}
        if path.startswith("/executions/"):
            self.execution["status"] = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            return (404, {}) if self.execution["status"] == "missing" else (200, self.execution)
        if path == "/workflows" and method == "GET":
            # Two pages, as soon as there is more than one workflow.
            start = int(query.get("cursor", ["0"])[0])
            more = start + 1 < len(self.workflows)
            page = self.workflows[start : start + 1]
            return 200, {"data": page, "nextCursor": str(start + 1) if more else None}
        return self._workflow(method, path, body)

    def _workflow(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/workflows":
            made = {
                "id": f"w{len(self.workflows)}",
                "active": False,
                "activeVersionId": None,
                "versionId": "v1",
            }
            self.workflows.append({**made, "settings": {}, **body})
            return 200, self.workflows[-1]
        _, _, identifier, *action = path.split("/")
        workflow = next(w for w in self.workflows if w["id"] == identifier)
        if method == "DELETE":
            self.workflows.remove(workflow)
        elif method == "PUT":
            # n8n keeps the published version until somebody publishes the new one.
            workflow.update(body, versionId=workflow["versionId"] + "+")
        elif action == ["activate"]:
            workflow.update(active=True, activeVersionId=workflow["versionId"])
        else:
            workflow.update(active=False, activeVersionId=None)
        return 200, workflow


@contextmanager
def running(fake: FakeN8n) -> Iterator[FakeN8n]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            lower = {name.lower(): value for name, value in self.headers.items()}
            status, result = fake.handle(self.command, parts.path, parse_qs(parts.query), lower, body)
            data = result.encode() if isinstance(result, str) else json.dumps(result).encode()
            self.send_response(status)
            if parts.path == "/rest/login" and status == 200:
                self.send_header("Set-Cookie", "n8n-auth=session; Path=/; HttpOnly; Secure")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
