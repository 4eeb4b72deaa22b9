"""Every role has the shape that docs/role-contract.md sets."""

import re
from pathlib import Path
from typing import Any

import pytest
from contract.conftest import ROLES, ROOT, load, options_of, task_files, text_of, walk

REQUIRED = ("README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml")
CONTRIBUTIONS = {"role", "service", "edge", "volumes", "secrets", "schedule", "metrics", "logs", "backup"}
SERVICE_ROOTS = re.compile(r"/var/(lib|cache)/n8n-platform|n8n-(local|staging|production)\b")
CEILINGS = {
    "tasks/main.yml": 60,
    "tasks/*.yml": 150,
    "defaults/*.yml": 150,
    "templates/**/*": 200,
    "README.md": 80,
}

every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


@every_role
def test_it_has_the_files_of_the_contract(role: Path) -> None:
    assert [name for name in REQUIRED if not (role / name).is_file()] == []


@every_role
def test_defaults_and_argument_specs_name_the_same_inputs(role: Path) -> None:
    defaults, options = load(role / "defaults/main.yml") or {}, options_of(role)
    required = {name for name, option in options.items() if option.get("required")}
    assert set(defaults) == set(options) - required


@every_role
def test_literal_defaults_are_equal(role: Path) -> None:
    options = options_of(role)
    different = {
        name: (value, options[name].get("default"))
        for name, value in (load(role / "defaults/main.yml") or {}).items()
        if name in options and "{{" not in str(value) and value not in (None, "", [], {})
        if options[name].get("default") != value
    }
    assert different == {}


@every_role
def test_every_option_has_a_type_and_a_description(role: Path) -> None:
    assert [
        name for name, option in options_of(role).items() if not {"type", "description"} <= set(option)
    ] == []


@every_role
def test_a_templated_default_is_left_out_of_the_spec(role: Path) -> None:
    assert [name for name, option in options_of(role).items() if "{{" in str(option.get("default", ""))] == []


@every_role
def test_only_the_entry_main_is_specified(role: Path) -> None:
    assert list((load(role / "meta/argument_specs.yml") or {}).get("argument_specs", {})) == ["main"]


@every_role
def test_rules_are_about_the_roles_own_inputs(role: Path) -> None:
    rules = load(role / "meta/validation.yml") or {}
    assert set(rules) <= {"ranges", "patterns", "renamed", "host_ports", "time_zones"}
    own = set(options_of(role)) | set(platform_options() if role.name == "platform_preflight" else {})
    named = [
        *rules.get("ranges", {}),
        *rules.get("patterns", {}),
        *rules.get("host_ports", []),
        *rules.get("time_zones", []),
    ]
    assert set(named) <= own
    known = set(platform_options()).union(*(options_of(other) for other in ROLES))
    assert set(rules.get("renamed", {}).values()) <= known
    assert set(rules.get("renamed", {})) & known == set()


def platform_options() -> dict[str, Any]:
    specs = load(ROOT / "roles/platform_preflight/meta/platform_variables.yml")
    options: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    return options


def test_every_shared_variable_is_described() -> None:
    shared = {name for path in (ROOT / "group_vars/all").glob("*.yml") for name in load(path) or {}}
    assert {name for name in shared if name.startswith("platform_")} <= set(platform_options())


@every_role
def test_inputs_and_internals_have_the_roles_prefix(role: Path) -> None:
    strangers = [
        name for name in load(role / "defaults/main.yml") or {} if not name.startswith(f"{role.name}_")
    ]
    strangers += [
        name for name in load(role / "vars/main.yml") or {} if not name.startswith(f"__{role.name}_")
    ]
    assert strangers == []


@every_role
def test_registers_and_loop_variables_have_the_roles_prefix(role: Path) -> None:
    names: list[str | None] = []
    for path in task_files(role):
        for task in walk(load(path)):
            names += [
                task.get("register"),
                *(task.get("vars") or {}),
                *(task.get("ansible.builtin.set_fact") or {}),
            ]
            names += [(task.get("loop_control") or {}).get("loop_var", "item")] if "loop" in task else []
    assert [name for name in names if name and not re.match(rf"__{role.name}(_|$)", name)] == []


@every_role
def test_tasks_are_named_after_their_file(role: Path) -> None:
    wrong = []
    for path in sorted(role.glob("tasks/*.yml")):
        for task in walk(load(path)):
            name = task.get("name", "")
            is_import = any(
                key.endswith(("import_tasks", "include_tasks", "import_role", "include_role")) for key in task
            )
            if is_import and not name:
                continue
            if is_import and path.name == "main.yml":
                continue
            if not re.fullmatch(rf"{path.stem} \| [A-Z][^{{]*", name):
                wrong.append(f"{path.name}: {name!r}")
    assert wrong == []


@every_role
def test_files_stay_below_their_ceiling(role: Path) -> None:
    too_long = []
    for pattern, ceiling in CEILINGS.items():
        for path in role.glob(pattern):
            lines = len(text_of(path).splitlines()) if path.is_file() else 0
            if lines > ceiling:
                too_long.append(f"{path.relative_to(role)}: {lines} lines, {ceiling} allowed")
    assert too_long == []


@every_role
def test_nothing_of_an_environment_is_written_literally(role: Path) -> None:
    found = []
    for path in role.rglob("*.[yj][m2]*"):
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if SERVICE_ROOTS.search(line.split(" #")[0]) and not line.lstrip().startswith("#"):
                found.append(f"{path.relative_to(role)}:{number}: {line.strip()}")
    assert found == []


@every_role
def test_it_contributes_only_known_kinds(role: Path) -> None:
    contributions = {
        k: v for k, v in (load(role / "vars/main.yml") or {}).items() if k.endswith("_contribution")
    }
    for name, contribution in contributions.items():
        assert name == f"__{role.name}_contribution"
        if isinstance(contribution, dict):
            assert set(contribution) <= CONTRIBUTIONS
            assert contribution["role"] == role.name


@every_role
def test_metadata_is_complete(role: Path) -> None:
    info = (load(role / "meta/main.yml") or {}).get("galaxy_info", {})
    assert info.get("license") == "MIT"
    assert info.get("author") == "n8n platform maintainers"
    assert str(info.get("min_ansible_version")) == "2.19"
    assert {platform["name"] for platform in info.get("platforms", [])} == {"Debian", "Ubuntu"}
