"""What an operator adds to n8n's image: community nodes and modules for Code nodes, as npm's lock file pins them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

FILES = ("package.json", "package-lock.json")
EXACT = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
# By this name n8n itself knows them.
NODE = re.compile(r"(@[^/]+/)?n8n-nodes-")

Packages = Mapping[str, Mapping[str, Any]]


def n8n_packages(folder: str, variable: str = "platform_n8n_packages") -> dict[str, Any]:
    """`nodes` and `modules` (names) and `files` {name: text} of a folder on the controller; all empty without one.

    Raises AnsibleFilterError that begins with `variable` and says everything that is not pinned.
    """
    if not folder:
        return {"nodes": [], "modules": [], "files": {}}
    try:
        files = {name: Path(folder, name).read_text(encoding="utf-8") for name in FILES}
        package, lock = (json.loads(text) for text in files.values())
        listed, packages = package["dependencies"], lock["packages"]
    except (OSError, ValueError) as error:
        raise AnsibleFilterError(f"{variable}: {folder}: {error}") from None
    except KeyError as error:
        raise AnsibleFilterError(f"{variable}: {folder}: no {error} in {' or '.join(FILES)}") from None
    if found := [*_of_the_list(listed, packages), *_of_the_lock(packages)]:
        raise AnsibleFilterError(f"{variable}: {folder}: {'; '.join(found)}")
    nodes = {name for name in listed if NODE.match(name)}
    return {"nodes": sorted(nodes), "modules": sorted(set(listed) - nodes), "files": files}


def _of_the_list(listed: Mapping[str, str], packages: Packages) -> Iterator[str]:
    if packages.get("", {}).get("dependencies", {}) != listed:
        yield "package-lock.json was made from another list of dependencies"
    for name, version in listed.items():
        if not EXACT.fullmatch(version):
            yield f"{name}: {version!r} is no exact version"
        elif (locked := packages.get(f"node_modules/{name}", {}).get("version")) != version:
            yield f"{name}: {version} is listed, the lock has {locked}"


def _of_the_lock(packages: Packages) -> Iterator[str]:
    """Of what npm will install: neither development nor peer dependencies, n8n brings the latter itself."""
    installed = {path: entry for path, entry in packages.items() if path and not _left_out(entry)}
    for path, entry in installed.items():
        name = path.rpartition("node_modules/")[2]
        # What comes inside another package's archive is covered by that one's checksum.
        if not entry.get("inBundle") and not str(entry.get("integrity", "")).startswith("sha512-"):
            yield f"{name}: the lock has no sha512 integrity of it"
        for wanted in {**entry.get("dependencies", {}), **entry.get("optionalDependencies", {})}:
            if not any(place in installed for place in _places(path, wanted)):
                yield f"{name}: needs {wanted}, which the lock lacks"


def _left_out(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("dev") or entry.get("peer"))


def _places(path: str, name: str) -> Iterator[str]:
    """Where Node looks for a package that the one at `path` requires."""
    while path:
        yield f"{path}/node_modules/{name}"
        path = path.rpartition("node_modules/")[0].rstrip("/")
    yield f"node_modules/{name}"


class FilterModule:
    """`n8n_packages`."""

    def filters(self) -> dict[str, Any]:
        return {"n8n_packages": n8n_packages}
