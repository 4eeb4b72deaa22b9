"""Filters of the roles n8n and n8n_workers: numbered copies of a definition, and n8n's environment from its table."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

NUMBER = "<i>"
SUBNET = "<subnet>"
SUBNET_PREFIX = 28
EVERYWHERE = ("main", "webhook", "worker")


def slot_subnet(pool: str, number: int) -> str:
    """The `number`-th /28 of `pool` (the 0th stays free, so that slot 1 is the first)."""
    network = ipaddress.ip_network(pool)
    room = 2 ** max(SUBNET_PREFIX - network.prefixlen, 0)
    if not 0 < number < room:
        raise AnsibleFilterError(
            f"platform_slot_subnet: {pool} has room for {room - 1} slots, not for slot {number}"
        )
    size = 2 ** (network.max_prefixlen - SUBNET_PREFIX)
    return f"{network.network_address + number * size}/{SUBNET_PREFIX}"


def copy_subnet(pool: str) -> str:
    """As large as `pool`, 65536 addresses further: for a copy that runs beside the environment."""
    network = ipaddress.ip_network(pool)
    try:
        return f"{network.network_address + 2**16}/{network.prefixlen}"
    except ipaddress.AddressValueError:
        raise AnsibleFilterError(f"restore_scratch_slot_subnet: {pool} has no neighbour; name one") from None


def n8n_slots(template: Any, count: Any, pool: str = "") -> Any:
    """Copies of `template` for 1..count, merged: `<i>` becomes the number, `<subnet>` its /28 of `pool`.

    A dictionary gives one dictionary, a list one list. Keys and strings are replaced at every depth.
    """
    copies = []
    for number in range(1, int(count) + 1):
        words = {NUMBER: str(number)} | ({SUBNET: slot_subnet(pool, number)} if pool else {})
        copies.append(_replace(template, words))
    if isinstance(template, Mapping):
        return {key: value for copy in copies for key, value in copy.items()}
    return [item for copy in copies for item in copy]


def n8n_environment(
    table: Iterable[Mapping[str, Any]], process: str, extra: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """{name: text} of one process (main, webhook, worker, runner); `extra` wins and does not reach runners."""
    rows = [row for row in table if process in row.get("for", EVERYWHERE) and row.get("when", True)]
    environment: dict[str, str] = {}
    for row in rows:
        if row["name"] in environment:
            raise AnsibleFilterError(f"{row['name']}: twice in the table for {process}")
        environment[row["name"]] = _text(row["value"])
    return environment | (
        {} if process == "runner" else {name: str(value) for name, value in (extra or {}).items()}
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _replace(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {_replace(key, words): _replace(item, words) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace(item, words) for item in value]
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(word, text)
    return value


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "n8n_environment": n8n_environment,
            "n8n_slots": n8n_slots,
            "n8n_slot_subnet": slot_subnet,
            "n8n_copy_subnet": copy_subnet,
        }
