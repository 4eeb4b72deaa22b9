"""What deployments hand on to each other."""

from collections.abc import Iterator

import pytest

import tests.conftest  # noqa: F401 (modules under the names they have on a target)
from tests.support.engine import engine
from tests.support.off_site import OffSite

__all__ = ["engine"]


@pytest.fixture(scope="session")
def off_site(engine: object) -> Iterator[OffSite]:
    """Where backups go outside of every environment, and what is left when one is lost."""
    with OffSite() as place:
        yield place
