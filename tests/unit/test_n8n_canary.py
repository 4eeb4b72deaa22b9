"""The platform's own credential, against an engine whose containers hold rows."""

from __future__ import annotations

import json
from typing import Any

import n8n_canary
import pytest
from n8n_canary import CanaryError, Manager, run


class Containers:
    """Postgres with ids of credentials, and n8n that imports; `services` are those that run."""

    def __init__(self) -> None:
        self.services = {"postgres-n8n", "n8n-main"}
        self.ids: list[str] = []
        self.imported: list[dict[str, Any]] = []
        self.forgets = False

    def service(self, project: str, name: str) -> dict[str, str] | None:
        assert project == "n8n-test"
        return {"Id": name} if name in self.services else None

    def execute(self, container: str, argv: list[str]) -> tuple[int, str]:
        if container == "postgres-n8n":
            return 0, f"{self.ids.count('platform-canary')}\n"
        found = json.loads(argv[-1])
        self.imported += found
        self.ids += [] if self.forgets else [one["id"] for one in found]
        return 0, "Successfully imported"


@pytest.fixture
def containers() -> Containers:
    return Containers()


def canary(containers: Containers, check_mode: bool = False) -> dict[str, Any]:
    defaults = {name: option.get("default") for name, option in n8n_canary.build_spec().items()}
    return run(Manager({**defaults, "project": "n8n-test"}, containers), check_mode)  # type: ignore[arg-type]


def test_it_is_made_once(containers: Containers) -> None:
    containers.ids.append("another")
    assert canary(containers, check_mode=True)["changed"] and containers.imported == []
    assert canary(containers) == {"changed": True, "id": "platform-canary"}
    (made,) = containers.imported
    assert made["type"] == "httpHeaderAuth" and made["data"] == {
        "name": "X-Platform-Canary",
        "value": "sings",
    }
    assert not canary(containers)["changed"] and len(containers.imported) == 1


def test_a_check_run_needs_no_server_any_other_says_which_is_missing(containers: Containers) -> None:
    containers.services.remove("postgres-n8n")
    assert canary(containers, check_mode=True)["changed"]
    with pytest.raises(CanaryError, match="postgres-n8n: does not run"):
        canary(containers)


def test_a_command_that_has_not_made_it_is_an_error(containers: Containers) -> None:
    containers.forgets = True
    with pytest.raises(CanaryError, match="nothing was imported: Successfully imported"):
        canary(containers)
