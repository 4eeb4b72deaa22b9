"""Executions with the platform's settings of n8n and Postgres beside the settings that both come with."""

from __future__ import annotations

import time
from functools import partial

from bench.cgroup import cpu_seconds
from bench.load import TimedStream, finished, wait_for_all
from bench.samples import Sample, interleaved, load, save
from tests.support.deployment import Deployment
from tests.support.ledger import deploy_test_workflows

RATE = 40.0
IDLE_SECONDS = 20


def measure(tuned: Deployment, untuned: Deployment, form: str, rounds: int, seconds: float) -> None:
    """Each is idle while the other is asked; what it does when idle is not counted as an execution's."""
    environments = {"tuned": tuned, "untuned": untuned}
    for deployment in environments.values():
        deploy_test_workflows(deployment)
    idle = {name: idle_transactions(deployment) for name, deployment in environments.items()}
    ways = {
        name: partial(sample, deployment, seconds, idle[name]) for name, deployment in environments.items()
    }
    samples = interleaved(ways, rounds, warm_up=True)
    save("executions", form, samples, rate=RATE, seconds=seconds, idle_transactions_per_second=idle)


def counters(deployment: Deployment) -> dict[str, float]:
    """Transactions of n8n's database, WAL, CPU seconds of all containers, now."""
    deployment.sql("SELECT pg_stat_force_next_flush()")
    row = deployment.sql(
        "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = 'n8n'), (SELECT wal_bytes FROM pg_stat_wal)"
    )[0]
    cpu = {name: cpu_seconds(container) for name, container in deployment.containers().items()}
    return {
        "at": time.monotonic(),
        "transactions": float(row[0]),
        "wal_bytes": float(row[1]),
        "cpu": sum(cpu.values()),
        "cpu_postgres": cpu["postgres-n8n"],
    }


def idle_transactions(deployment: Deployment) -> float:
    """A second: each process of n8n asks its database now and then whether it is there."""
    before = counters(deployment)
    time.sleep(IDLE_SECONDS)  # the length of the look is what is asked for
    after = counters(deployment)
    return round((after["transactions"] - before["transactions"]) / (after["at"] - before["at"]), 2)


def sample(deployment: Deployment, seconds: float, idle: float) -> Sample:
    before, already, before_load = counters(deployment), finished(deployment), load()
    started = time.monotonic()
    with TimedStream(deployment, RATE) as stream:
        time.sleep(seconds)  # the length of the load is what is asked for
    wait_for_all(deployment, already, stream)
    elapsed = time.monotonic() - started
    after = counters(deployment)
    done = finished(deployment) - already
    change = {key: after[key] - before[key] for key in after}
    return {
        "accepted": len(stream.accepted),
        "refused": len(stream.outcomes) - len(stream.accepted),
        "executions_per_second": round(done / elapsed, 2),
        "p95_ms": stream.percentile(95),
        "transactions_per_execution": round((change["transactions"] - idle * change["at"]) / done, 2),
        "wal_bytes_per_execution": round(change["wal_bytes"] / done),
        "cpu_ms_per_execution": round(change["cpu"] / done * 1000, 1),
        "postgres_cpu_ms_per_execution": round(change["cpu_postgres"] / done * 1000, 1),
        "load": before_load,
    }
