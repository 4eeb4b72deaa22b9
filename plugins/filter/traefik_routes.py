"""The edge: what roles contribute becomes one checked list of routes, and from it Traefik's routers and services."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleFilterError

CLASSES = ("public", "operator", "api", "internal")
DEFAULTS: dict[str, Any] = {
    "paths": [],
    "path_regexp": "",
    "servers": [],
    "health_path": "",
    "health_port": 0,
    "health_interval": "1s",
    "priority": 0,
    "body_limit_bytes": 0,
    "cache_seconds": 0,
}
REQUIRED = ("name", "host", "class")

# Between the routers of an operator's own making (set by `priority`) and those that refuse in any case.
PRIORITY_STEP = 10
PRIORITY_REGEXP = 10_000
PRIORITY_MAINTENANCE = 500_000
PRIORITY_REFUSE = 1_000_000

# n8n's server (Express) ignores the case of a path; what is closed must be closed in every spelling.
_CLOSED = "PathRegexp(`(?i)^{path}(/|$)`)"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_PATH = re.compile(r"/|(/[A-Za-z0-9._~@:-]+)+")

Route = dict[str, Any]


class RouteError(AnsibleFilterError):
    """Names the role, the route and the key."""


def merge_routes(contributions: Iterable[Mapping[str, Any]], domain: str = "localhost") -> list[Route]:
    """The `edge` lists of all contributions as one list, ordered by host and precedence, most specific first.

    Each route has every key of the contract, `role`, `fqdn` and a `priority`; a path belongs to exactly one route, and
    of two routes the one with the longer prefix outranks the other. Raises RouteError on a missing or unknown class,
    an unknown key, a malformed value, a duplicate, or two routes of which each holds a longer prefix of the other.
    """
    routes = [
        _route(str(c.get("role", "?")), entry, domain) for c in contributions for entry in c.get("edge") or []
    ]
    _refuse_duplicates(routes)
    for host in {route["host"] for route in routes}:
        _rank([route for route in routes if route["host"] == host])
    return sorted(routes, key=lambda r: (r["host"], -r["priority"], r["name"]))


def _route(role: str, entry: Mapping[str, Any], domain: str) -> Route:
    name = entry.get("name", "?")
    where = f"edge route {name} of role {role}"
    if unknown := sorted(set(entry) - set(DEFAULTS) - set(REQUIRED)):
        raise RouteError(f"{where}: unknown key {', '.join(unknown)}")
    if entry.get("class") not in CLASSES:
        raise RouteError(
            f"{where}: class must be one of {', '.join(CLASSES)}, not {entry.get('class', 'missing')}"
        )
    route = {**DEFAULTS, **entry, "role": role, "fqdn": f"{entry.get('host', '')}.{domain}"}
    route["paths"] = [_checked_path(where, path) for path in route["paths"]]
    _check_values(where, route)
    return route


def _checked_path(where: str, path: Any) -> str:
    if not isinstance(path, str) or not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise RouteError(f"{where}: paths: {path!r} is not a plain absolute path without a trailing slash")
    return path


def _check_values(where: str, route: Route) -> None:
    if not _NAME.fullmatch(str(route.get("name", ""))):
        raise RouteError(f"{where}: name must be of a-z, 0-9 and -")
    if not _LABEL.fullmatch(str(route.get("host", ""))):
        raise RouteError(f"{where}: host {route.get('host')!r} is not one DNS label")
    if bool(route["paths"]) == bool(route["path_regexp"]):
        raise RouteError(f"{where}: one of paths and path_regexp is needed, not both")
    if "`" in route["path_regexp"]:
        raise RouteError(f"{where}: path_regexp must not hold a backquote")
    if bool(route["servers"]) == (route["class"] == "internal"):
        raise RouteError(f"{where}: servers are needed, and for class internal there must be none")
    for server in route["servers"]:
        url = urlsplit(str(server))
        if url.scheme not in ("http", "https") or not url.hostname or not url.port or url.path:
            raise RouteError(f"{where}: servers: {server!r} is not http(s)://name:port")
    for key in ("priority", "body_limit_bytes", "cache_seconds"):
        if isinstance(route[key], bool) or not isinstance(route[key], int) or route[key] < 0:
            raise RouteError(f"{where}: {key} must be a number of 0 or more")


def _refuse_duplicates(routes: list[Route]) -> None:
    seen: dict[tuple[str, ...], Route] = {}
    for route in routes:
        keys = [("name", route["name"])]
        keys += [("path", f"{route['host']}{path.lower()}") for path in route["paths"]]
        keys += [("path_regexp", f"{route['host']} {route['path_regexp']}")] if route["path_regexp"] else []
        for key in keys:
            if key in seen:
                roles = f"{seen[key]['role']} ({seen[key]['name']}) and {route['role']} ({route['name']})"
                raise RouteError(f"edge: {key[0]} {key[1]} is contributed twice, by {roles}")
            seen[key] = route


def _rank(routes: list[Route]) -> None:
    """Sets `priority` where the contribution leaves it at 0, so that every longer prefix outranks a shorter one."""
    by_name = {route["name"]: route for route in routes}
    wider = {n: [o for o in by_name if o != n and _is_inside(r, by_name[o])] for n, r in by_name.items()}
    try:
        order = list(TopologicalSorter(wider).static_order())
    except CycleError as error:
        raise RouteError(
            f"edge: routes {', '.join(error.args[1])} hold longer prefixes of one another: split one"
        ) from None
    level: dict[str, int] = {}
    for name in order:
        level[name] = 1 + max((level[other] for other in wider[name]), default=0)
        route = by_name[name]
        base = PRIORITY_REGEXP if route["path_regexp"] else 0
        route["priority"] = route["priority"] or base + level[name] * PRIORITY_STEP


def _is_inside(route: Route, other: Route) -> bool:
    return any(matches_prefix(p, q) and p != q for p in route["paths"] for q in other["paths"])


def matches_prefix(path: str, prefix: str) -> bool:
    """Whole segments: /webhook holds /webhook and /webhook/a, not /webhook-test."""
    return prefix == "/" or path == prefix or path.startswith(f"{prefix}/")


def route_of(routes: Iterable[Route], fqdn: str, path: str) -> Route | None:
    """The route that answers for a clean path, None where nobody does (404)."""
    for route in sorted(routes, key=lambda r: -r["priority"]):
        if route["fqdn"] == fqdn and _holds(route, path):
            return route
    return None


def _holds(route: Route, path: str) -> bool:
    if route["path_regexp"]:
        return re.search(route["path_regexp"], path) is not None
    if route["class"] == "internal":
        return any(matches_prefix(path.lower(), prefix.lower()) for prefix in route["paths"])
    return any(matches_prefix(path, prefix) for prefix in route["paths"])


def expected_routes(
    contributions: Iterable[Mapping[str, Any]], domain: str = "localhost"
) -> list[dict[str, Any]]:
    """Requests and where each must end: `method host path class route servers`.

    For every prefix itself, a path inside and one that only begins with the same letters.
    """
    routes = merge_routes(contributions, domain)
    table = []
    for fqdn in sorted({route["fqdn"] for route in routes}):
        prefixes = sorted(
            {path for route in routes if route["fqdn"] == fqdn for path in route["paths"]} | {"/"}
        )
        probes = [
            p for prefix in prefixes for p in (prefix, f"{prefix.rstrip('/')}/probe", f"{prefix}-probe")
        ]
        for path in dict.fromkeys(probes):
            route = route_of(routes, fqdn, path)
            for method in ("GET", "POST"):
                found = (
                    {"class": route["class"], "route": route["name"], "servers": route["servers"]}
                    if route
                    else {}
                )
                table.append(
                    {
                        "method": method,
                        "host": fqdn,
                        "path": path,
                        "class": "internal",
                        "route": "",
                        "servers": [],
                        **found,
                    }
                )
    return table


def traefik_routers(
    routes: list[Route], trusted_cidrs: Iterable[str] = (), cert_resolver: str = "", maintenance: bool = False
) -> dict[str, Any]:
    """Traefik's `http` section for the routes: routers, services and the middlewares that belong to one route.

    `maintenance` puts a router before all others that answers 503.

    Behind a CDN the client's address is the last entry of X-Forwarded-For, and only there: requests that come from
    `trusted_cidrs` get routers of their own (`<name>-cdn`), whose limits and allow-list count that address.
    """
    cdn = " || ".join(f"ClientIP(`{cidr}`)" for cidr in trusted_cidrs)
    tls = {"certResolver": cert_resolver} if cert_resolver else {}
    routers: dict[str, Any] = {}
    for route in routes:
        router = {"entryPoints": ["websecure"], "service": _service_name(routes, route), "tls": tls}
        rule = f"Host(`{route['fqdn']}`) && ({_path_rule(route)})"
        routers[route["name"]] = router | {
            "rule": rule,
            "priority": route["priority"],
            "middlewares": _chain(route, ""),
        }
        if cdn:
            routers[f"{route['name']}-cdn"] = router | {
                "rule": f"({cdn}) && {rule}",
                "priority": route["priority"] + 1,
                "middlewares": _chain(route, "-cdn"),
            }
    refusals = {"refuse-h2c": ("HeaderRegexp(`Upgrade`, `(?i)h2c`)", "not-found", PRIORITY_REFUSE)}
    if maintenance:
        refusals["maintenance"] = ("PathPrefix(`/`)", "maintenance", PRIORITY_MAINTENANCE)
    for name, (rule, middleware, priority) in refusals.items():
        routers[name] = {
            "entryPoints": ["websecure"],
            "rule": rule,
            "priority": priority,
            "middlewares": [middleware],
            "service": "noop@internal",
            "tls": tls,
        }
    http = {"routers": routers, "services": _services(routes), "middlewares": _own_middlewares(routes)}
    return {"http": {section: content for section, content in http.items() if content}}


def _path_rule(route: Route) -> str:
    if route["path_regexp"]:
        return f"PathRegexp(`{route['path_regexp']}`)"
    if route["class"] == "internal":
        return " || ".join(_CLOSED.format(path=re.escape(path)) for path in route["paths"])
    return " || ".join(
        "PathPrefix(`/`)" if p == "/" else f"Path(`{p}`) || PathPrefix(`{p}/`)" for p in route["paths"]
    )


def _chain(route: Route, source: str) -> list[str]:
    if route["class"] == "internal":
        return ["not-found"]
    own = [f"{kind}-{route['name']}" for kind, key in _OWN.items() if route[key]]
    return [f"class-{route['class']}{source}", *own, "retry"]


_OWN = {"fresh": "cache_seconds", "cache": "cache_seconds", "body": "body_limit_bytes"}


def _own_middlewares(routes: list[Route]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for route in routes:
        name = route["name"]
        if route["body_limit_bytes"]:
            result[f"body-{name}"] = {"buffering": {"maxRequestBodyBytes": route["body_limit_bytes"]}}
        if route["cache_seconds"]:
            # A shared cache must not hand out what only an authenticated operator may have.
            scope = "public" if route["class"] == "public" else "private"
            value = f"{scope}, max-age={route['cache_seconds']}, immutable"
            result[f"cache-{name}"] = {"headers": {"customResponseHeaders": {"Cache-Control": value}}}
            # An asset that is missing today must not be missing for a year: an error loses the header again.
            result[f"fresh-{name}"] = {
                "errors": {"status": ["400-599"], "service": "noop@internal", "query": "/"}
            }
    return result


def _services(routes: list[Route]) -> dict[str, Any]:
    return {_service_name(routes, route): _service(route) for route in routes if route["servers"]}


def _service_name(routes: list[Route], route: Route) -> str:
    """Routes with the same back ends share one service, so that each back end is checked once per interval."""
    if not route["servers"]:
        return "noop@internal"
    label = _label(route)
    alike = [other for other in routes if other["servers"] and _label(other) == label]
    if len({_backend(other) for other in alike}) == 1:
        return label
    return f"{label}-{next(other['name'] for other in alike if _backend(other) == _backend(route))}"


def _label(route: Route) -> str:
    """n8n-webhook of http://n8n-webhook-1:5678: what logs and metrics call the back ends."""
    return re.sub(r"-\d+$", "", urlsplit(route["servers"][0]).hostname or "").replace(".", "-")


