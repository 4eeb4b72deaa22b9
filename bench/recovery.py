"""How long an operator waits for a database that is lost: restored in place, and on a host that has nothing, by the
documented playbooks, from the command to its end, verified."""

from __future__ import annotations

import json
import subprocess

from bench.filling import fill
from bench.samples import ROOT, Sample, load, save, timed
from tests.support.deployment import Deployment
from tests.support.off_site import OffSite


def measure(deployment: Deployment, form: str, rounds: int, megabytes: int) -> None:
    """The environment is made anew, with a bucket, and is gone at the end; so is what the bucket held before."""
    samples: dict[str, list[Sample]] = {
        "in place, from this host's repository": [],
        "empty host, from the bucket": [],
    }
    with OffSite() as place:
        place.renew()
        deployment.destroy()
        deployment.converge(**place.inventory, **place.keys)
        filled = fill(str(deployment.containers()["postgres-n8n"].name), megabytes, "bench")
        for _ in range(rounds):
            backed_up = timed(lambda: play(deployment, place, "backup"))
            for (name, found), way in zip(samples.items(), (in_place, on_an_empty_host), strict=True):
                found.append(
                    {**way(deployment, place), "backup_seconds": backed_up["seconds"], "load": load()}
                )
                print(f"{name}: {found[-1]}", flush=True)
        deployment.destroy()
    save("recovery", form, samples, **filled)


def in_place(deployment: Deployment, place: OffSite) -> Sample:
    return timed(
        lambda: play(deployment, place, "restore", restore_target="in_place", restore_discard_previous=True)
    )


def on_an_empty_host(deployment: Deployment, place: OffSite) -> Sample:
    play(deployment, place, "destroy", platform_destroy_data=True, platform_destroy_backups=True)
    keys = {
        "backup_bundle_file": str(place.bundle),
        "backup_bundle_identity_file": str(place.identity_file),
        "backup_bundle_passphrase_file": str(place.passphrase_file),
    }
    return timed(lambda: play(deployment, place, "recover", **keys))


def play(deployment: Deployment, place: OffSite, playbook: str, **extra: str | bool) -> None:
    variables = {**place.inventory, "platform_confirm": deployment.name, **extra}
    done = subprocess.run(
        [
            *(str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(deployment.inventory)),
            *(f"playbooks/{playbook}.yml", "-e", json.dumps(variables)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{playbook}: {done.stdout[-4000:]}{done.stderr[-2000:]}"
