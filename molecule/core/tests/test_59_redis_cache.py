"""A full cache is the cache's own affair: it forgets the oldest, and the queue beside it does not notice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ansible.module_utils.n8n_platform.openbao import SecretStore

from tests.support.deployment import Deployment, wait_until
from tests.support.ledger import deploy_test_workflows
from tests.support.n8n_rest import address
from tests.support.stream import NumberedStream, executions_of

MIB = 1024 * 1024


class Client:
    """Redis' protocol, as far as it is needed here: an answer in one line, an error, or a text."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def ask(self, *words: str) -> str:
        encoded = [word.encode() for word in words]
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(parts))
        kind, line = self._file.read(1), self._file.readline().decode().strip()
        return self._file.read(int(line) + 2).decode().strip() if kind == b"$" else line

    def info(self) -> dict[str, str]:
        lines = self.ask("INFO").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


@contextmanager
def client(core: Deployment, instance: str, user: str) -> Iterator[Client]:
    """Connected as the user; the password is the store's, since nothing reads that of `app` from a file."""
    store = SecretStore.from_params(
        {"store_file": core.data_root / "state/openbao-store.json", "environment": core.name}
    )
    with socket.create_connection((address(core, f"redis-{instance}", "data"), 6379), 30) as connection:
        connected = Client(connection)
        password = store.get(f"redis_{instance}_{user}_password") or ""
        assert connected.ask("AUTH", user, password) == "OK"
        yield connected


def test_a_full_cache_evicts_and_webhooks_go_on(core: Deployment) -> None:
    deploy_test_workflows(core)
    before = core.fingerprint()
    with (
        client(core, "cache", "app") as app,
        client(core, "cache", "admin") as cache,
        client(core, "queue", "admin") as queue,
        NumberedStream(core, "/webhook/ledger") as stream,
    ):
        limit = int(cache.info()["maxmemory"])
        used = int(queue.info()["used_memory"])
        value = "x" * MIB
        for number in range(limit // MIB + 64):
            assert app.ask("SET", f"page:{number}", value) == "OK"
        full = cache.info()
        assert int(full["evicted_keys"]) >= 64
        assert (
            int(full["used_memory"]) <= limit < core.containers()["redis-cache"].attrs["HostConfig"]["Memory"]
        )
        assert len(app.ask("GET", f"page:{limit // MIB + 63}")) == MIB, "the newest is there"

        mark = len(stream.outcomes)
        wait_until(lambda: len(stream.outcomes) > mark + 20, "twenty more requests")
        assert abs(int(queue.info()["used_memory"]) - used) < 16 * MIB
        assert queue.info()["evicted_keys"] == "0"
        assert cache.ask("FLUSHALL") == "OK"
    assert stream.accepted == set(stream.outcomes), stream.summary()
    wait_until(
        lambda: len(executions_of(core, stream)) == len(stream.accepted), "an execution for each request"
    )
    wait_until(
        lambda: set(map(tuple, executions_of(core, stream).values())) == {("success",)}, "all to succeed"
    )
    assert core.fingerprint() == before
    assert not core.killed_for_memory() & {"redis-cache", "redis-queue"}


def test_the_cache_keeps_nothing_on_disk(core: Deployment) -> None:
    with client(core, "cache", "admin") as cache:
        kept = cache.info()
        assert (kept["aof_enabled"], kept["rdb_saves"], kept["maxmemory_policy"]) == ("0", "0", "allkeys-lru")
    assert list((core.data_root / "volumes/redis-cache").iterdir()) == []


@pytest.mark.parametrize(
    "command", [("CONFIG", "GET", "maxmemory"), ("FLUSHALL",), ("ACL", "LIST"), ("KEYS", "*")]
)
def test_the_caches_user_has_no_dangerous_commands(core: Deployment, command: tuple[str, ...]) -> None:
    with client(core, "cache", "app") as app:
        assert app.ask(*command).startswith("NOPERM")


def test_the_queues_user_is_none_of_the_caches(core: Deployment) -> None:
    with client(core, "queue", "n8n"), client(core, "cache", "app") as app:
        password = core.secret("n8n-main", "redis_queue_n8n_password")
        assert app.ask("AUTH", "n8n", password).startswith("WRONGPASS")


def test_the_queues_user_gets_at_its_own_keys_only(core: Deployment) -> None:
    with client(core, "queue", "n8n") as n8n:
        assert (n8n.ask("SET", "n8n:test", "1"), n8n.ask("DEL", "n8n:test")) == ("OK", "1")
        for command in (("SET", "elsewhere", "1"), ("GET", "elsewhere"), ("DEL", "bullet")):
            assert n8n.ask(*command).startswith("NOPERM"), command
