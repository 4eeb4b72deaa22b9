"""The only code that asks the engine to act on a slot: every act is logged, one actor at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.compose_apply import container_health
from ansible.module_utils.n8n_platform.compose_cli import ComposeCli, read_index
from ansible.module_utils.n8n_platform.compose_policy import LABEL
from ansible.module_utils.n8n_platform.engine import CONFIG_HASH_LABEL, PROJECT_LABEL, SERVICE_LABEL, Engine
from ansible.module_utils.n8n_platform.file_lock import file_lock
from ansible.module_utils.n8n_platform.files import write_file
from ansible.module_utils.n8n_platform.slot_policy import Act, Member, Slot, SlotError

_POLL_SECONDS = 0.5
_SIGKILL_EXIT = 137


@dataclass(frozen=True)
class Paths:
    """release: directory of the release; state: directory of slots.log, of the lock and of an unfinished
    roll."""

    release: Path
    state: Path


class Slots:
    """The slots of one environment. Raises SlotError, ComposeError and HttpError.

    parallel: how many slots are started or drained side by side; a rolling change is always one at a time.
    wait_timeout: seconds for a started slot to become healthy. actor: who acts, for the log. patience: seconds that
    a drained container gets instead of its own stop time.
    """

    def __init__(
        self,
        project: str,
        engine: Engine,
        compose: ComposeCli,
        paths: Paths,
        parallel: int = 1,
        wait_timeout: float = 300,
        actor: str = "",
        patience: int | None = None,
    ) -> None:
        self._project = project
        self._engine = engine
        self._compose = compose
        self._paths = paths
        self._parallel = parallel
        self._patience = patience
        self._wait_timeout = wait_timeout
        self._actor = actor
        self._rolling = paths.state / "slots-rolling.json"
        self.messages: list[str] = []

    def all(self) -> list[Slot]:
        """The release's slots by kind and number, then those that only containers know of (orphans)."""
        hashes = self._compose.config_hashes()
        containers = self._containers()
        index: dict[str, list[str]] = read_index(self._paths.release)["slots"]
        planned = [
            Slot(
                name,
                tuple(_member(service, containers.get(service), hashes[service]) for service in services),
            )
            for name, services in index.items()
        ]
        known = {service for services in index.values() for service in services}
        return planned + _orphans({name: item for name, item in containers.items() if name not in known})

    def interrupted(self) -> list[str]:
        """Slots that a rolling change had stopped and not started again when it was killed."""
        return list(json.loads(self._rolling.read_text("utf-8"))) if self._rolling.exists() else []

    @contextmanager
    def lock(self) -> Iterator[None]:
        """To be held from the plan to its end; waits for another actor as long as for a slot."""
        try:
            with file_lock(self._paths.state / "slots.lock", self._wait_timeout):
                yield
        except TimeoutError as error:
            raise SlotError(str(error)) from None

    def carry_out(self, acts: list[Act]) -> None:
        """In the order given, starts and drains in groups of `parallel`. Stops at the first failure."""
        for group in _groups(acts, self._parallel):
            if group[0].verb == "start":
                self._start([act.slot for act in group])
                continue
            with ThreadPoolExecutor(max_workers=len(group)) as pool:
                for _ in pool.map(self._act, group):
                    pass

    def _act(self, act: Act) -> None:
        if act.verb in ("roll", "restart"):
            self._replace(act)
            return
        with self._logged(act.verb, act.slot):
            self._drain(act.slot)
            self._forget([act.slot])
            if act.verb == "remove":
                for member in act.slot.members:
                    self._engine.remove(member.container)

    def _replace(self, act: Act) -> None:
        with self._logged(act.verb, act.slot):
            write_file(self._rolling, json.dumps([act.slot.name]), mode=0o644)
            self._drain(act.slot)
            self._compose.up([member.service for member in act.slot.members])
            self._wait_healthy([act.slot])
            self._forget([act.slot])

    def _forget(self, slots: list[Slot]) -> None:
        """What somebody has started or drained since is no longer an interrupted change."""
        if {slot.name for slot in slots} & set(self.interrupted()):
            self._rolling.unlink(missing_ok=True)

    def _start(self, slots: list[Slot]) -> None:
        began = time.monotonic()
        self._compose.up([member.service for slot in slots for member in slot.members])
        self._forget(slots)
        for slot in slots:
            with self._logged("start", slot, began):
                self._wait_healthy([slot])

    def _drain(self, slot: Slot) -> None:
        """The stop signal and the container's own stop time, for the program first: its helper serves it to
        the end."""
        for member in slot.members:
            if member.container and member.state not in ("exited", "created", "dead"):
                self._engine.stop(member.container, self._patience)
                if self._engine.inspect(member.container)["State"]["ExitCode"] == _SIGKILL_EXIT:
                    self.messages.append(
                        f"{slot.name}: {member.service} had to be killed when its stop time was over"
                    )

    def _wait_healthy(self, slots: list[Slot]) -> None:
        deadline = time.monotonic() + self._wait_timeout
        services = {member.service: slot.name for slot in slots for member in slot.members}
        while True:
            containers = self._containers()
            ill = [
                name
                for name in services
                if name not in containers or container_health(containers[name]) != "healthy"
            ]
            if not ill:
                return
            if time.monotonic() > deadline:
                raise SlotError(f"{services[ill[0]]}: {self._complaint(ill[0], containers.get(ill[0]))}")
            time.sleep(_POLL_SECONDS)

    def _complaint(self, service: str, container: dict[str, Any] | None) -> str:
        if container is None:
            return f"{service} has no container"
        state = self._engine.inspect(container["Id"])["State"]
        checks = state.get("Health", {}).get("Log") or []
        words = " ".join(checks[-1]["Output"].split())[-300:] if checks else f"exit code {state['ExitCode']}"
        where = container["Names"][0].lstrip("/")
        health = container_health(container)
        return f"{service} is {health} after {self._wait_timeout:.0f} s: {words} (docker logs {where})"

    def _containers(self) -> dict[str, dict[str, Any]]:
        found = self._engine.containers({PROJECT_LABEL: self._project, LABEL + "slot": None})
        return {container["Labels"][SERVICE_LABEL]: container for container in found}

    @contextmanager
    def _logged(self, verb: str, slot: Slot, began: float | None = None) -> Iterator[None]:
        """One JSON line per act in slots.log, whatever comes of it."""
        began = time.monotonic() if began is None else began
        result = "failed"
        try:
            yield
            result = "ok"
        finally:
            seconds = round(time.monotonic() - began, 1)
            line = {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "actor": self._actor,
                "project": self._project,
                "act": verb,
                "slot": slot.name,
                "result": result,
                "seconds": seconds,
            }
            with (self._paths.state / "slots.log").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            self.messages.append(f"{slot.name}: {verb} {result} after {seconds} s")


