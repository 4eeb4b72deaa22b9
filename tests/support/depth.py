"""Of what a smoke run takes only some values, and what waits for the night."""

import os
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def nightly(what: str) -> pytest.MarkDecorator:
    """The mark of what takes too long for each change; `what` says how long, or why."""
    return pytest.mark.skipif(not os.environ.get("TEST_NIGHTLY"), reason=f"{what}: make test-nightly")


def smoke_and_full(values: Iterable[Any], smoke: Collection[Any]) -> list[Any]:
    """For pytest.mark.parametrize, in their order: those not in `smoke` bear the mark that lets a smoke run leave them
    out."""
    return [value if value in smoke else pytest.param(value, marks=pytest.mark.full) for value in values]
