"""A contribution that keeps every rule, to be broken by tests."""

from __future__ import annotations

import copy
from typing import Any

SERVICE: dict[str, Any] = {
    "image": "n8n-platform/base:0123456789ab",
    "user": "1000:1000",
    "networks": ["data"],
    "healthcheck": {"test": ["CMD", "true"]},
    "deploy": {"resources": {"limits": {"cpus": "0.5", "memory": "64M", "pids": 20}}},
}


def contribution(role: str = "db", name: str = "db", networks: Any = None, **service: Any) -> dict[str, Any]:
    """One role with one service; `networks` are the contributed definitions."""
    definition = {**copy.deepcopy(SERVICE), **service}
    return {
        "role": role,
        "service": {"services": {name: definition}, "networks": networks or {"data": {"internal": True}}},
    }
