"""A sender that numbers what it sends: every request that was accepted has to be found again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from http.client import HTTPException
from types import TracebackType
from typing import Self
from uuid import uuid4

from tests.support.deployment import Deployment


class NumberedStream:
    """Posts `<run>-<n>` at `rate` a second, each on a connection of its own, while the block lasts.

    `outcomes[n]` is the status, or the name of the exception when no answer came.
    """

    def __init__(self, deployment: Deployment, path: str, rate: float = 5.0, limit: int = 20_000) -> None:
        self.run = f"stream{uuid4().hex[:8]}"
        self.outcomes: dict[int, int | str] = {}
        self.path, self.began = path, ""
        self._deployment, self._interval, self._limit = deployment, 1 / rate, limit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    def __enter__(self) -> Self:
        self.began = datetime.now(timezone.utc).isoformat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def accepted(self) -> set[int]:
        return {
            n for n, outcome in self.outcomes.items() if isinstance(outcome, int) and 200 <= outcome < 300
        }

    def summary(self) -> str:
        return ", ".join(
            f"{outcome}: {count}" for outcome, count in Counter(self.outcomes.values()).most_common()
        )

    def _send_all(self) -> None:
        with ThreadPoolExecutor(max_workers=40) as pool:
            started = time.monotonic()
            for n in range(self._limit):
                if self._stop.wait(max(0.0, started + n * self._interval - time.monotonic())):
                    return
                pool.submit(self._send, n)

    def _send(self, n: int) -> None:
        try:
            body = f'{{"number": "{self.run}-{n}."}}'.encode()
            headers = {"Content-Type": "application/json"}
            self.outcomes[n] = self._deployment.request(
                "POST", self.path, body=body, headers=headers, timeout=60
            )[0]
        except (OSError, HTTPException) as error:
            self.outcomes[n] = type(error).__name__


def executions_of(deployment: Deployment, stream: NumberedStream) -> dict[int, list[str]]:
    """Number -> statuses of the executions that carry it, read from n8n's database."""
    rows = deployment.sql(
        "SELECT substring(d.data FROM '" + stream.run + "-([0-9]+)\\.'), e.status "
        'FROM execution_entity e JOIN execution_data d ON d."executionId" = e.id '
        f"WHERE d.data LIKE '%{stream.run}-%'"
    )
    found: dict[int, list[str]] = {}
    for number, status in rows:
        found.setdefault(int(number), []).append(status)
    return found


def nameless_of(deployment: Deployment, stream: NumberedStream) -> list[str]:
    """Statuses of the executions of the stream's workflow, since it began, that carry none of its numbers.

    Of a job whose worker died and which Bull calls stalled, n8n 2.41.1 writes an execution that has failed and that
    holds nothing of the request.
    """
    rows = deployment.sql(
        'SELECT e.status FROM execution_entity e JOIN webhook_entity h ON h."workflowId" = e."workflowId" '
        'LEFT JOIN execution_data d ON d."executionId" = e.id '
        f"WHERE h.\"webhookPath\" = '{stream.path.rpartition('/')[2]}' AND e.\"createdAt\" >= '{stream.began}' "
        f"AND coalesce(d.data, '') NOT LIKE '%{stream.run}-%'"
    )
    return [status for (status,) in rows]