def _backend(route: Route) -> tuple[Any, ...]:
    return (tuple(route["servers"]), route["health_path"], route["health_port"], route["health_interval"])


def _service(route: Route) -> dict[str, Any]:
    balancer: dict[str, Any] = {
        "servers": [{"url": server} for server in route["servers"]],
        "serversTransport": "backend",
    }
    if route["health_path"]:
        interval = route["health_interval"]
        check = {
            "path": route["health_path"],
            "interval": interval,
            "unhealthyInterval": interval,
            "timeout": "2s",
        }
        if route["health_port"]:
            check["port"] = route["health_port"]
        balancer["healthCheck"] = check
    return {"loadBalancer": balancer}


def edge_hosts(contributions: Iterable[Mapping[str, Any]], domain: str) -> list[str]:
    """Every host name that a contribution routes, sorted."""
    return sorted({f"{entry['host']}.{domain}" for c in contributions for entry in c.get("edge") or []})


def settings_problems(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the role's inputs, each naming its variable.

    `cidrs` {variable: list}, `ports` {variable: int}.
    """
    problems = [p for variable, cidrs in settings["cidrs"].items() for p in _cidr_problems(variable, cidrs)]
    ports = {variable: int(port) for variable, port in settings["ports"].items()}
    problems += [f"{v}: {port} is no port" for v, port in ports.items() if not 0 < port < 65536]
    if len(set(ports.values())) < len(ports):
        problems.append(f"{' and '.join(ports)} must differ")
    return problems


def _cidr_problems(variable: str, cidrs: Iterable[str]) -> list[str]:
    problems = []
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            problems.append(f"{variable}: {error}")
    return problems


class FilterModule:
    """`traefik_merge_routes`, `traefik_routers`, `traefik_edge_hosts`, `traefik_settings_problems`."""

    def filters(self) -> dict[str, Any]:
        return {
            "traefik_merge_routes": merge_routes,
            "traefik_routers": traefik_routers,
            "traefik_edge_hosts": edge_hosts,
            "traefik_settings_problems": settings_problems,
        }
