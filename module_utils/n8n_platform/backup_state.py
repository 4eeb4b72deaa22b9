"""What the last runs did: a small state file, a log of JSON lines, and metrics for Prometheus' textfile collector."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.file_lock import file_lock
from ansible.module_utils.n8n_platform.files import write_file

STATE = "backup-state.json"
LOG = "backup.log"
METRICS = "metrics/backup.prom"
_LOG_LIMIT = 5 << 20
_PATIENCE_SECONDS = 30.0
_PREFIX = "n8n_platform_backup"
_ARCHIVE = {
    "lag_seconds": "Age of the oldest write-ahead log that is not archived.",
    "waiting_bytes": "Write-ahead log that waits to be archived.",
    "failed_count": "Attempts to archive that failed.",
}


class State:
    """{since, last_run {run, type, started, finished, code, problem}, success {local, s3: {run, finished, bytes}},
    durations {step: seconds}, sizes {item: bytes}, verified {finished, ok, problems}, drill {finished, ok, ...},
    archiving {items, problems: what backup_watch.watch() found}, stuck (a restore that was told of), required_bytes,
    free_bytes, sets {repository: count}, window {repository: ISO 8601}, rotation, unfinished (runs that have left no
    set, until all is pruned)}."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / STATE
        self.values = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Lost or damaged, it is made anew: sets are known by their manifests, not by this.
            return {}
        return found

    def update(self, **values: Any) -> None:
        """On disk when this returns, beside what others have written meanwhile."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(self.root / f".{STATE}.lock", _PATIENCE_SECONDS):
            self.values = {**self._read(), **values}
            write_file(self.path, json.dumps(self.values, indent=1, sort_keys=True) + "\n", mode=0o600)

    def since(self, now: datetime) -> datetime:
        """When backups were set up; from now on if nobody knows."""
        if "since" not in self.values:
            self.update(since=now.isoformat())
        return datetime.fromisoformat(self.values["since"])

    @property
    def unfinished(self) -> list[str]:
        return list(self.values.get("unfinished") or [])

    def write_metrics(self, environment: str) -> None:
        path = self.root / METRICS
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_file(path, metrics(self.values, environment), mode=0o644)


class Log:
    """Appends {time, level, run, event, ...}; one former file is kept."""

    def __init__(self, root: Path, run: str = "") -> None:
        self.path = root / LOG
        self.run = run

    def write(self, event: str, level: str = "info", **fields: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.path.exists() and self.path.stat().st_size > _LOG_LIMIT:
            self.path.replace(self.path.with_suffix(".log.1"))
        entry = {
            "time": datetime.now(timezone.utc).isoformat(),
            "level": level,
            "run": self.run,
            "event": event,
        }
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**entry, **fields}) + "\n")


def metrics(values: dict[str, Any], environment: str) -> str:
    """Text format; every age is left to the reader, who knows what time it is."""
    lines: list[str] = []

    def gauge(name: str, text: str, samples: dict[str, Any], label: str = "") -> None:
        found = {key: value for key, value in samples.items() if value is not None}
        if not found:
            return
        lines.append(f"# HELP {_PREFIX}_{name} {text}")
        lines.append(f"# TYPE {_PREFIX}_{name} gauge")
        for key, value in sorted(found.items()):
            more = f',{label}="{_escape(key)}"' if label else ""
            lines.append(f'{_PREFIX}_{name}{{environment="{_escape(environment)}"{more}}} {value}')

    run, success = values.get("last_run") or {}, values.get("success") or {}
    verified, drill = values.get("verified") or {}, values.get("drill") or {}
    repository = "repository"
    gauge(
        "last_success_timestamp_seconds",
        "End of the newest complete backup.",
        {name: _unix(entry["finished"]) for name, entry in success.items()},
        repository,
    )
    gauge(
        "last_size_bytes",
        "Size of the newest complete backup.",
        {k: v["bytes"] for k, v in success.items()},
        repository,
    )
    gauge("last_run_timestamp_seconds", "End of the last run.", {"": _unix(run.get("finished"))})
    gauge("last_run_exit_code", "0: everything is where it should be.", {"": run.get("code")})
    gauge("last_duration_seconds", "Duration of the last run.", {"": run.get("seconds")})
    gauge("step_duration_seconds", "Duration by step of the last run.", values.get("durations") or {}, "step")
    gauge("item_size_bytes", "Size by item in the last run.", values.get("sizes") or {}, "item")
    gauge("required_bytes", "Forecast of the last run.", {"": values.get("required_bytes")})
    gauge("free_bytes", "Free bytes below the local repository.", {"": values.get("free_bytes")})
    archive = (values.get("archiving") or {}).get("items") or {}
    for name, text in _ARCHIVE.items():
        gauge(f"archive_{name}", text, {item: facts[name] for item, facts in archive.items()}, "item")
    gaps = {item: len(facts["gaps"]) for item, facts in archive.items()}
    gauge("archive_gaps", "Holes in the write-ahead log: moments that cannot be restored.", gaps, "item")
    gauge("sets", "Good sets.", values.get("sets") or {}, repository)
    oldest = {name: _unix(moment) for name, moment in (values.get("window") or {}).items()}
    gauge("window_start_timestamp_seconds", "Oldest moment that can be restored.", oldest, repository)
    gauge(
        "last_verified_timestamp_seconds",
        "End of the last verification.",
        {"": _unix(verified.get("finished"))},
    )
    gauge("last_verified_ok", "Whether it found nothing damaged.", {"": _number(verified.get("ok"))})
    gauge(
        "last_drill_timestamp_seconds", "End of the last restore drill.", {"": _unix(drill.get("finished"))}
    )
    gauge("last_drill_ok", "Whether the drill succeeded.", {"": _number(drill.get("ok"))})
    gauge("last_drill_duration_seconds", "Time to restore in the last drill.", {"": drill.get("seconds")})
    gauge(
        "last_drill_loss_seconds",
        "What a loss of the host would have cost at most as the last drill began.",
        {"": drill.get("loss_seconds")},
    )
    return "\n".join(lines) + "\n" if lines else ""


def _unix(moment: str | None) -> float | None:
    return round(datetime.fromisoformat(moment).timestamp(), 3) if moment else None


def _number(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