def _groups(acts: list[Act], size: int) -> Iterator[list[Act]]:
    """Consecutive acts of one verb, at most `size` together; rolls and restarts always alone."""
    group: list[Act] = []
    for act in acts:
        limit = 1 if act.verb in ("roll", "restart") else size
        if group and (group[0].verb != act.verb or len(group) >= limit):
            yield group
            group = []
        group.append(act)
    if group:
        yield group


def _member(service: str, container: dict[str, Any] | None, config_hash: str) -> Member:
    if container is None:
        return Member(service)
    outdated = container["Labels"].get(CONFIG_HASH_LABEL) != config_hash
    return Member(service, container["Id"], container["State"], container_health(container), outdated)


def _orphans(containers: dict[str, dict[str, Any]]) -> list[Slot]:
    members: dict[str, list[Member]] = {}
    for service, container in containers.items():
        members.setdefault(container["Labels"][LABEL + "slot"], []).append(_member(service, container, ""))
    return [Slot(name, _ordered(name, found), orphan=True) for name, found in sorted(members.items())]


def _ordered(slot: str, members: list[Member]) -> tuple[Member, ...]:
    """The program named after the slot's kind first, as in compose.slots()."""
    kind = slot.rpartition("-")[0]
    return tuple(sorted(members, key=lambda member: (kind not in member.service, member.service)))
