"""The core deployment: one environment of everything that has landed, shared by the ordered steps of this folder."""

from pathlib import Path

import pytest

from tests.support.deployment import Deployment


@pytest.fixture(scope="session")
def core() -> Deployment:
    return Deployment(name="core", inventory=Path(__file__).parent.parent / "inventory", port_base=18440)
