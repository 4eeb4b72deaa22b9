"""What the contract tests look at: the files of the repository, parsed once."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.repository import ROOT, repository_files

__all__ = ["ROOT", "repository_files"]

ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
TASK_KEYWORDS = ("block", "rescue", "always")


class Loader(yaml.CSafeLoader):
    """Safe, and takes Ansible's own tags for plain values."""


Loader.add_multi_constructor("!", lambda _loader, _suffix, node: getattr(node, "value", None))


@cache
def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=Loader) if path.is_file() else None


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def walk(tasks: Any) -> Iterator[dict[str, Any]]:
    """All tasks, those inside of blocks too."""
    for task in tasks or []:
        yield task
        for keyword in TASK_KEYWORDS:
            yield from walk(task.get(keyword))


def plays(playbook: Path) -> list[dict[str, Any]]:
    return load(playbook) or []


def tasks_of_play(play: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for section in ("pre_tasks", "tasks", "post_tasks", "handlers"):
        yield from walk(play.get(section))


def task_files(role: Path) -> list[Path]:
    return sorted([*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml")])


def every_task() -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, task) of roles and playbooks."""
    for role in ROLES:
        for path in task_files(role):
            for task in walk(load(path)):
                yield str(path.relative_to(ROOT)), task
    for playbook in PLAYBOOKS:
        for play in plays(playbook):
            for task in tasks_of_play(play):
                yield str(playbook.relative_to(ROOT)), task


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    specs = load(role / "meta/argument_specs.yml") or {}
    return (specs.get("argument_specs", {}).get("main") or {}).get("options") or {}
