"""Unit tests touch nothing of the machine that runs them."""

from collections.abc import Iterator

import pytest
from support.guard import guarded


@pytest.fixture(autouse=True)
def _guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with guarded():
        yield
