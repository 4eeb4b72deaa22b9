"""The edge of the real deployment, request by request: which router took it, which back end answered."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import sys
from http.client import HTTPResponse
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.support.deployment import Deployment, wait_until
from tests.support.n8n_rest import Editor, node, webhook
from tests.unit.traefik_corpus import CLOSED, HOSTILE

ROOT = Path(__file__).resolve().parents[3]


def _script(name: str) -> ModuleType:
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / "bin" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def _expected(core: Deployment) -> list[dict[str, Any]]:
    """Every request of the route table, from the same inventory that was deployed."""
    contributions = _script("routes-doc").edge_contributions(core.inventory)
    table: list[dict[str, Any]] = sys.modules["traefik_routes"].expected_routes(contributions, core.domain)
    return table


class Edge:
    """Raw requests to the deployment, and what Traefik's access log says of them."""

    def __init__(self, core: Deployment) -> None:
        self.core = core
        password = core.secret("host", "traefik_operator_password")
        self.login = {"Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}
        self._context = ssl.create_default_context(cafile=str(core.ca_file))

    def connect(self, sni: str | None) -> ssl.SSLSocket:
        return self._context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.core.https_port), 30), server_hostname=sni
        )

    def ask(
        self,
        method: str,
        path: str,
        host: str = "n8n.localhost",
        headers: dict[str, str] | None = None,
        mark: str = "",
    ) -> HTTPResponse:
        """The path goes out as it is; `mark` finds the request in the log."""
        sent = {"Host": f"{host}:{self.core.https_port}", "User-Agent": mark or "test", "Connection": "close"}
        sent |= {"Content-Length": "0"} if method == "POST" else {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in (sent | (headers or {})).items())]
        with self.connect(host) as connection:
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
            response = HTTPResponse(connection, method=method)
            response.begin()
            if response.status != 101:
                response.body = response.read()  # type: ignore[attr-defined]
            return response

    def logged(self, run: str) -> dict[str, dict[str, Any]]:
        """Access log entries by mark, of the requests whose mark begins with `run`."""
        entries = {}
        for line in self.core.containers()["traefik"].logs(tail=3000).decode().splitlines():
            mark = json.loads(line).get("request_User-Agent", "") if line.startswith("{") else ""
            if mark.startswith(run):
                entries[mark] = json.loads(line)
        return entries


@pytest.fixture(scope="module")
def edge(core: Deployment) -> Edge:
    return Edge(core)


def test_each_request_of_the_route_table_ends_where_it_should(core: Deployment, edge: Edge) -> None:
    run, table = uuid4().hex, _expected(core)
    for number, request in enumerate(table):
        headers = edge.login if request["class"] == "operator" else {}
        request["status"] = edge.ask(
            request["method"], request["path"], request["host"], headers, f"{run}-{number}"
        ).status
    wait_until(lambda: len(edge.logged(run)) == len(table), "the access log")
    entries = edge.logged(run)
    wrong = []
    for number, request in enumerate(table):
        entry = entries[f"{run}-{number}"]
        router = entry.get("RouterName", "").removesuffix("@file")
        back_end = entry.get("ServiceURL", "") if entry.get("OriginStatus") else ""
        good = router == request["route"] and (
            request["status"] == 404 if request["class"] == "internal" else back_end in request["servers"]
        )
        wrong += [] if good else [(request, router, back_end)]
    assert wrong == []
    assert {request["class"] for request in table} >= {"public", "operator", "api", "internal"}


def test_nothing_of_class_operator_answers_without_the_password(core: Deployment, edge: Edge) -> None:
    for request in _expected(core):
        if request["class"] == "operator":
            answer = edge.ask(request["method"], request["path"], request["host"])
            assert answer.status == 401 and core.project in answer.headers["WWW-Authenticate"], request


@pytest.mark.parametrize("path", CLOSED)
def test_closed_paths_do_not_exist(edge: Edge, path: str) -> None:
    assert edge.ask("GET", path, headers=edge.login).status == 404


def test_no_hostile_path_reaches_main_without_the_password(edge: Edge) -> None:
    run = uuid4().hex
    answers = {}
    for number, path in enumerate(HOSTILE):
        answers[f"{run}-{number}"] = edge.ask("GET", path, mark=f"{run}-{number}").status
    assert set(answers.values()) <= {200, 400, 401, 404}
    last = next(mark for mark, status in reversed(answers.items()) if status != 400)
    wait_until(lambda: last in edge.logged(run), "the access log")
    for mark, entry in edge.logged(run).items():
        if entry.get("OriginStatus") and "n8n-main" in entry.get("ServiceURL", ""):
            assert entry["RouterName"].startswith("n8n-api@"), (HOSTILE[int(mark.rpartition("-")[2])], entry)


