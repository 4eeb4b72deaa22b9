"""Which slots are started, drained or rolled. Pure: from what runs and the bounds to a list of acts."""

from __future__ import annotations

from dataclasses import dataclass, field


class SlotError(Exception):
    """Names the slot or the argument, and why it is refused."""


@dataclass(frozen=True)
class Member:
    """One container of a slot. state: the engine's word, `missing` without container; health: healthy, ..."""

    service: str
    container: str = ""
    state: str = "missing"
    health: str = ""
    outdated: bool = False


@dataclass(frozen=True)
class Slot:
    """`members`: the program that takes work first, its helper after it."""

    name: str
    members: tuple[Member, ...]
    orphan: bool = False

    @property
    def kind(self) -> str:
        return self.name.rpartition("-")[0]

    @property
    def number(self) -> int:
        return int(self.name.rpartition("-")[2])

    @property
    def state(self) -> str:
        """running, partial (some members only) or stopped."""
        up = [member.state in ("running", "restarting", "paused") for member in self.members]
        return "running" if all(up) else "partial" if any(up) else "stopped"

    @property
    def healthy(self) -> bool:
        return all(member.health == "healthy" for member in self.members)

    @property
    def outdated(self) -> bool:
        return any(member.outdated for member in self.members)


@dataclass(frozen=True)
class Act:
    """verb: start, drain, remove, roll or restart."""

    verb: str
    slot: Slot


@dataclass(frozen=True)
class Bounds:
    """How many slots of a kind run, {kind: number}; a kind that is not named has no bound."""

    minimum: dict[str, int] = field(default_factory=dict)
    maximum: dict[str, int] = field(default_factory=dict)


def started(slots: list[Slot], bounds: Bounds, interrupted: list[str]) -> list[Act]:
    """Starts the lowest numbers up to the minimum; drains the highest ones beyond the maximum.

    What runs in between is left as it is. A slot of which only a part runs is completed, one that an
    interrupted
    rolling change has left stopped (`interrupted`) is started again, and one that no release has is removed.
    """
    acts = [Act("remove", slot) for slot in slots if slot.orphan]
    kinds = sorted({slot.kind for slot in slots if not slot.orphan} | set(bounds.minimum))
    for kind in kinds:
        acts += _fill(
            kind, [slot for slot in slots if slot.kind == kind and not slot.orphan], bounds, interrupted
        )
    return acts


def _fill(kind: str, slots: list[Slot], bounds: Bounds, interrupted: list[str]) -> list[Act]:
    least = bounds.minimum.get(kind, 0)
    most = bounds.maximum.get(kind, len(slots))
    if least > min(len(slots), most):
        raise SlotError(
            f"minimum.{kind}: {least} is more than the {min(len(slots), most)} slots that may run"
        )
    wanted = [slot for slot in slots if slot.state != "stopped" or slot.name in interrupted]
    idle = [slot for slot in slots if slot not in wanted]
    wanted += idle[: max(0, least - len(wanted))]
    wanted.sort(key=lambda slot: slot.number)
    excess = [slot for slot in wanted[most:] if slot.state != "stopped"]
    return [
        *(Act("start", slot) for slot in wanted[:most] if slot.state != "running"),
        *(Act("drain", slot) for slot in reversed(excess)),
    ]


def rolled(slots: list[Slot], bounds: Bounds, interrupted: list[str]) -> list[Act]:
    """The same, then every slot that runs an older configuration, one by one, those that do not work
    first."""
    acts = started(slots, bounds, interrupted)
    touched = {act.slot.name for act in acts}
    outdated = [
        slot for slot in slots if slot.outdated and slot.state == "running" and slot.name not in touched
    ]
    return acts + [Act("roll", slot) for slot in sorted(outdated, key=lambda slot: slot.healthy)]


def drained(slots: list[Slot], names: list[str], bounds: Bounds) -> list[Act]:
    """Refuses to leave fewer than the minimum running."""
    acts = [Act("drain", slot) for slot in named(slots, names) if slot.state != "stopped"]
    for kind, least in bounds.minimum.items():
        running = [slot for slot in slots if slot.kind == kind and slot.state != "stopped"]
        left = len(running) - sum(act.slot.kind == kind for act in acts)
        if left < least and left < len(running):
            raise SlotError(
                f"slots: draining these would leave {left} of kind {kind}, the minimum is {least}"
            )
    return acts


def restarted(slots: list[Slot], names: list[str]) -> list[Act]:
    """Those that run, one by one."""
    return [Act("restart", slot) for slot in named(slots, names) if slot.state != "stopped"]


def started_by_name(slots: list[Slot], names: list[str], bounds: Bounds) -> list[Act]:
    """Refuses to exceed the maximum."""
    acts = [Act("start", slot) for slot in named(slots, names) if slot.state != "running"]
    for kind, most in bounds.maximum.items():
        running = sum(slot.kind == kind and slot.state != "stopped" for slot in slots)
        more = sum(act.slot.kind == kind and act.slot.state == "stopped" for act in acts)
        if more and running + more > most:
            raise SlotError(f"slots: {running + more} of kind {kind} would run, the maximum is {most}")
    return acts


def named(slots: list[Slot], names: list[str]) -> list[Slot]:
    known = {slot.name: slot for slot in slots if not slot.orphan}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SlotError(f"slots: there is no {unknown[0]}; this release has {', '.join(known) or 'none'}")
    return [known[name] for name in names]
