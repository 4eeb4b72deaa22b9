"""All variables of a host against what the roles take."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import trust_as_template

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"plugins/action/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


validate = load("platform_validate")


@pytest.fixture
def roles(tmp_path: Path) -> Path:
    """One role `cache` and the shared variable `platform_size_mb`."""
    files: dict[str, Any] = {
        "cache/defaults/main.yml": {
            "cache_memory_mb": "{{ platform_size_mb }}",
            "cache_policy": "lru",
            "cache_port": "{{ platform_port_base + 1 }}",
            "cache_late": "{{ __cache_registered.path }}",
        },
        "cache/meta/argument_specs.yml": {
            "argument_specs": {
                "main": {
                    "options": {
                        "cache_memory_mb": {"type": "int", "description": "MiB"},
                        "cache_policy": {"type": "str", "choices": ["lru", "lfu"]},
                        "cache_port": {"type": "int"},
                        "cache_password": {"type": "int", "no_log": True},
                        "cache_late": {"type": "str"},
                        "cache_zone": {"type": "str"},
                    }
                }
            }
        },
        "cache/meta/validation.yml": {
            "ranges": {"cache_memory_mb": {"min": 64}},
            "renamed": {"cache_size": "cache_memory_mb"},
            "patterns": {"cache_policy": {"regexp": "l..", "says": "three letters"}},
            "host_ports": ["cache_port"],
            "time_zones": ["cache_zone"],
        },
        "platform_preflight/meta/platform_variables.yml": {
            "argument_specs": {
                "main": {
                    "options": {
                        "platform_size_mb": {"type": "int", "required": True},
                        "platform_port_base": {"type": "int"},
                    }
                }
            }
        },
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return tmp_path


def validation(roles: Path, **variables: Any) -> Any:
    loader = DataLoader()
    given = {
        name: trust_as_template(value) if isinstance(value, str) else value
        for name, value in variables.items()
    }
    given = {"platform_size_mb": 128, "platform_port_base": 8000, "inventory_hostname": "h"} | given
    return validate.Validation(validate.Specification.of_roles(roles, loader), given, loader)


def problems(roles: Path, **variables: Any) -> list[str]:
    found: list[str] = validation(roles, **variables).problems()
    return found


def test_good_input_passes_and_the_ports_on_the_host_are_known(roles: Path) -> None:
    good = validation(roles, cache_memory_mb="256", site_own="x", ansible_user="u", __helper=1)
    assert good.problems() == []
    assert good.host_ports() == {"cache_port": 8001}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"cache_polciy": "lru"}, "cache_polciy: no role takes it; did you mean cache_policy?"),
        ({"zzz": 1}, "zzz: no role takes it"),
        ({"cache_size": 1}, "cache_size: has been renamed, use cache_memory_mb"),
        ({"cache_memory_mb": 63}, "cache_memory_mb: 63 is out of range, it must be at least 64"),
        ({"cache_policy": "fifo"}, "cache_policy: value of cache_policy must be one of: lru, lfu, got: fifo"),
        ({"cache_memory_mb": "much"}, "cache_memory_mb: argument 'cache_memory_mb' is of type str"),
        (
            {"cache_policy": "{{ nothing }}"},
            "cache_policy: refers to something undefined: 'nothing' is undefined",
        ),
        ({"cache_policy": "{{ 1/0 }}"}, "cache_policy: cannot be evaluated"),
    ],
)
def test_bad_input_is_refused_by_name(roles: Path, variables: dict[str, Any], problem: str) -> None:
    found = problems(roles, **variables)
    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "Etc/UTC", "UTC", "Etc/GMT-14"])
def test_a_time_zone_in_use_is_taken(roles: Path, zone: str) -> None:
    assert problems(roles, cache_zone=zone) == []


@pytest.mark.parametrize(
    ("zone", "meant"), [("Europe/Berln", "Europe/Berlin"), ("Asia/Calcutta", ""), ("US/Eastern", "")]
)
def test_no_time_zone_and_a_former_name_of_one_are_refused(roles: Path, zone: str, meant: str) -> None:
    (problem,) = problems(roles, cache_zone=zone)
    assert problem.startswith(f"cache_zone: '{zone}' is no time zone such as Europe/Berlin")
    assert meant in problem


def test_all_problems_are_listed(roles: Path) -> None:
    assert len(problems(roles, cache_polciy="x", cache_memory_mb=1, cache_port="no")) == 3


def test_the_value_of_a_secret_is_not_repeated(roles: Path) -> None:
    assert problems(roles, cache_password="hunter2") == ["cache_password: is not a valid int"]


def test_a_required_variable_is_missed(roles: Path) -> None:
    found = problems(roles, platform_size_mb=None)
    assert "platform_size_mb: is required" in found


def test_a_value_that_waits_for_facts_is_left_alone(roles: Path) -> None:
    assert problems(roles, cache_policy="{{ ansible_facts.distribution }}") == []