def test_n8n_sees_the_client_and_not_whom_it_claims_to_be(core: Deployment, editor: Editor) -> None:
    """The webhook lets in one address only, which n8n compares with what the edge says of the client."""
    # What connects from this machine comes from there.
    client = core.containers()["traefik"].attrs["NetworkSettings"]["Networks"][f"{core.project}_edge"][
        "Gateway"
    ]
    path = f"test-{uuid4().hex}"
    trigger = webhook(path)
    trigger["parameters"]["options"] = {"ipWhitelist": client}
    claims = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6"}
    with editor.workflow(node("Done", "noOp"), trigger=trigger) as workflow:
        editor.publish(workflow)
        wait_until(
            lambda: core.request("POST", f"/webhook/{path}", headers=claims)[0] == 200, "n8n to let us in"
        )
        query = f"SELECT id FROM execution_entity WHERE \"workflowId\" = '{workflow['id']}'"
        ((execution,),) = wait_until(lambda: core.sql(query), "the execution")
        seen = editor.finished(execution).items("Webhook")[0]["headers"]
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == (client, client)


def test_unknown_names_and_plain_http(core: Deployment, edge: Edge) -> None:
    for name in (None, "other.localhost"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(
                socket.create_connection(("127.0.0.1", core.https_port), 10), server_hostname=name
            )
    with socket.create_connection(("127.0.0.1", core.port_base), 10) as plain:
        plain.sendall(b"GET /webhook/x HTTP/1.1\r\nHost: n8n.localhost\r\nConnection: close\r\n\r\n")
        response = HTTPResponse(plain)
        response.begin()
    assert (response.status, response.headers["Location"]) == (
        301,
        f"https://n8n.localhost:{core.https_port}/webhook/x",
    )


# Of every answer, and of those that no workflow makes; None: it is taken off.
OF_ALL = {
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Server": None,
    "X-Powered-By": None,
}
OF_CLOSED = {
    **OF_ALL,
    "X-Frame-Options": "SAMEORIGIN",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
    "X-Robots-Tag": "noindex, nofollow",
}
EDITOR_CSP = yaml.safe_load((ROOT / "roles/traefik/defaults/main.yml").read_text())["traefik_operator_csp"]


@pytest.mark.parametrize(
    ("path", "promised"),
    [
        ("/", {**OF_CLOSED, "Content-Security-Policy": EDITOR_CSP}),
        (
            "/api/v1/workflows",
            {**OF_CLOSED, "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"},
        ),
        ("/webhook/no-such-one", OF_ALL),
    ],
    ids=["operator", "api", "public"],
)
def test_headers_of_each_class(edge: Edge, path: str, promised: dict[str, str | None]) -> None:
    answer = edge.ask("GET", path, headers=edge.login)
    assert {name: answer.headers[name] for name in promised} == promised


def test_assets_are_kept_for_long_and_what_is_missing_is_not(edge: Edge) -> None:
    page = edge.ask("GET", "/", headers=edge.login)
    assert page.status == 200
    body: bytes = page.body  # type: ignore[attr-defined]
    asset = next(part.split(b'"')[0].decode() for part in body.split(b'src="')[1:] if b"assets/" in part[:40])
    found = edge.ask("GET", "/" + asset.lstrip("/"), headers=edge.login)
    assert found.status == 200 and found.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    missing = edge.ask("GET", "/assets/no-such-file.js", headers=edge.login)
    assert missing.status == 404 and "immutable" not in (missing.headers["Cache-Control"] or "")


def test_the_editor_logs_in_and_its_push_connection_is_upgraded(
    core: Deployment, edge: Edge, owner: dict[str, str]
) -> None:
    status, headers, _body = core.request(
        "POST",
        "/rest/login",
        body=json.dumps(owner).encode(),
        headers={"Content-Type": "application/json", "browser-id": "edge-test", **edge.login},
    )
    assert status == 200
    cookie = headers["set-cookie"].partition(";")[0]
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Cookie": cookie,
    }
    upgrade |= {"Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), "browser-id": "edge-test"}
    upgrade["Origin"] = f"https://n8n.localhost:{core.https_port}"
    assert edge.ask("GET", "/rest/push?pushRef=edge-test", headers=upgrade | edge.login).status == 101
    assert edge.ask("GET", "/rest/push?pushRef=edge-test", headers=upgrade).status == 401


@pytest.fixture
def owner(core: Deployment) -> dict[str, str]:
    template = _script("routes-doc").templar(core.inventory)
    email = template.template(template.available_variables["n8n_owner_email"])
    return {"emailOrLdapLoginId": email, "password": core.secret("host", "n8n_owner_password")}
