"""Values of which a smoke run takes only some."""

from collections.abc import Iterable
from typing import Any

import pytest


def smoke_and_full(smoke: Iterable[Any], full: Iterable[Any]) -> list[Any]:
    """Values for pytest.mark.parametrize: those of `full` bear the mark that lets a smoke run leave them out."""
    return [*smoke, *(pytest.param(value, marks=pytest.mark.full) for value in full)]
