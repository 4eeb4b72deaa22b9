"""Sizes that were promised."""

from pathlib import Path

import pytest
import yaml
from ansible.module_utils.n8n_platform import preflight

ROOT = Path(__file__).resolve().parents[2]
PROFILES = yaml.safe_load((ROOT / "group_vars/all/profiles.yml").read_text())["platform_profiles"]


def test_small_fits_a_host_of_eight_gigabytes():
    assert preflight.needed_memory_mb(PROFILES["small"]) <= 6144


def test_standard_is_what_was_asked_for():
    standard = PROFILES["standard"]
    assert (standard["workers"], standard["webhooks"]) == (5, 2)
    assert standard["main"] == {"memory_mb": 2048, "cpus": "2.0"}


@pytest.mark.parametrize(("smaller", "larger"), [("small", "standard"), ("standard", "large")])
def test_a_larger_profile_gives_no_service_less(smaller, larger):
    for name, part in PROFILES[smaller].items():
        sizes = part if isinstance(part, dict) else {"": part}
        others = PROFILES[larger][name] if isinstance(part, dict) else {"": PROFILES[larger][name]}
        assert all(float(size) <= float(others[key]) for key, size in sizes.items()), name
    assert set(PROFILES[smaller]) == set(PROFILES[larger])
