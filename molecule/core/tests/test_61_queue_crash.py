"""A queue whose process is killed while it is written to."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import count
from threading import Thread

import pytest

from tests.support.deployment import Deployment, wait_until

KEY = "bull:test-crash:wait"
WRITING_SECONDS = 5.0
# The append-only file is synchronised once a second; while the disk is slow, writing it may wait for two.
LOSS_SECONDS = 2.0


@pytest.fixture
def line(core: Deployment) -> Iterator[socket.socket]:
    """The administrator's connection to the queue."""
    networks = core.containers()["redis-queue"].attrs["NetworkSettings"]["Networks"].values()
    address = next(network["IPAddress"] for network in networks)
    password = core.secret("redis-queue", "redis_queue_admin_password").strip()
    with socket.create_connection((address, 6379), timeout=10) as connection:
        connection.sendall(f"AUTH admin {password}\r\n".encode())
        assert connection.recv(100) == b"+OK\r\n"
        yield connection
    core.redis("DEL", KEY)


def test_a_killed_process_costs_it_two_seconds_at_most(core: Deployment, line: socket.socket) -> None:
    queue = core.containers()["redis-queue"]
    killer = Thread(target=queue.kill)
    acknowledged: list[float] = []
    try:
        for number in count():
            line.sendall(f"RPUSH {KEY} {number}\r\n".encode())
            if not line.recv(100).startswith(b":"):
                break
            acknowledged.append(time.monotonic())
            if acknowledged[-1] - acknowledged[0] > WRITING_SECONDS and not killer.ident:
                killer.start()
    except ConnectionError:
        pass
    assert killer.ident, "it ended by itself"
    killer.join()
    queue.start()
    wait_until(lambda: core.healthy("redis-queue"), "the queue to be healthy again", 120)
    kept = core.redis("LRANGE", KEY, "0", "-1").split()
    assert kept and kept == [str(number) for number in range(len(kept))]
    lost = acknowledged[len(kept) :]
    assert not lost or acknowledged[-1] - lost[0] <= LOSS_SECONDS, f"{len(lost)} of {len(acknowledged)}"
    wait_until(lambda: core.smoke()[0] == 200, "n8n to use the queue again", 120)
