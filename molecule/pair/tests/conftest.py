"""Staging and production side by side on one host, one slot each; production has its secrets in a store by address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.backup_lab import built_images
from tests.support.deployment import Deployment, Run
from tests.support.proxy import authority
from tests.support.secret_store import ForeignStore

HERE = Path(__file__).parent.parent
PRODUCTION, DOMAIN = "test-production", "production.localhost"


@dataclass
class StoredElsewhere(Deployment):
    """With `variables` in every run, since the store's address is not known before it runs."""

    variables: dict[str, str] = field(default_factory=dict)

    def run(self, playbook: str, *, check: bool = False, **extra: Any) -> Run:
        return super().run(playbook, check=check, **{**self.variables, **extra})


@pytest.fixture(scope="session")
def store(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignStore]:
    """A store that others run, prepared for production; what it holds goes with it."""
    folder = tmp_path_factory.mktemp("store")
    found = engine.images.list(name="n8n-platform/openbao")
    image = str(found[0].tags[0]) if found else built_images(folder)["openbao"]
    with ForeignStore(engine, image, folder, PRODUCTION, DOMAIN) as server:
        yield server


@pytest.fixture(scope="session")
def staging(engine: object) -> Deployment:
    authority()  # the inventory names its file
    return Deployment("test-staging", HERE / "staging", port_base=18540, domain="staging.localhost")


@pytest.fixture(scope="session")
def bundles() -> Iterator[Path]:
    """Where production keeps what opens its backups; its inventory names the folder."""
    folder = Path("/var/tmp/n8n-test-production-bundles")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def production(store: ForeignStore, bundles: Path) -> Deployment:
    return StoredElsewhere(
        PRODUCTION, HERE / "production", port_base=18640, domain=DOMAIN, variables=store.variables()
    )
