"""Merging what roles contribute: precedence, refusals, and the table that docs and tests are made from."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "traefik_routes", Path(__file__).resolve().parents[2] / "plugins/filter/traefik_routes.py"
)
assert _SPEC and _SPEC.loader
edge = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(edge)

MAIN, HOOK = ["http://n8n-main:5678"], ["http://n8n-webhook-1:5678", "http://n8n-webhook-2:5678"]
PUBLIC = ["/webhook", "/webhook-waiting", "/form", "/form-waiting"]
N8N = {
    "role": "n8n",
    "edge": [
        {"name": "n8n-webhook", "host": "n8n", "paths": PUBLIC, "class": "public", "servers": HOOK},
        {"name": "n8n-api", "host": "n8n", "paths": ["/api/v1", "/mcp"], "class": "api", "servers": MAIN},
        {
            "name": "n8n-assets",
            "host": "n8n",
            "paths": ["/assets"],
            "class": "operator",
            "servers": MAIN,
            "cache_seconds": 60,
        },
        {
            "name": "n8n-closed",
            "host": "n8n",
            "paths": ["/metrics", "/healthz/readiness"],
            "class": "internal",
        },
        {"name": "n8n-editor", "host": "n8n", "paths": ["/"], "class": "operator", "servers": MAIN},
    ],
}


def route(**changes: Any) -> dict[str, Any]:
    base = {"name": "a", "host": "console", "paths": ["/"], "class": "operator", "servers": ["http://a:80"]}
    return {key: value for key, value in (base | changes).items() if value is not None}


def merged(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    return edge.merge_routes([{"role": f"role{n}", "edge": [entry]} for n, entry in enumerate(entries)])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/webhook", "n8n-webhook"),
        ("/webhook/a/b", "n8n-webhook"),
        ("/webhook-waiting/1", "n8n-webhook"),
        ("/webhook-test/a", "n8n-editor"),
        ("/webhookx", "n8n-editor"),
        ("/form-test/a", "n8n-editor"),
        ("/rest/login", "n8n-editor"),
        ("/api/v1/workflows", "n8n-api"),
        ("/api/v10", "n8n-editor"),
        ("/API/v1", "n8n-editor"),
        ("/mcp", "n8n-api"),
        ("/metrics", "n8n-closed"),
        ("/METRICS/x", "n8n-closed"),
        ("/healthz/readiness", "n8n-closed"),
        ("/healthz", "n8n-editor"),
        ("/assets/a.js", "n8n-assets"),
        ("/", "n8n-editor"),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(path: str, name: str) -> None:
    found = edge.route_of(edge.merge_routes([N8N]), "n8n.localhost", path)
    assert found["name"] == name


def test_nothing_answers_for_an_unknown_host() -> None:
    assert edge.route_of(edge.merge_routes([N8N]), "other.localhost", "/") is None


def test_the_order_of_contributions_does_not_matter() -> None:
    contributions = [{"role": "n8n", "edge": [entry]} for entry in N8N["edge"]]
    expected = edge.traefik_routers(edge.merge_routes(contributions))
    for seed in range(5):
        random.Random(seed).shuffle(contributions)
        assert edge.traefik_routers(edge.merge_routes(contributions)) == expected


def test_a_role_that_nobody_knows_gets_its_host_and_routes() -> None:
    contributions = [
        N8N,
        {"role": "made_up", "edge": [route(name="made-up", host="made-up")]},
        {"role": "without"},
    ]
    assert edge.edge_hosts(contributions, "example.org") == ["made-up.example.org", "n8n.example.org"]
    http = edge.traefik_routers(edge.merge_routes(contributions, "example.org"))["http"]
    assert http["routers"]["made-up"]["rule"] == "Host(`made-up.example.org`) && (PathPrefix(`/`))"
    assert http["routers"]["made-up"]["middlewares"][0] == "class-operator"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"class": None},
            "route a of role role0: class must be one of public, operator, api, internal, not missing",
        ),
        ({"class": "open"}, "not open"),
        ({"clas": "public"}, "unknown key clas"),
        ({"host": "Console"}, "host 'Console'"),
        ({"host": "a.b"}, "one DNS label"),
        ({"name": "A b"}, "name must be"),
        ({"paths": ["webhook"]}, "'webhook' is not a plain absolute path"),
        ({"paths": ["/a/"]}, "'/a/'"),
        ({"paths": ["/a/../b"]}, "'/a/../b'"),
        ({"paths": ["/a`)"]}, "plain absolute path"),
        ({"paths": None}, "one of paths and path_regexp"),
        ({"path_regexp": "^/x"}, "not both"),
        ({"paths": None, "path_regexp": "`"}, "backquote"),
        ({"servers": None}, "servers are needed"),
        ({"class": "internal"}, "there must be none"),
        ({"servers": ["console:8000"]}, "is not http(s)://name:port"),
        ({"servers": ["http://console"]}, "is not http(s)://name:port"),
        ({"body_limit_bytes": -1}, "body_limit_bytes must be a number"),
        ({"cache_seconds": "1h"}, "cache_seconds must be a number"),
    ],
)
def test_a_route_that_cannot_be_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(edge.RouteError) as refusal:
        merged(route(**changes))
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "second", [route(), route(name="b"), route(name="b", paths=["/x", "/"]), route(host="other")]
)
def test_a_duplicate_names_both_roles(second: dict[str, Any]) -> None:
    with pytest.raises(edge.RouteError, match=r"role0 \(a\) and role1"):
        merged(route(), second)


def test_paths_that_differ_in_case_only_are_duplicates() -> None:
    with pytest.raises(edge.RouteError, match="contributed twice"):
        merged(route(paths=["/a"]), route(name="b", paths=["/A"]))


def test_routes_that_hold_longer_prefixes_of_one_another_are_refused() -> None:
    with pytest.raises(edge.RouteError, match="hold longer prefixes of one another"):
        merged(route(paths=["/a", "/b/c"]), route(name="b", paths=["/b", "/a/c"]))


def test_crossing_lengths_do_not_confuse_the_precedence() -> None:
    routes = merged(route(paths=["/a", "/very/long/path"]), route(name="b", paths=["/a/b"]))
    assert edge.route_of(routes, "console.localhost", "/a/b/c")["name"] == "b"
    assert edge.route_of(routes, "console.localhost", "/a/c")["name"] == "a"


def test_back_ends_that_several_routes_share_are_checked_once() -> None:
    http = edge.traefik_routers(edge.merge_routes([N8N]))["http"]
    assert sorted(http["services"]) == ["n8n-main", "n8n-webhook"]
    assert http["routers"]["n8n-editor"]["service"] == http["routers"]["n8n-assets"]["service"]
    assert http["routers"]["n8n-closed"]["service"] == "noop@internal"


def test_back_ends_of_one_host_that_are_checked_differently_stay_apart() -> None:
    routes = merged(route(), route(name="b", paths=["/b"], health_path="/b"), route(name="c", paths=["/c"]))
    http = edge.traefik_routers(routes)["http"]
    assert len(http["services"]) == 2
    assert (
        http["routers"]["a"]["service"] == http["routers"]["c"]["service"] != http["routers"]["b"]["service"]
    )


def test_every_routed_request_passes_its_class() -> None:
    for name, router in edge.traefik_routers(edge.merge_routes([N8N]), ["10.0.0.0/8"], "acme", True)["http"][
        "routers"
    ].items():
        first = router["middlewares"][0]
        assert first.startswith("class-") or first in ("not-found", "maintenance"), name
        assert router["entryPoints"] == ["websecure"] and router["tls"] == {"certResolver": "acme"}
        assert first.endswith("-cdn") == (name.endswith("-cdn") and first.startswith("class-"))


def test_expected_routes_say_where_each_request_ends() -> None:
    table = {(r["method"], r["path"]): (r["class"], r["servers"]) for r in edge.expected_routes([N8N])}
    assert table["POST", "/webhook/probe"] == ("public", HOOK)
    assert table["GET", "/webhook-probe"] == ("operator", MAIN)
    assert table["GET", "/healthz/readiness/probe"] == ("internal", [])
    assert edge.expected_routes([{"role": "a", "edge": [route(paths=["/x"])]}])[-1]["class"] == "internal"


def test_settings_problems_name_their_variables() -> None:
    def problems(**changes: Any) -> list[str]:
        good = {
            "cidrs": {"allowed": ["10.0.0.0/8", "::1"]},
            "ports": {"http": 80, "https": "443"},
        }
        return edge.settings_problems(good | changes)

    assert problems() == []
    assert "allowed: '10.0.0.0/33'" in problems(cidrs={"allowed": ["10.0.0.0/33"]})[0]
    assert problems(ports={"http": 80, "https": "80"}) == ["http and https must differ"]
    assert problems(ports={"http": 0, "https": 1}) == ["http: 0 is no port"]
