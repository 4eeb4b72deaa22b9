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

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
VARIANTS = {
    "postgres-16": {"platform_postgres_major": 16},
    "redis-7": {"platform_redis": "redis-7"},
    "valkey-8": {"platform_redis": "valkey-8"},
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
