"""A Compose project in memory: the engine's and Compose's answers to the slot library and to apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LABEL = "io.n8n-platform."


class FakeProject:
    """Is the engine; FakeCompose is the other side. `calls`: what was asked for; `broken`: never become healthy."""

    def __init__(self, release: Path, tiers: dict[str, list[str]], slots: dict[str, list[str]]) -> None:
        self.index = {"tiers": tiers, "slots": slots, "networks": {"data": "d1"}}
        release.mkdir(parents=True, exist_ok=True)
        (release / "index.json").write_text(json.dumps(self.index))
        self.labels = {
            service: {LABEL + "slot": slot} for slot, members in slots.items() for service in members
        }
        self.labels |= {
            service: {LABEL + "tier": tier} for tier, members in tiers.items() for service in members
        }
        self.hashes = dict.fromkeys(self.labels, "h1")
        self.found: dict[str, dict[str, Any]] = {}
        self.broken: set[str] = set()
        self.exit_codes: dict[str, int] = {}
        self.network_definition = "d1"
        self.present = ["data"]
        self.calls: list[str] = []
        self.composed: dict[str, Any] = {}
        self.inspected: dict[str, dict[str, Any]] = {}

    def add(self, service: str, state: str = "running", config_hash: str = "h1", slot: str = "") -> None:
        labels = {
            "com.docker.compose.service": service,
            "com.docker.compose.config-hash": config_hash,
            **self.labels.get(service, {LABEL + "slot": slot} if slot else {}),
        }
        health = "unhealthy" if service in self.broken else "healthy"
        self.found[service] = {
            "Id": service,
            "Names": [f"/{service}"],
            "State": state,
            "Status": f"Up 2 minutes ({health})" if state == "running" else "Exited (0)",
            "Labels": labels,
        }

    # The engine
    def containers(self, labels: dict[str, str | None]) -> list[dict[str, Any]]:
        wanted = [name for name, value in labels.items() if value is None]
        return [item for item in self.found.values() if all(name in item["Labels"] for name in wanted)]

    def project(self, project: str) -> list[dict[str, Any]]:
        return list(self.found.values())

    def networks(self, labels: dict[str, str | None]) -> list[dict[str, Any]]:
        definition = {LABEL + "definition": self.network_definition}
        return [
            {"Name": f"p_{name}", "Labels": {"com.docker.compose.network": name, **definition}}
            for name in self.present
        ]

    def remove_network(self, network: str) -> None:
        self.calls.append(f"remove {network}")
        self.present.remove(network.removeprefix("p_"))

    def stop(self, container: str, timeout: int | None = None) -> None:
        self.calls.append(f"stop {container}" + ("" if timeout is None else f" within {timeout}"))
        if container in self.found:
            self.add(container, "exited", self.found[container]["Labels"]["com.docker.compose.config-hash"])

    def remove(self, container: str) -> None:
        self.calls.append(f"remove {container}")
        del self.found[container]

    def inspect(self, container: str) -> dict[str, Any]:
        log = [{"Output": "no answer on port 5678"}]
        found = self.inspected.get(container, {})
        state = {"Running": True, "ExitCode": self.exit_codes.get(container, 0), "Health": {"Log": log}}
        return {**found, "State": state | found.get("State", {})}

    def image_id(self, reference: str) -> str:
        return f"id of {reference}"

    # Compose
    def model(self) -> dict[str, Any]:
        return self.composed

    def config_hashes(self) -> dict[str, str]:
        return self.hashes

    def make_networks(self) -> None:
        self.calls.append("make networks")
        self.present = list(self.index["networks"])

    def up(self, services: list[str]) -> None:
        self.calls.append("up " + " ".join(services))
        for service in services:
            self.add(service, "running", self.hashes[service])

    def stop_services(self, services: list[str], patience: int | None = None) -> None:
        self.calls.append(
            "compose stop " + " ".join(services) + ("" if patience is None else f" within {patience}")
        )
        for service in services:
            self.add(service, "exited")

    def down(self) -> None:
        self.calls.append("down")
        self.found.clear()
        self.present = [name for name in self.present if name not in self.index["networks"]]


class FakeCompose:
    """Compose's side of the same project: `stop` means another thing there."""

    def __init__(self, project: FakeProject) -> None:
        self.config_hashes = project.config_hashes
        self.model = project.model
        self.make_networks = project.make_networks
        self.up = project.up
        self.stop = project.stop_services
        self.down = project.down
