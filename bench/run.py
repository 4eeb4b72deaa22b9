#!/usr/bin/env python3
"""Benchmarks of a deployed environment; raw samples go to bench/results/, the page to docs/benchmarks.md.

bench/run.py [--environment NAME] [--inventory PATH] [--long] [site memory executions]

- site: seconds of an unchanged site run beside `docker compose up -d` and beside the same run with Ansible's default
  configuration, interleaved A B C C B A.
- memory: memory.usage less inactive file cache of each container, idle.
- executions: finished executions a second and Postgres transactions and WAL bytes for each, of two environments with
  the platform's tuning and without, interleaved A B B A.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.deployment import Deployment, wait_until
from tests.support.ledger import deploy_test_workflows
from tests.support.stream import NumberedStream

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")
    return {"cores": os.cpu_count(), "cpu": model, "kernel": platform.release(), "memory_mb": memory_mb()}


def memory_mb() -> int:
    with open("/proc/meminfo", encoding="utf-8") as info:
        return int(info.readline().split()[1]) // 1024


def timed(command: list[str], environment: dict[str, str] | None = None) -> float:
    started = time.monotonic()
    subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, **(environment or {})}
    )
    return round(time.monotonic() - started, 2)


def site_seconds(deployment: Deployment, rounds: int) -> dict[str, list[float]]:
    """Seconds of an unchanged run, three ways, interleaved."""
    site = [".venv/bin/ansible-playbook", "-i", str(deployment.inventory), "playbooks/site.yml"]
    compose = [
        "docker",
        "compose",
        "-f",
        str(deployment.data_root / "releases/current/compose.yaml"),
        "up",
        "-d",
    ]
    compose += ["--no-recreate", *sorted(deployment.containers())]
    plain = {"ANSIBLE_CONFIG": str(plain_configuration())}
    ways = {
        "site": lambda: timed(site),
        "site, default configuration": lambda: timed(site, plain),
        "docker compose up": lambda: timed(compose),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(rounds):
        for name in list(ways) if index % 2 == 0 else reversed(list(ways)):
            samples[name].append(ways[name]())
    return samples


def plain_configuration() -> Path:
    """Ansible's defaults, and only the paths without which the roles are not found."""
    path = Path(tempfile.gettempdir()) / "n8n-platform-bench-ansible.cfg"
    path.write_text(
        "[defaults]\n"
        + "".join(
            f"{key} = {ROOT / folder}\n"
            for key, folder in (
                ("roles_path", "roles"),
                ("library", "library"),
                ("module_utils", "module_utils"),
                ("action_plugins", "plugins/action"),
                ("filter_plugins", "plugins/filter"),
                ("callback_plugins", "plugins/callback"),
            )
        )
        + "interpreter_python = /usr/bin/python3\n",
        encoding="utf-8",
    )
    return path


def idle_memory(deployment: Deployment) -> dict[str, float]:
    """Service -> MiB in use without the cache that the kernel can drop; read from the cgroup, version 1 or 2."""
    used = {}
    for service, container in sorted(deployment.containers().items()):
        lines = (
            Path(f"/proc/{container.attrs['State']['Pid']}/cgroup").read_text(encoding="utf-8").splitlines()
        )
        groups = dict(line.split(":", 2)[1:] for line in lines)
        if "memory" in groups:
            folder = Path("/sys/fs/cgroup/memory") / groups["memory"].lstrip("/")
            usage, cache = int((folder / "memory.usage_in_bytes").read_text()), "total_inactive_file"
        else:
            folder = Path("/sys/fs/cgroup") / groups[""].lstrip("/")
            usage, cache = int((folder / "memory.current").read_text()), "inactive_file"
        details = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used[service] = round((usage - int(details[cache])) / 2**20, 1)
    return used


def counters(deployment: Deployment) -> dict[str, int]:
    row = deployment.sql(
        "SELECT (SELECT sum(xact_commit) FROM pg_stat_database WHERE datname = 'n8n'), "
        "(SELECT wal_bytes FROM pg_stat_wal), "
        "(SELECT count(*) FROM execution_entity WHERE status = 'success')"
    )[0]
    return {"transactions": int(row[0]), "wal_bytes": int(float(row[1])), "finished": int(row[2])}


def executions(deployment: Deployment, seconds: float, rate: float) -> dict[str, float]:
    """Loads the ledger workflow for `seconds` and waits until what was accepted has finished."""
    before, started = counters(deployment), time.monotonic()
    with NumberedStream(deployment, "/webhook/ledger", rate=rate) as stream:
        time.sleep(seconds)  # the length of the load is what is asked for
    accepted = len(stream.accepted)
    wait_until(
        lambda: counters(deployment)["finished"] - before["finished"] >= accepted,
        "all to finish",
        600,
        every=1,
    )
    elapsed = time.monotonic() - started
    after = counters(deployment)
    finished = after["finished"] - before["finished"]
    return {
        "accepted": accepted,
        "refused": len(stream.outcomes) - accepted,
        "executions_per_second": round(finished / elapsed, 2),
        "transactions_per_execution": round((after["transactions"] - before["transactions"]) / finished, 2),
        "wal_bytes_per_execution": round((after["wal_bytes"] - before["wal_bytes"]) / finished),
    }


def compare_executions(
    tuned: Deployment, untuned: Deployment, long: bool
) -> dict[str, list[dict[str, float]]]:
    """A B B A, the environment that is not asked idle meanwhile."""
    for deployment in (tuned, untuned):
        deploy_test_workflows(deployment)
        executions(deployment, 15, 10)
    order = [("tuned", tuned), ("untuned", untuned), ("untuned", untuned), ("tuned", tuned)] * (
        3 if long else 1
    )
    samples: dict[str, list[dict[str, float]]] = {"tuned": [], "untuned": []}
    for name, deployment in order:
        samples[name].append(executions(deployment, 900 if long else 60, 40))
        print(name, samples[name][-1], flush=True)
    return samples


def bench_environment(name: str, port_base: int) -> Deployment:
    return Deployment(name, ROOT / "bench/inventories" / name, port_base)


def save(name: str, samples: Any, form: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    record = {
        "what": name,
        "form": form,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "samples": samples,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["site", "memory", "executions"])
    parser.add_argument("--environment", default="local")
    parser.add_argument("--inventory", type=Path, default=ROOT / "inventories/local")
    parser.add_argument("--port-base", type=int, default=8440)
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    deployment = Deployment(options.environment, options.inventory, options.port_base)
    form = "long" if options.long else "short"
    if "memory" in options.what:
        save("memory", idle_memory(deployment), form)
    if "site" in options.what:
        samples = site_seconds(deployment, 10 if options.long else 4)
        print({name: statistics.median(values) for name, values in samples.items()})
        save("site", samples, form)
    if "executions" in options.what:
        tuned, untuned = bench_environment("bench-tuned", 18840), bench_environment("bench-untuned", 18940)
        save("executions", compare_executions(tuned, untuned, options.long), form)
    return 0


if __name__ == "__main__":
    sys.exit(main())
