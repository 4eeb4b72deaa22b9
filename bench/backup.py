"""What a webhook's callers see of a backup: p95 of the answers during backups beside without."""

from __future__ import annotations

import subprocess
import threading
import time

from bench.filling import fill
from bench.load import TimedStream
from bench.samples import Sample, interleaved, load, save
from tests.support.deployment import Deployment
from tests.support.ledger import deploy_test_workflows

RATE = 10.0


def measure(deployment: Deployment, form: str, rounds: int, seconds: float, megabytes: int) -> None:
    """`megabytes`: the database is filled up to that, in a schema that n8n does not look at."""
    deploy_test_workflows(deployment)
    fill(str(deployment.containers()["postgres-n8n"].name), megabytes, "bench")
    program = str(deployment.data_root / "state/platform-backup")
    ways = {
        "without": lambda: sample(deployment, seconds),
        "during backups": lambda: during_backups(deployment, seconds, [program, "run", "--type", "full"]),
    }
    samples = interleaved(ways, rounds)
    size = int(deployment.sql("SELECT pg_database_size('n8n')")[0][0])
    save("backup", form, samples, rate=RATE, seconds=seconds, database_bytes=size)


def sample(deployment: Deployment, seconds: float) -> Sample:
    before = load()
    with TimedStream(deployment, RATE) as stream:
        time.sleep(seconds)  # the length of the load is what is asked for
    return {
        "accepted": len(stream.accepted),
        "refused": len(stream.outcomes) - len(stream.accepted),
        "p50_ms": stream.percentile(50),
        "p95_ms": stream.percentile(95),
        "load": before,
    }


def during_backups(deployment: Deployment, seconds: float, argv: list[str]) -> Sample:
    """Full backups, one after the other for the whole time; the last one ends after it."""
    lengths: list[float] = []
    stop = threading.Event()

    def back_up() -> None:
        while not stop.is_set():
            started = time.monotonic()
            subprocess.run(argv, capture_output=True, text=True, check=True)
            lengths.append(round(time.monotonic() - started, 1))

    thread = threading.Thread(target=back_up)
    thread.start()
    try:
        found = sample(deployment, seconds)
    finally:
        stop.set()
        thread.join()
    return {**found, "backup_seconds": lengths}
