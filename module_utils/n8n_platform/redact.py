"""Keeping secret values out of what a module reports."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

MASK = "********"
_SECRET_KEY = re.compile(
    r"(password|passwd|secret|token|api_?key|private_?key|credential|authorization|cookie)", re.IGNORECASE
)


def redact_values(data: Any, values: Iterable[str]) -> Any:
    """A copy of `data` (text, lists, dictionaries) in which each of `values` is replaced, the longest first."""
    known = sorted({value for value in values if value}, key=len, reverse=True)
    return _walk(data, lambda text: _mask_all(text, known))


def redact_keys(data: Any) -> Any:
    """A copy of `data` in which what stands under a key that sounds secret is replaced, whatever its type."""
    if isinstance(data, dict):
        return {
            key: MASK if _SECRET_KEY.search(str(key)) and value else redact_keys(value)
            for key, value in data.items()
        }
    if isinstance(data, (list, tuple)):
        return [redact_keys(item) for item in data]
    return data


def withhold(module: Any, option: str, key: str) -> dict[str, str]:
    """Takes the secret sub-option `key` out of the list `option`, by each entry's name.

    Ansible masks every occurrence of a no_log value in a result, even inside a name that happens to contain it.
    Once the values are out of the parameters nothing can leak, and names stay readable.
    """
    taken = {}
    for entry in module.params[option]:
        value = entry.pop(key, None)
        if value:
            taken[entry["name"]] = value
            module.no_log_values.discard(value)
    return taken


def _mask_all(text: str, values: list[str]) -> str:
    for value in values:
        text = text.replace(value, MASK)
    return text


def _walk(data: Any, change: Any) -> Any:
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        return {_walk(key, change): _walk(value, change) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_walk(item, change) for item in data]
    return data
