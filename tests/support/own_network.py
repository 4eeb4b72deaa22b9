"""A network namespace in which programs see no network of this machine come or go, and reach one address of it."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import subprocess
import threading
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path

from tests.support.deployment import wait_until
from tests.support.packages import program

_CLONE_NEWNET = 0x40000000


class OwnNetwork:
    """For as long as the block lasts, its loopback leads to `address`:`port` of this machine, by the same numbers.

    There is one network card, without anything behind it: a browser without any thinks that it is offline.
    """

    def __init__(self, name: str, address: str, port: int) -> None:
        self._name, self._target = name, (address, port)
        self._over: Future[None] = Future()

    @property
    def prefix(self) -> list[str]:
        """What to put before a command that shall run in it."""
        return ["nsenter", f"--net=/run/netns/{self._name}"]

    def __enter__(self) -> OwnNetwork:
        if Path(f"/run/netns/{self._name}").exists():
            self._ip("netns", "delete", self._name)
        self._ip("netns", "add", self._name)
        for change in (
            "link set lo up",
            "link add card type veth peer name wall",
            # The kernel would give them addresses some seconds later: a change of the network to what runs by then.
            "link set card addrgenmode none",
            "link set wall addrgenmode none",
            "address add 192.0.2.1/24 dev card",
            "link set card up",
            "link set wall up",
        ):
            self._ip("-n", self._name, *change.split())
        wait_until(lambda: " state UP " in self._ip("-n", self._name, "link", "show", "card"), "the card")
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve(self._listen())])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set_result(None)
        self._thread.join()
        self._ip("netns", "delete", self._name)

    def _listen(self) -> socket.socket:
        """A socket belongs to the namespace of the thread that made it, whoever uses it."""
        made: list[socket.socket] = []

        def make() -> None:
            with Path(f"/run/netns/{self._name}").open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {self._name}")
            made.append(socket.create_server(self._target))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert made, f"nothing listens in {self._name}"
        return made[0]

    async def _serve(self, listening: socket.socket) -> None:
        with closing(await asyncio.start_server(self._forward, sock=listening)):
            await asyncio.wrap_future(self._over)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    def _ip(self, *arguments: str) -> str:
        command = [program("ip", "iproute2"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
