#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Keep the address ranges that a CDN publishes in a file of variables."""

from __future__ import annotations

DOCUMENTATION = r"""
module: traefik_cdn_ranges
short_description: Keep the address ranges that a CDN publishes in a file of variables
description:
  - Whoever sends from one of these ranges is believed when it names its client, so a list is taken only over TLS and
    only as a whole. An answer that is no list of public ranges fails, naming the address, and leaves the file alone.
  - Understands plain lists, one range a line (Cloudflare), and the JSON of C(ip-ranges.json) (CloudFront).
options:
  urls:
    description: Where the CDN publishes its ranges. All lists together make the variable.
    type: list
    elements: str
    required: true
  service:
    description: Whose entries of a JSON list are taken.
    type: str
    default: CLOUDFRONT_ORIGIN_FACING
  path:
    description: File to write, YAML of the one variable. Its folder must exist.
    type: path
    required: true
  variable:
    description: Name of the variable.
    type: str
    default: traefik_trusted_proxy_cidrs
  ca_file:
    description: PEM file of an authority to trust besides the system's.
    type: path
  timeout:
    description: Seconds for connecting and for each read.
    type: int
    default: 30
attributes:
  check_mode: {description: Fetches and compares., support: full}
  diff_mode: {description: The file before and after., support: full}
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: Fetch Cloudflare's ranges
  traefik_cdn_ranges:
    urls: [https://www.cloudflare.com/ips-v4, https://www.cloudflare.com/ips-v6]
    path: "{{ inventory_dir }}/group_vars/all/60-cdn.yml"
  delegate_to: localhost
"""

RETURN = r"""
ranges:
  description: The ranges, IPv4 first.
  returned: success
  type: list
  elements: str
"""

import ipaddress
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform.files import write_file

_LARGEST_ANSWER = 32 * 1024 * 1024
# A shorter prefix is no CDN's but a mistake, by which half of the world would be believed.
_SHORTEST_PREFIX = {4: 8, 6: 16}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RangesError(Exception):
    """Names the address that was asked and what is wrong with its answer."""


def build_spec() -> dict[str, Any]:
    return {
        "urls": {"type": "list", "elements": "str", "required": True},
        "service": {"type": "str", "default": "CLOUDFRONT_ORIGIN_FACING"},
        "path": {"type": "path", "required": True},
        "variable": {"type": "str", "default": "traefik_trusted_proxy_cidrs"},
        "ca_file": {"type": "path"},
        "timeout": {"type": "int", "default": 30},
    }


class Manager:
    """Raises RangesError and OSError."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params, self.path = params, Path(params["path"])
        found = {network for url in params["urls"] for network in self._ask(url)}
        if not found:
            raise RangesError("urls: no address is given")
        self.ranges = [str(network) for network in sorted(found, key=lambda n: (n.version, n))]
        self.before = self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    @property
    def after(self) -> str:
        lines = [f"# Published at {url}" for url in self.params["urls"]]
        lines += [f"{self.params['variable']}:", *(f'  - "{each}"' for each in self.ranges)]
        return "\n".join(["---", *lines, ""])

    def plan(self) -> list[str]:
        return [] if self.before == self.after else [f"write {self.path}"]

    def apply(self) -> None:
        write_file(self.path, self.after, mode=0o644)

    def _ask(self, url: str) -> list[Network]:
        context = ssl.create_default_context()
        if self.params["ca_file"]:
            context.load_verify_locations(self.params["ca_file"])
        try:
            with urlopen(url, timeout=self.params["timeout"], context=context) as answer:
                text = answer.read(_LARGEST_ANSWER).decode()
                came_from = answer.geturl()
        except (OSError, ValueError) as error:
            raise RangesError(f"{url}: {error}") from None
        if not came_from.startswith("https://"):
            raise RangesError(f"{url}: only an answer over TLS proves whose list it is")
        found = [_network(url, each) for each in _listed(url, text, self.params["service"])]
        if not found:
            raise RangesError(f"{url}: the answer names no ranges")
        return found


def _listed(url: str, text: str, service: str) -> list[str]:
    if not text.lstrip().startswith("{"):
        return text.split()
    try:
        document = json.loads(text)
        entries = [*document["prefixes"], *document["ipv6_prefixes"]]
        return [
            each.get("ip_prefix") or each["ipv6_prefix"] for each in entries if each["service"] == service
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RangesError(f"{url}: the answer is not the JSON of ip-ranges.json") from None


def _network(url: str, text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise RangesError(f"{url}: {text[:60]!r} is no address range") from None
    if network.prefixlen < _SHORTEST_PREFIX[network.version] or not network.is_global:
        raise RangesError(f"{url}: {text} is no public range of a CDN")
    return network


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        manager = Manager(module.params)
        changes = manager.plan()
        if changes and not module.check_mode:
            manager.apply()
    except (RangesError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(changes),
        ranges=manager.ranges,
        diff={"before": manager.before, "after": manager.after},
    )


if __name__ == "__main__":
    main()
