"""A first start, images at hand and nothing else of the environment: to a smoke workflow that answered."""

from __future__ import annotations

from bench.samples import Sample, load, save, timed
from tests.support.deployment import Deployment


def measure(deployment: Deployment, form: str, rounds: int) -> None:
    """The environment is made anew each time; the last one stays."""
    samples: list[Sample] = []
    for _ in range(rounds):
        deployment.destroy()
        busy = load()
        samples.append({**timed(deployment.converge), "load": busy})
        print(samples[-1], flush=True)
    save("start", form, {"images present": samples}, containers=len(deployment.containers()))
