#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Ask every route of the edge from outside and compare the answers with the routes' classes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: traefik_probe
short_description: Ask every route of the edge from outside and compare the answers with the routes' classes
description:
  - One GET per route over TLS, with the certificate checked and the host name as SNI and Host; names need not resolve.
  - Also the redirect of the plain port and the days that the certificate has left.
  - Changes nothing and carries no credentials.
options:
  address:
    description: Address that the ports are published on; that of all interfaces stands for the local one.
    type: str
    required: true
  http_port:
    description: Plain port.
    type: int
    required: true
  https_port:
    description: TLS port.
    type: int
    required: true
  ca_file:
    description: PEM file that verifies the certificate; empty, the system's.
    type: str
    default: ""
  routes:
    description: What the filter P(traefik_merge_routes#filter) returns.
    type: list
    elements: dict
    required: true
  realm:
    description: Realm of class operator, by which its refusal is told from a back end's own.
    type: str
    required: true
  maintenance:
    description: Every route is expected to answer 503.
    type: bool
    default: false
  min_days:
    description: Fewest days that each certificate must have left.
    type: int
    default: 14
  timeout:
    description: Seconds per request; to the first one for its public API n8n answers only after it has built it.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: verify | Ask every route from outside
  traefik_probe:
    address: 127.0.0.1
    http_port: 8440
    https_port: 8443
    ca_file: /var/lib/n8n-platform/local/ca.crt
    routes: "{{ platform_contributions | traefik_merge_routes(platform_domain) }}"
    realm: n8n-local
"""

RETURN = r"""
answers:
  description: Per route its name, address, class and status (0, no answer).
  returned: always
  type: list
  elements: dict
certificates:
  description: Days left per host name.
  returned: always
  type: dict
problems:
  description: What is not as it should be; the module fails unless this is empty.
  returned: always
  type: list
  elements: str
"""

import socket
import ssl
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient, Response

ALL_INTERFACES = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
ANY_STATUS = tuple(range(400, 600))
SECONDS_PER_DAY = 86400


def build_spec() -> dict[str, Any]:
    return {
        "address": {"type": "str", "required": True},
        "http_port": {"type": "int", "required": True},
        "https_port": {"type": "int", "required": True},
        "ca_file": {"type": "str", "default": ""},
        "routes": {"type": "list", "elements": "dict", "required": True},
        "realm": {"type": "str", "required": True},
        "maintenance": {"type": "bool", "default": False},
        "min_days": {"type": "int", "default": 14},
        "timeout": {"type": "int", "default": 30},
    }


def judge(route_class: str, status: int, asks_for_password: bool, maintenance: bool = False) -> str:
    """What is wrong with an answer without credentials, empty when nothing is.

    An allow-list may leave this host out, so 403 is as good as the password prompt; a back end answers what it likes.
    """
    if maintenance:
        return "" if status == 503 else f"expected 503 during maintenance, got {status}"
    if route_class == "internal":
        return "" if status == 404 else f"must not exist outside (404), got {status}"
    if route_class == "operator":
        return "" if asks_for_password or status == 403 else f"expected 401 of the edge or 403, got {status}"
    if asks_for_password:
        return "asks for the operator's password"
    refusals = (401, 403) if route_class == "public" else ()
    return (
        ""
        if 0 < status < 500 and status not in refusals
        else f"expected an answer of the back end, got {status}"
    )


class Manager:
    """Asks and judges; it has nothing to apply."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self._connect_to = ALL_INTERFACES.get(params["address"], params["address"])
        self.answers: list[dict[str, Any]] = []
        self.certificates: dict[str, int] = {}

    def plan(self) -> list[str]:
        """The problems."""
        hosts = sorted({route["fqdn"] for route in self.params["routes"]})
        found = [problem for host in hosts for problem in self._check_host(host)]
        return found + [problem for route in self.params["routes"] for problem in self._check_route(route)]

    def _check_host(self, host: str) -> list[str]:
        problems = []
        try:
            self.certificates[host] = self._days_left(host)
            if self.certificates[host] < self.params["min_days"]:
                problems.append(f"{host}: the certificate ends in {self.certificates[host]} days")
        except OSError as error:
            problems.append(f"{host}: no TLS on port {self.params['https_port']}: {error}")
        expected = f"https://{host}{_port_suffix(self.params['https_port'])}/"
        answer = self._get(f"http://{host}:{self.params['http_port']}", "/")
        location = answer.headers.get("Location", "nothing") if answer else "nothing"
        if location != expected:
            problems.append(f"{host}: port {self.params['http_port']} leads to {location}, not to {expected}")
        return problems

    def _days_left(self, host: str) -> int:
        context = ssl.create_default_context(cafile=self.params["ca_file"] or None)
        address = (self._connect_to, self.params["https_port"])
        with (
            socket.create_connection(address, self.params["timeout"]) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            certificate = secure.getpeercert() or {}
        return int((ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) // SECONDS_PER_DAY)

    def _check_route(self, route: dict[str, Any]) -> list[str]:
        path = route["paths"][0] if route["paths"] else None
        if path is None:
            return []
        answer = self._get(f"https://{route['fqdn']}:{self.params['https_port']}", path)
        status = answer.status if answer else 0
        asks = answer is not None and f'realm="{self.params["realm"]}"' in answer.headers.get(
            "WWW-Authenticate", ""
        )
        seen = {
            "route": route["name"],
            "host": route["fqdn"],
            "path": path,
            "class": route["class"],
            "status": status,
        }
        self.answers.append(seen)
        problem = judge(route["class"], status, asks, self.params["maintenance"])
        return (
            [f"route {route['name']} ({route['class']}) {route['fqdn']}{path}: {problem}"] if problem else []
        )

    def _get(self, base_url: str, path: str) -> Response | None:
        client = JsonClient(
            base_url,
            timeout=self.params["timeout"],
            ca_file=self.params["ca_file"] or None,
            connect_to=self._connect_to,
        )
        try:
            return client.request("GET", path, allowed=ANY_STATUS)
        except HttpError:
            return None


def _port_suffix(port: int) -> str:
    return "" if port == 443 else f":{port}"


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    manager = Manager(module.params)
    problems = manager.plan()
    result = {"answers": manager.answers, "certificates": manager.certificates, "problems": problems}
    if problems:
        module.fail_json(msg="the edge does not answer as its routes say: " + "; ".join(problems), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
