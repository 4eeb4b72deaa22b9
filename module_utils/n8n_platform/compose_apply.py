"""From a release to running containers: what differs, and carrying it out. Slots are not touched here."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.compose_cli import ComposeCli, read_index
from ansible.module_utils.n8n_platform.compose_drift import drift
from ansible.module_utils.n8n_platform.compose_policy import LABEL, TIERS, ComposeError
from ansible.module_utils.n8n_platform.engine import (
    CONFIG_HASH_LABEL,
    NETWORK_LABEL,
    ONEOFF_LABEL,
    PROJECT_LABEL,
    SERVICE_LABEL,
    Engine,
)

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Difference:
    """reason: missing, changed, unhealthy, orphan, or the engine's word for the state (exited, running,
    ...)."""

    service: str
    reason: str
    tier: str


def container_health(container: dict[str, Any]) -> str:
    """From the engine's short form: healthy, unhealthy, starting, or the state's own name."""
    status = container["Status"]
    for word, health in (
        ("(healthy)", "healthy"),
        ("(unhealthy)", "unhealthy"),
        ("(health: starting)", "starting"),
    ):
        if container["State"] == "running" and word in status:
            return health
    return str(container["State"])


class Project:
    """One Compose project. Raises ComposeError and HttpError."""

    def __init__(
        self, name: str, engine: Engine, compose: ComposeCli, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._engine = engine
        self._compose = compose
        self._clock = clock

    def differences(self, release: Path, tiers: list[str]) -> list[Difference]:
        """What has to be done so that the services of `tiers` run as the release says."""
        index = read_index(release)
        self._check_networks(index["networks"])
        containers = self._containers()
        planned = {name for services in index["tiers"].values() for name in services}
        found = [
            Difference(name, "orphan", "")
            for name, container in containers.items()
            if name not in planned and LABEL + "slot" not in container["Labels"]
        ]
        hashes = self._compose.config_hashes()
        for tier in tiers:
            for name in index["tiers"][tier]:
                reason = _reason(containers.get(name), hashes[name])
                if reason:
                    found.append(Difference(name, reason, tier))
        return found

    def drift(self) -> list[str]:
        """How containers that run, those of slots too, are not as the release says; see compose_drift.

        Those of another configuration are left out: that they differ is said already.
        """
        hashes = self._compose.config_hashes()
        looked_at = {
            name: self._engine.inspect(container["Id"])
            for name, container in self._containers().items()
            if container["State"] == "running"
            and name in hashes
            and container["Labels"].get(CONFIG_HASH_LABEL) == hashes[name]
        }
        # One that has ended meanwhile has no ports.
        inspected = {name: found for name, found in looked_at.items() if found["State"]["Running"]}
        model = self._compose.model()
        references = {model["services"][name]["image"] for name in inspected}
        return drift(model, inspected, {each: self._engine.image_id(each) for each in references})

    def waiting(self, release: Path, tiers: list[str]) -> list[str]:
        """Those of `tiers` in which a service is not healthy yet, or not any more."""
        index = read_index(release)
        containers = self._containers()
        return [
            tier
            for tier in tiers
            if any(_health(containers.get(name)) != "healthy" for name in index["tiers"][tier])
        ]

    def running(self, release: Path, tiers: list[str]) -> list[Difference]:
        index = read_index(release)
        containers = self._containers()
        return [
            Difference(name, "running", tier)
            for tier in tiers
            for name in index["tiers"][tier]
            if name in containers and containers[name]["State"] not in ("exited", "created", "dead")
        ]

    def remains(self) -> list[Difference]:
        """All containers and networks of the project."""
        networks = self._engine.networks({PROJECT_LABEL: self._name})
        found = [Difference(name, container["State"], "") for name, container in self._containers().items()]
        return found + [Difference(f"network {network['Name']}", "present", "") for network in networks]

    def start(self, release: Path, tiers: list[str], differences: list[Difference], timeout: float) -> None:
        """Removes orphans, makes all networks, so that a firewall knows them before their members start, then brings up
        tier after tier and waits for each to be healthy."""
        index = read_index(release)
        containers = self._containers()
        for orphan in (item.service for item in differences if item.reason == "orphan"):
            self._engine.stop(containers[orphan]["Id"])
            self._engine.remove(containers[orphan]["Id"])
        if index["networks"].keys() - self._networks().keys():
            self._compose.make_networks()
        for tier in tiers:
            different = [
                item.service for item in differences if item.tier == tier and item.reason != "unhealthy"
            ]
            if different:
                self._compose.up(different)
            self._wait_healthy(index["tiers"][tier], timeout)

    def stop(self, tiers: list[str], differences: list[Difference], app_patience: int | None = None) -> None:
        """The last tier first, each service with its own stop time; tier app with `app_patience` where given."""
        for tier in reversed(tiers):
            services = [item.service for item in differences if item.tier == tier]
            if services:
                self._compose.stop(services, app_patience if tier == "app" else None)

    def remove(self, app_patience: int | None = None) -> None:
        """Stops the edge first and the databases after their clients, then removes everything but data.

        Slots still running are stopped with the rest; who wants them drained does that before.
        """
        containers = self._containers()
        for tier in reversed(TIERS):
            running = [
                container["Id"]
                for container in containers.values()
                if container["Labels"].get(LABEL + "tier") == tier and container["State"] == "running"
            ]
            patience = app_patience if tier == "app" else None
            with ThreadPoolExecutor(max_workers=len(running) or 1) as pool:
                list(pool.map(partial(self._engine.stop, timeout=patience), running))
        self._compose.down()
        # Compose knows only those of the present release: slots that are no more have left theirs.
        for network in self._engine.networks({PROJECT_LABEL: self._name}):
            self._engine.remove_network(network["Name"])

    def _containers(self) -> dict[str, dict[str, Any]]:
        found = self._engine.project(self._name)
        lasting = [container for container in found if container["Labels"].get(ONEOFF_LABEL) != "True"]
        return {container["Labels"][SERVICE_LABEL]: container for container in lasting}

    def _networks(self) -> dict[str, dict[str, Any]]:
        """By the names that the release gives them."""
        networks = self._engine.networks({PROJECT_LABEL: self._name})
        return {network["Labels"].get(NETWORK_LABEL, ""): network for network in networks}

    def _check_networks(self, definitions: dict[str, str]) -> None:
        for name, network in self._networks().items():
            if name in definitions and network["Labels"].get(LABEL + "definition") != definitions[name]:
                raise ComposeError(
                    f"network {network['Name']} exists with another definition, which needs it removed first: "
                    "playbooks/destroy.yml (keeps all data), then playbooks/site.yml"
                )

    def _wait_healthy(self, services: list[str], timeout: float) -> None:
        deadline = self._clock() + timeout
        while True:
            containers = self._containers()
            waiting = [name for name in services if _health(containers.get(name)) != "healthy"]
            if not waiting:
                return
            if self._clock() > deadline:
                raise ComposeError(
                    "; ".join(self._complaint(name, containers.get(name), timeout) for name in waiting)
                )
            time.sleep(_POLL_SECONDS)

    def _complaint(self, name: str, container: dict[str, Any] | None, timeout: float) -> str:
        if container is None:
            return f"service {name} has no container"
        state = self._engine.inspect(container["Id"])["State"]
        checks = state.get("Health", {}).get("Log") or []
        words = " ".join(checks[-1]["Output"].split())[-300:] if checks else f"exit code {state['ExitCode']}"
        where = container["Names"][0].lstrip("/")
        health = container_health(container)
        return f"service {name} is {health} after {timeout:.0f} s: {words} (docker logs {where})"


def _health(container: dict[str, Any] | None) -> str:
    return container_health(container) if container else "missing"


def _reason(container: dict[str, Any] | None, config_hash: str) -> str:
    if container is None:
        return "missing"
    if container["Labels"].get(CONFIG_HASH_LABEL) != config_hash:
        return "changed"
    if container["State"] != "running":
        return str(container["State"])
    return "unhealthy" if container_health(container) == "unhealthy" else ""
