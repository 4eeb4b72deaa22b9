"""What `make logs` and `make support` show: container logs and state, without a single secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.engine import SERVICE_LABEL, Engine, health

MASK = "<redacted>"
# Shorter values would blank out ordinary words.
_SHORTEST_SECRET = 8
_HIDDEN_KEYS = re.compile(r"pass|token|secret|authorization|cookie|api[-_]?key|private", re.IGNORECASE)
_HIDDEN_PAIR = re.compile(
    r"(?P<key>[\"']?[\w.-]*(?:password|token|secret|authorization|cookie|api[-_]?key)[\w.-]*[\"']?\s*[:=]\s*)"
    r"(?P<value>\"[^\"]*\"|'[^']*'|(?:Bearer|Basic)\s+\S+|[^\s,;}]+)",
    re.IGNORECASE,
)


class Redactor:
    """Replaces every value that lies below `secrets_root`, and whatever stands behind a telling name."""

    def __init__(self, secrets_root: Path) -> None:
        values: set[str] = set()
        for path in secrets_root.rglob("*"):
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace")
                # A file of several lines (a key, a users file) also shows up line by line.
                values.update(part.strip() for part in [text, *text.splitlines()])
        self._values = sorted(
            (value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True
        )

    def text(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, MASK)
        return _HIDDEN_PAIR.sub(lambda match: match["key"] + MASK, text)

    def data(self, data: Any) -> Any:
        """The same structure; values of keys that name a secret are masked whole."""
        if isinstance(data, dict):
            return {
                key: MASK if _HIDDEN_KEYS.search(key) and isinstance(value, str) else self.data(value)
                for key, value in data.items()
            }
        if isinstance(data, list):
            return [self.data(item) for item in data]
        return self.text(data) if isinstance(data, str) else data


def project_logs(
    engine: Engine, project: str, services: list[str], lines: int, redactor: Redactor
) -> dict[str, list[str]]:
    """The last `lines` of each service's log; all services when none is named. KeyError names an unknown one."""
    found = {container["Labels"][SERVICE_LABEL]: container["Id"] for container in engine.project(project)}
    unknown = sorted(set(services) - set(found))
    if unknown:
        raise KeyError(
            f"services: {', '.join(unknown)} not in project {project}; there are {', '.join(sorted(found))}"
        )
    return {
        service: redactor.text(engine.logs(found[service], lines)).splitlines()
        for service in sorted(services or found)
    }


def project_state(engine: Engine, project: str) -> dict[str, dict[str, Any]]:
    """Service -> image, state, health, restarts, start time."""
    state = {}
    for container in engine.project(project):
        inspected = engine.inspect(container["Id"])
        state[container["Labels"][SERVICE_LABEL]] = {
            "image": container["Image"],
            "health": health(inspected),
            "restarts": inspected["RestartCount"],
            "out_of_memory": inspected["State"]["OOMKilled"],
            "started": inspected["State"]["StartedAt"],
        }
    return state
