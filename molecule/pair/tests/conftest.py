"""Staging and production side by side on one host, one slot each."""

from pathlib import Path

import pytest

from tests.support.deployment import Deployment

HERE = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def staging(engine: object) -> Deployment:
    return Deployment("test-staging", HERE / "staging", port_base=18540, domain="staging.localhost")


@pytest.fixture(scope="session")
def production(engine: object) -> Deployment:
    return Deployment("test-production", HERE / "production", port_base=18640, domain="production.localhost")
