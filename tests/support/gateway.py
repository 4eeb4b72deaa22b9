"""An address of this machine that containers reach and that an inventory can name beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import docker
from docker.types import IPAMConfig, IPAMPool


@contextmanager
def gateway(name: str, subnet: str, address: str) -> Iterator[str]:
    """For as long as the block lasts, `address` is the gateway of a network `name`, which has no members."""
    engine = docker.from_env()
    for left in engine.networks.list(names=[name]):
        left.remove()
    pool = IPAMPool(subnet=subnet, gateway=address)
    network = engine.networks.create(name, ipam=IPAMConfig(pool_configs=[pool]))
    try:
        yield address
    finally:
        network.remove()
