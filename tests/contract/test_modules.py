"""Modules: documentation and arguments agree, and they have the shape of the contract."""

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract.conftest import ROOT

MODULES = sorted((ROOT / "library").glob("*.py"))
UTILITIES = sorted((ROOT / "module_utils/n8n_platform").glob("*.py"))
KEYS = ("type", "required", "default", "choices", "elements")
SECRET = re.compile(r"(password|secret|secret_id|token|api_key|private_key)$")
every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


def documented(path: Path, name: str) -> Any:
    text = getattr(importlib.import_module(path.stem), name)
    return yaml.safe_load(text)


def compare(name: str, options: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    problems = [f"{name}{key}: only documented" for key in set(options) - set(spec)]
    problems += [f"{name}{key}: not documented" for key in set(spec) - set(options)]
    for key in sorted(set(options) & set(spec)):
        for attribute in KEYS:
            empty = {"required": False, "type": "str"}.get(attribute)
            said, true = options[key].get(attribute, empty), spec[key].get(attribute, empty)
            if said != true:
                problems.append(f"{name}{key}.{attribute}: documented {said!r}, is {true!r}")
        problems += compare(
            f"{name}{key}.", options[key].get("suboptions") or {}, spec[key].get("options") or {}
        )
    return problems


@every_module
def test_documentation_and_arguments_agree(path: Path) -> None:
    assert (
        compare(
            "",
            documented(path, "DOCUMENTATION").get("options") or {},
            importlib.import_module(path.stem).build_spec(),
        )
        == []
    )


@every_module
def test_arguments_that_look_like_secrets_say_whether_they_are(path: Path) -> None:
    """`no_log: true` keeps a value out of logs and results; `false` says that the name only looks like one."""
    spec = importlib.import_module(path.stem).build_spec()
    assert [name for name, option in spec.items() if SECRET.search(name) and "no_log" not in option] == []


@every_module
def test_it_is_documented_in_whole(path: Path) -> None:
    documentation = documented(path, "DOCUMENTATION")
    assert documentation["module"] == path.stem
    assert {"check_mode", "diff_mode"} <= set(documentation["attributes"])
    assert documented(path, "EXAMPLES")
    documented(path, "RETURN")


@every_module
def test_it_has_the_common_shape(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"build_spec", "main"} <= set(functions)
    main = functions["main"]
    assert main.end_lineno and main.end_lineno - main.lineno < 25
    if "exit_json(changed=False" in path.read_text():
        return  # only looks
    managers = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Manager"]
    assert len(managers) == 1
    assert "plan" in {node.name for node in managers[0].body if isinstance(node, ast.FunctionDef)}
    assert "supports_check_mode=True" in path.read_text()


@pytest.mark.parametrize("path", [*MODULES, *UTILITIES], ids=lambda path: path.stem)
def test_it_needs_only_the_standard_library(path: Path) -> None:
    foreign = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        foreign |= {name for name in names if not name.startswith("ansible.module_utils.")}
    assert {name for name in foreign if name.split(".")[0] not in sys.stdlib_module_names} == set()


@pytest.mark.parametrize("path", [*MODULES, *UTILITIES], ids=lambda path: path.stem)
def test_its_size_stays_below_the_ceiling(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (400 if path.parent.name == "library" else 300)
