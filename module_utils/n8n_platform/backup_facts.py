"""Kind `facts`: {name, kind, service, database, query}: what a database says of itself, for the manifest.

The query gives one JSON object; it becomes the artefact's details. `migrations` of the manifest comes from the item of
that name, {last, count}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context


class Facts:
    """Raises BackupError when the database does not answer with one JSON object."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.service: str = item["service"]
        self.database: str = item["database"]
        self.query: str = item["query"]

    def forecast(self, _context: Context) -> int:
        return 0

    def run(self, context: Context, _staging: Path) -> list[dict[str, Any]]:
        login = ["psql", "-X", "-h", "/var/run/postgresql", "-U", "postgres", "-d", self.database]
        argv = [*login, "-v", "ON_ERROR_STOP=1", "-At", "-c", self.query]
        code, output = context.engine.execute(context.container(self.service)["Id"], argv)
        try:
            details = json.loads(output)
        except ValueError:
            details = None
        if code or not isinstance(details, dict):
            raise BackupError(f"{self.name}: {self.service} answered: {' '.join(output.split())[:300]}")
        return [{"name": self.name, "kind": "facts", "bytes": 0, "details": details}]
