"""As much of OpenBao as the secrets modules use, on a unix socket and in memory."""

from __future__ import annotations

import base64
import json
import secrets
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class State:
    """`requests`: (method, path) of everything asked. `refuse`: paths answered with 403."""

    def __init__(self) -> None:
        self.initialized = False
        self.sealed = False
        self.requests: list[tuple[str, str]] = []
        self.refuse: set[str] = set()
        self.tokens: set[str] = set()
        self.root_tokens: set[str] = set()
        self.kv: dict[str, list[dict[str, Any]]] = {}
        self.mounts: dict[str, Any] = {}
        self.methods: dict[str, Any] = {}
        self.policies: dict[str, str] = {}
        self.issuers: dict[str, dict[str, Any]] = {}
        self.secret_ids: list[str] = []
        self.certificate_life = 90 * 86400
        self.capabilities = ["create", "read", "update"]
        self.otp = ""
        # Snapshot as sent -> (seal key, the state that it holds); the seal key of this server.
        self.snapshots: dict[bytes, tuple[str, State]] = {}
        self.seal_key = ""

    def token(self) -> str:
        self.tokens.add(token := "s." + secrets.token_hex(12))
        return token

    def root_token(self) -> str:
        self.root_tokens.add(token := self.token())
        return token

    def take_snapshot(self, content: bytes, token: str) -> tuple[int, Any]:
        self.requests.append(("POST", "sys/storage/raft/snapshot"))
        if token not in self.root_tokens:
            return 403, {"errors": ["permission denied"]}
        if content not in self.snapshots:
            return 500, {"errors": ["failed checking integrity of snapshot"]}
        seal_key, source = self.snapshots[content]
        if seal_key != self.seal_key:
            return 400, {"errors": ["could not verify hash file, ... using a different autoseal key"]}
        for name in ("tokens", "root_tokens", "kv", "mounts", "methods", "policies", "issuers", "secret_ids"):
            setattr(self, name, getattr(source, name))
        return 204, {}

    def answer(self, method: str, path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        self.requests.append((method, path))
        if path == "sys/health":
            status = 501 if not self.initialized else 503 if self.sealed else 200
            return status, {"initialized": self.initialized, "sealed": self.sealed, "version": "2.7.2"}
        if path == "sys/init":
            self.initialized = True
            return 200, {"recovery_keys_base64": ["recovery"], "root_token": self.root_token()}
        if not self.initialized or self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if path.endswith("/login"):
            known = body.get("secret_id") in self.secret_ids and body.get("role_id") == "role"
            return (
                (200, {"auth": {"client_token": self.token()}}) if known else (400, {"errors": ["invalid"]})
            )
        if token not in self.tokens or path in self.refuse:
            return 403, {"errors": ["permission denied"]}
        area = path.split("/")[0]
        return getattr(self, f"_{area}")(method, path, body, token)

    def _kv(self, method: str, path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        if path == "kv/config":
            return 200, {"data": {}}
        versions = self.kv.setdefault(path.removeprefix("kv/data/"), [])
        if method == "GET":
            found = {"data": versions[-1], "metadata": {"version": len(versions)}} if versions else None
            return (200, {"data": found}) if found else (404, {"errors": []})
        if body["options"]["cas"] != len(versions):
            return 400, {"errors": ["check-and-set parameter did not match the current version"]}
        versions.append(body["data"])
        return 200, {"data": {"version": len(versions)}}

    def _pki(self, method: str, path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        _, kind, *rest = path.split("/")
        if kind == "root":
            number = str(len(self.issuers) + 1)
            issuer = {"issuer_id": f"{number:0>8}", "certificate": f"CA {number}\n", **body}
            self.issuers[body["issuer_name"]] = issuer
            return 200, {"data": {}}
        if kind == "issuer" and method == "GET":
            found = self.issuers.get(rest[0])
            return (200, {"data": found}) if found else (404, {"errors": ["unable to find issuer"]})
        if kind == "issuer":
            name = next(name for name, issuer in self.issuers.items() if issuer["issuer_id"] == rest[0])
            self.issuers[body["issuer_name"]] = self.issuers.pop(name)
        if kind == "issue":
            ca = self.issuers[rest[0]]["certificate"]
            expires = int(time.time()) + self.certificate_life
            leaf = {"certificate": f"CERT {secrets.token_hex(4)}", "private_key": "KEY", "ca_chain": [ca]}
            return 200, {"data": {**leaf, "expiration": expires}}
        return 200, {"data": {}}

    def _auth(self, method: str, path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        if path == "auth/token/revoke-self":
            self.tokens.discard(token)
            self.root_tokens.discard(token)
        if path.endswith("/role-id"):
            return 200, {"data": {"role_id": "role"}}
        if path.endswith("/secret-id"):
            self.secret_ids.append(secrets.token_hex(8))
            return 200, {"data": {"secret_id": self.secret_ids[-1]}}
        return 200, {"data": {}}

    def _sys(self, method: str, path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        if path == "sys/capabilities-self":
            return 200, {"data": dict.fromkeys(body["paths"], self.capabilities)}
        if path == "sys/generate-root-token/attempt" and method == "POST":
            self.otp = secrets.token_hex(13)
            return 200, {"data": {"nonce": "nonce", "otp": self.otp}}
        if path == "sys/generate-root-token/update":
            if body["key"] != "recovery":
                return 400, {"errors": ["recovery key is wrong"]}
            mixed = bytes(a ^ b for a, b in zip(self.root_token().encode(), self.otp.encode(), strict=True))
            return 200, {"data": {"encoded_token": base64.b64encode(mixed).decode().rstrip("=")}}
        for prefix, table in (("sys/mounts", self.mounts), ("sys/auth", self.methods)):
            if path == prefix:
                return 200, {"data": table}
            if path.startswith(f"{prefix}/"):
                table[path.removeprefix(f"{prefix}/") + "/"] = body
        if path.startswith("sys/policies/acl/"):
            self.policies[path.rsplit("/", 1)[1]] = body["policy"]
        return 200, {"data": {}}


@contextmanager
def serving(path: Path, state: State) -> Iterator[State]:
    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length)
            where, token = self.path.removeprefix("/v1/"), self.headers.get("X-Vault-Token", "")
            if where == "sys/storage/raft/snapshot":
                status, answer = state.take_snapshot(content, token)
            else:
                body = json.loads(content) if content else {}
                status, answer = state.answer(self.command, where, body, token)
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_DELETE = _reply

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args: Any) -> None:
            return

    path.parent.mkdir(parents=True, exist_ok=True)
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            path.unlink(missing_ok=True)
