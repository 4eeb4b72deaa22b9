"""Plain data as YAML text, with the standard library: same input, same bytes."""

from __future__ import annotations

import json
import re
from typing import Any

_PLAIN = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.@-]*")
_RESERVED = {"y", "n", "yes", "no", "true", "false", "on", "off", "null"}


def dump(value: dict[str, Any]) -> str:
    """Block style, keys in the order given; the input holds dict, list, str, int, float, bool and None
    only."""
    return "\n".join(_mapping(value, "")) + "\n"


def _mapping(value: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, item in value.items():
        lines += _entry(f"{indent}{_scalar(str(key))}:", item, indent + "  ")
    return lines


def _entry(head: str, item: Any, indent: str) -> list[str]:
    if isinstance(item, dict) and item:
        return [head, *_mapping(item, indent)]
    if isinstance(item, list) and item:
        return [head, *_sequence(item, indent)]
    return [f"{head} {_scalar(item)}"]


def _sequence(value: list[Any], indent: str) -> list[str]:
    lines = []
    for item in value:
        if isinstance(item, dict) and item:
            first, *rest = _mapping(item, indent + "  ")
            lines += [f"{indent}- {first.lstrip()}", *rest]
        else:
            lines.append(f"{indent}- {_scalar(item)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)
