"""The engine and the images, asked for once by all files of this stage."""

import pytest

from tests.support.backup_lab import built_images
from tests.support.engine import engine

__all__ = ["engine"]


@pytest.fixture(scope="session")
def images(engine: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """References by name."""
    return built_images(tmp_path_factory.mktemp("images"))
