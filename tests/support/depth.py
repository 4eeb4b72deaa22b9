"""Values of which a smoke run takes only some."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def smoke_and_full(values: Iterable[Any], smoke: Collection[Any]) -> list[Any]:
    """For pytest.mark.parametrize, in their order: those not in `smoke` bear the mark that lets a smoke run leave them
    out."""
    return [value if value in smoke else pytest.param(value, marks=pytest.mark.full) for value in values]
