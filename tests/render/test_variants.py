"""What one variable changes in the list of images, compared with golden files; nothing else moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.compose_yaml import dump
from ansible.module_utils.n8n_platform.images import Image, plan_refs

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
VARIANTS = {
    "postgres-16": {"platform_postgres_major": 16},
    "redis-7": {"platform_redis": "redis-7"},
    "valkey-8": {"platform_redis": "valkey-8"},
    "n8n-packages": {"platform_n8n_packages": str(ROOT / "molecule/core/packages")},
}


def images(folder: Path, variables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`packages` and `upstream`, each the arguments of platform_images by the image's name."""
    file = folder / "images.json"
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/local"]
    command += ["tests/render/variants.yml", "-e", json.dumps({**variables, "file": str(file)})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    arguments = json.loads(file.read_text(encoding="utf-8"))
    return {source: {image["name"]: image for image in found} for source, found in arguments.items()}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return images(tmp_path_factory.mktemp("default"), {})


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_its_own_images_only(
    default: dict[str, dict[str, Any]], variant: str, tmp_path: Path
) -> None:
    found = images(tmp_path, VARIANTS[variant])
    changed = {
        source: {name: image for name, image in listed.items() if default[source].get(name) != image}
        for source, listed in found.items()
    }
    golden = GOLDEN / f"images.{variant}.golden"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(dump(changed), "utf-8")
    assert dump(changed) == golden.read_text("utf-8"), f"UPDATE_GOLDEN=1 rewrites {golden.name}"
    assert all(set(listed) <= set(found[source]) for source, listed in default.items())


def test_packages_move_the_references_of_n8n_and_its_runner_only(
    default: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """What takes minutes to build is the same below another name."""

    def references(listed: dict[str, Any]) -> dict[str, str]:
        keys = ("name", "pull", "base", "args", "rootfs", "files")
        given = [{key: image[key] for key in keys if key in image} for image in listed.values()]
        return plan_refs([Image(**image) for image in given], "2026-01-01", "x86_64")

    found = images(tmp_path, VARIANTS["n8n-packages"])
    for source in default:
        before, after = references(default[source]), references(found[source])
        moved = {name for name in after if after[name] != before.get(name)}
        assert moved == {"n8n", "n8n-plain", "n8n-runner"}
        assert {**found[source]["n8n-plain"], "name": "n8n"} == {**default[source]["n8n"], "context": "n8n"}
