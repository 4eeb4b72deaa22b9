"""A numbered stream at a fixed rate that also keeps how long each answer took."""

from __future__ import annotations

import statistics
import time

from tests.support.deployment import Deployment, wait_until
from tests.support.stream import NumberedStream

PATH = "/webhook/ledger"


class TimedStream(NumberedStream):
    """`seconds[n]`: from the sending of request n to the last byte of its answer."""

    def __init__(self, deployment: Deployment, rate: float) -> None:
        super().__init__(deployment, PATH, rate=rate, limit=1_000_000)
        self.seconds: dict[int, float] = {}

    def _send(self, n: int) -> None:
        started = time.monotonic()
        super()._send(n)
        self.seconds[n] = time.monotonic() - started

    def percentile(self, percent: int) -> float:
        """Milliseconds."""
        return round(statistics.quantiles(self.seconds.values(), n=100)[percent - 1] * 1000, 1)


def finished(deployment: Deployment) -> int:
    return int(deployment.sql("SELECT count(*) FROM execution_entity WHERE status = 'success'")[0][0])


def wait_for_all(deployment: Deployment, before: int, stream: NumberedStream) -> None:
    """Until every accepted request has an execution that succeeded."""
    wanted = before + len(stream.accepted)
    wait_until(lambda: finished(deployment) >= wanted, "all executions", 600, every=0.5)
