"""A deployment of its own, since a killed first start is what it is about."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment


@pytest.fixture(scope="session")
def kill(engine: object) -> Iterator[Deployment]:
    deployment = Deployment(
        name="test-kill", inventory=Path(__file__).parent.parent / "inventory", port_base=19240
    )
    deployment.destroy_left_over()
    yield deployment
    deployment.destroy()
