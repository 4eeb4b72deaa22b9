"""Numbered copies of a definition, slot networks, and n8n's environment from its table."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins/filter"))
import n8n_slots


def test_copies_are_numbered_at_every_depth() -> None:
    template = {"n8n-worker-<i>": {"networks": ["data", "slot-<i>"], "limits": {"pids": 256}}}
    assert n8n_slots.n8n_slots(template, 2) == {
        "n8n-worker-1": {"networks": ["data", "slot-1"], "limits": {"pids": 256}},
        "n8n-worker-2": {"networks": ["data", "slot-2"], "limits": {"pids": 256}},
    }


def test_a_list_gives_one_list_and_counts_may_be_text() -> None:
    assert n8n_slots.n8n_slots(["http://w-<i>:1"], "2") == ["http://w-1:1", "http://w-2:1"]


def test_fifty_slots_have_networks_that_do_not_overlap_and_lie_in_the_pool() -> None:
    pool = ipaddress.ip_network("10.201.0.0/22")
    template = {"slot-<i>": {"ipam": {"config": [{"subnet": "<subnet>"}]}}}
    made = n8n_slots.n8n_slots(template, 50, str(pool))
    subnets = [ipaddress.ip_network(made[f"slot-{i}"]["ipam"]["config"][0]["subnet"]) for i in range(1, 51)]
    assert all(subnet.subnet_of(pool) and subnet.prefixlen == 28 for subnet in subnets)  # type: ignore[arg-type]
    assert len({address for subnet in subnets for address in subnet}) == 50 * 16


def test_the_subnet_of_a_slot_depends_on_its_number_only() -> None:
    assert n8n_slots.slot_subnet("10.201.0.0/22", 3) == "10.201.0.48/28"


def test_a_copy_has_addresses_of_its_own() -> None:
    assert n8n_slots.copy_subnet("10.201.4.0/22") == "10.202.4.0/22"
    with pytest.raises(
        AnsibleFilterError, match=r"restore_scratch_slot_subnet: 255\.255\.0\.0/22 has no neigh"
    ):
        n8n_slots.copy_subnet("255.255.0.0/22")


@pytest.mark.parametrize("number", [0, 64])
def test_a_pool_that_is_too_small_is_named(number: int) -> None:
    with pytest.raises(AnsibleFilterError, match=r"platform_slot_subnet: 10\.201\.0\.0/22 has room for 63"):
        n8n_slots.slot_subnet("10.201.0.0/22", number)


TABLE = [
    {"name": "EXECUTIONS_MODE", "value": "queue", "reason": "r"},
    {"name": "N8N_METRICS", "value": True, "reason": "r"},
    {"name": "N8N_PROXY_HOPS", "value": 1, "for": ["main"], "reason": "r"},
    {"name": "N8N_SMTP_HOST", "value": "", "for": ["main"], "when": False, "reason": "r"},
    {"name": "TZ", "value": "Etc/UTC", "for": ["worker", "runner"], "reason": "r"},
]


def test_a_process_gets_its_rows_as_text() -> None:
    assert n8n_slots.n8n_environment(TABLE, "main") == {
        "EXECUTIONS_MODE": "queue",
        "N8N_METRICS": "true",
        "N8N_PROXY_HOPS": "1",
    }


def test_the_operators_variables_win_but_never_reach_a_runner() -> None:
    extra = {"N8N_METRICS": "false"}
    assert n8n_slots.n8n_environment(TABLE, "worker", extra)["N8N_METRICS"] == "false"
    assert n8n_slots.n8n_environment(TABLE, "runner", extra) == {"TZ": "Etc/UTC"}


def test_a_name_twice_for_one_process_is_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match="EXECUTIONS_MODE: twice in the table for main"):
        n8n_slots.n8n_environment([*TABLE, {"name": "EXECUTIONS_MODE", "value": "regular"}], "main")
