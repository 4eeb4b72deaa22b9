"""What an operator adds to n8n's image is pinned to the last byte, or refused with everything that is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.n8n_packages import n8n_packages

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = {"dependencies": {"@team/n8n-nodes-b": "2.0.0", "n8n-nodes-a": "1.0.0", "text": "3.1.0-rc.1"}}


def entry(version: str, **more: Any) -> dict[str, Any]:
    return {"version": version, "integrity": "sha512-x", **more}


LOCK = {
    "packages": {
        "": PACKAGE,
        "node_modules/@team/n8n-nodes-b": entry("2.0.0", peerDependencies={"n8n-workflow": "*"}),
        "node_modules/n8n-nodes-a": entry("1.0.0", dependencies={"deep": "^1.0.0", "text": "^2.0.0"}),
        "node_modules/n8n-nodes-a/node_modules/text": entry("2.0.0", optionalDependencies={"deep": "*"}),
        "node_modules/deep": entry("1.2.0", dependencies={"inside": "*"}),
        "node_modules/deep/node_modules/inside": {"version": "1.0.0", "inBundle": True},
        "node_modules/text": entry("3.1.0-rc.1"),
        "node_modules/n8n-workflow": {"version": "2.0.0", "peer": True},
        "node_modules/tests": {"version": "1.0.0", "dev": True, "dependencies": {"more": "*"}},
    }
}


def written(folder: Path, package: object = PACKAGE, lock: object = LOCK) -> str:
    for name, content in (("package.json", package), ("package-lock.json", lock)):
        (folder / name).write_text(json.dumps(content))
    return str(folder)


def test_nodes_are_told_from_modules_by_their_names(tmp_path: Path) -> None:
    found = n8n_packages(written(tmp_path))
    assert found["nodes"] == ["@team/n8n-nodes-b", "n8n-nodes-a"]
    assert found["modules"] == ["text"]
    assert {name: json.loads(text) for name, text in found["files"].items()} == {
        "package.json": PACKAGE,
        "package-lock.json": LOCK,
    }


def test_without_a_folder_there_is_nothing() -> None:
    assert n8n_packages("") == {"nodes": [], "modules": [], "files": {}}


def test_what_the_tests_deploy_is_pinned() -> None:
    found = n8n_packages(str(ROOT / "molecule/core/packages"))
    assert (found["nodes"], found["modules"]) == (["n8n-nodes-turndown-html-to-markdown"], ["mustache"])


@pytest.mark.parametrize("version", ["^3.1.0", "3.1", "latest", "*", "npm:other@3.1.0", "https://x/y.tgz"])
def test_a_version_that_is_not_exact_is_refused_by_name(tmp_path: Path, version: str) -> None:
    package = {"dependencies": {**PACKAGE["dependencies"], "text": version}}
    lock = copy.deepcopy(LOCK)
    lock["packages"][""] = package
    with pytest.raises(AnsibleFilterError) as refused:
        n8n_packages(written(tmp_path, package, lock))
    assert str(refused.value) == f"platform_n8n_packages: {tmp_path}: text: {version!r} is no exact version"


def test_all_that_the_lock_lacks_is_said_at_once(tmp_path: Path) -> None:
    lock = copy.deepcopy(LOCK)
    packages: dict[str, Any] = lock["packages"]
    packages["node_modules/n8n-nodes-a"].pop("integrity")
    packages["node_modules/text"].update(version="3.0.0", integrity="sha1-short")
    del packages["node_modules/deep"]
    packages["node_modules/n8n-nodes-a/node_modules/text"]["optionalDependencies"] = {"away": "*"}
    packages["node_modules/tool"] = {"resolved": "git+ssh://git@host/tool.git#0123", "version": "1.0.0"}
    packages["node_modules/linked"] = {"resolved": "../linked", "link": True}
    with pytest.raises(AnsibleFilterError) as refused:
        n8n_packages(written(tmp_path, lock=lock))
    assert str(refused.value).removeprefix(f"platform_n8n_packages: {tmp_path}: ").split("; ") == [
        "text: 3.1.0-rc.1 is listed, the lock has 3.0.0",
        "n8n-nodes-a: the lock has no sha512 integrity of it",
        "n8n-nodes-a: needs deep, which the lock lacks",
        "text: needs away, which the lock lacks",
        "text: the lock has no sha512 integrity of it",
        "tool: the lock has no sha512 integrity of it",
        "linked: the lock has no sha512 integrity of it",
    ]


def test_a_lock_of_another_list_is_refused(tmp_path: Path) -> None:
    package = {"dependencies": {"text": "3.1.0-rc.1"}}
    with pytest.raises(AnsibleFilterError, match="was made from another list of dependencies"):
        n8n_packages(written(tmp_path, package))


@pytest.mark.parametrize(
    ("package", "lock", "said"),
    [
        ({}, LOCK, "no 'dependencies' in package.json"),
        (PACKAGE, {"dependencies": {}}, "no 'packages' in package.json or package-lock.json"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, package: object, lock: object, said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        n8n_packages(written(tmp_path, package, lock))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match=r"platform_n8n_packages: .*No such file.*package\.json"):
        n8n_packages(str(tmp_path))
