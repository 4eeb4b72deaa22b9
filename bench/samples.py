"""Where samples are kept: bench/results/<subject>.json, raw, with what they were taken on."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
Sample = dict[str, Any]


def save(subject: str, form: str, samples: dict[str, Any], **settings: Any) -> None:
    """`samples`: way -> raw samples; `settings`: whatever the figures depend on (sizes, rates, seeds)."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "subject": subject,
        "form": form,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        "settings": settings,
        "samples": samples,
    }
    (RESULTS / f"{subject}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "unknown")
    memory = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]) // 1024
    return {"cores": os.cpu_count(), "cpu": model, "memory_mb": memory, "kernel": platform.release()}


def versions() -> dict[str, str]:
    pinned = yaml.safe_load((ROOT / "group_vars/all/versions.yml").read_text(encoding="utf-8"))
    variants = yaml.safe_load((ROOT / "group_vars/all/variants.yml").read_text(encoding="utf-8"))
    locked = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    core = next(line.split("==")[1].split()[0] for line in locked if line.startswith("ansible-core=="))
    return {
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "n8n": pinned["platform_versions"]["n8n"]["version"],
        "postgres": str(variants["platform_postgres_major"]),
        "redis": variants["platform_redis"],
        "ansible-core": core,
        "engine": _output("docker", "version", "--format", "{{.Server.Version}}"),
        "compose": _output("docker", "compose", "version", "--short"),
    }


def load() -> float:
    """Average of the last minute: what else had the cores, and ourselves."""
    return round(os.getloadavg()[0], 2)


def timed(work: Callable[[], Any]) -> Sample:
    """Seconds, CPU seconds of the processes that `work` has started and waited for (theirs included), and the load
    before."""
    before, usage, started = load(), _cpu_of_children(), time.monotonic()
    work()
    seconds = time.monotonic() - started
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(_cpu_of_children() - usage, 2),
        "load": before,
    }


def command(argv: list[str], environment: dict[str, str] | None = None) -> Callable[[], None]:
    def run() -> None:
        variables = {**os.environ, **(environment or {})}
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env=variables, check=False)
        assert done.returncode == 0, f"{argv}: {done.stdout[-3000:]}{done.stderr[-2000:]}"

    return run


def interleaved(
    ways: Mapping[str, Callable[[], Sample]], rounds: int, warm_up: bool = False
) -> dict[str, list[Sample]]:
    """A B C, C B A, A B C ...: whatever else the machine does meets all of them alike."""
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for index in range(-1 if warm_up else 0, rounds):
        for name in list(ways) if index % 2 == 0 else reversed(list(ways)):
            sample = ways[name]()
            print(f"{'warm-up' if index < 0 else index + 1}: {name}: {sample}", flush=True)
            if index >= 0:
                samples[name].append(sample)
    return samples


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
