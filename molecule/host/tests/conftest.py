"""Nested hosts: empty, recovered from a lost one, without any way out, with upstream's images."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from tests.support.deployment import ROOT, Deployment
from tests.support.nested_host import CACHE, HERE, LABEL, NestedHost, created
from tests.support.off_site import Lost, OffSite
from tests.support.registry import Registry
from tests.support.smtp import authority

# What upstream has images of, and what we build in their place.
UPSTREAM = {"debian": "base", "redis": "redis", "traefik": "traefik", "openbao": "openbao"}
SMALL = "{{ platform_profiles.small | combine({'workers': 1, 'webhooks': 1}) }}"


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NestedHost]:
    """A bare host for the roles of the host alone."""
    with created(NestedHost(tmp_path_factory.mktemp("nested"))) as host:
        yield host


@pytest.fixture(scope="module")
def lost(off_site: OffSite) -> Lost:
    """An environment whose host is gone: core after its own tests, or a small one where they have not run."""
    if off_site.lost is None:
        authority()  # the inventory names its file
        core = Deployment("test-core", HERE.parent / "core/inventory", port_base=18440)
        core.destroy_left_over()
        off_site.renew()
        core.converge(**off_site.keys, platform_size=SMALL)
        off_site.lose(core)
        core.destroy()
    assert off_site.lost
    return off_site.lost


@pytest.fixture(scope="module")
def served(
    lost: Lost, off_site: OffSite, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NestedHost]:
    """A bare host that gets the platform's images from a registry and has the inventory of the lost one."""
    host = NestedHost(
        tmp_path_factory.mktemp("served"),
        **images_from(registry),
        # The folder of the lost host's bundles is on this machine, to which the new one has no way.
        **{**off_site.inventory, "backup_bundle_destination": "/srv/bundles"},
    )
    with created(host):
        assert host.inside("mkdir /srv/bundles")[0] == 0
        yield host


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with the images of this machine's engine; what it was given stays for the next run."""
    with Registry(CACHE / "test-registry", tmp_path_factory.mktemp("registry")) as server:
        on_this_machine("publish", container_images_registry=server.address)
        yield server


@pytest.fixture(scope="module")
def pinned(registry: Registry) -> dict[str, Any]:
    """`platform_versions` with the digests of upstream's names in the registry.

    What lies there has the programs that we build from packages, and of all else what a deployment has to bring itself:
    no user, no entry point that would do, no health check.
    """
    engine = docker.from_env()
    shared: dict[str, Any] = {}
    for file in (ROOT / "group_vars/all").glob("*.yml"):
        shared |= yaml.safe_load(file.read_text(encoding="utf-8"))
    versions = {
        **shared["platform_versions"],
        "redis": shared["platform_redis_variants"][shared["platform_redis"]],
    }
    built = json.loads((CACHE / "images/environments/test-images.json").read_text(encoding="utf-8"))["refs"]
    by_name = {reference.rpartition("/")[2].partition(":")[0]: reference for reference in built}
    for component, name in UPSTREAM.items():
        bare = "" if component == "debian" else 'ENTRYPOINT ["false"]\nCMD []\nHEALTHCHECK NONE\n'
        address = f"{registry.address}/{versions[component]['image']}:{versions[component]['tag']}"
        engine.images.build(
            fileobj=io.BytesIO(f"FROM {by_name[name]}\nUSER root\n{bare}".encode()), tag=address, rm=True
        )
        try:
            assert "errorDetail" not in engine.images.push(address)
            versions[component] = {
                **versions[component],
                "digest": engine.images.get_registry_data(address).id,
            }
        finally:
            engine.images.remove(address)
    return versions


@pytest.fixture(scope="module")
def upstream(
    registry: Registry, pinned: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NestedHost]:
    """A bare host that takes upstream's images, and what this machine has built on that Debian, from a registry."""
    source = {"container_images_source": "upstream", "platform_versions": pinned}
    on_this_machine("publish", container_images_registry=registry.address, **source)
    with created(NestedHost(tmp_path_factory.mktemp("upstream"), **images_from(registry), **source)) as host:
        yield host


@pytest.fixture(scope="session")
def bundle() -> Path:
    """A bundle of the images of this machine's engine."""
    file = CACHE / "test-bundle/images.tar"
    file.parent.mkdir(parents=True, exist_ok=True)
    on_this_machine("bundle", container_images_bundle_file=str(file))
    return file


@pytest.fixture(scope="module")
def offline(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NestedHost]:
    """A host with an engine, a bundle and no way out."""
    engine = docker.from_env()
    network = engine.networks.create("n8n-platform-test-offline", internal=True, labels=LABEL)
    host = NestedHost(
        tmp_path_factory.mktemp("offline"),
        target="prepared",
        network=str(network.name),
        mounts={str(bundle.parent): {"bind": "/srv/bundle", "mode": "ro"}},
        container_images_source="bundle",
        container_images_bundle_file=f"/srv/bundle/{bundle.name}",
    )
    try:
        with created(host):
            yield host
    finally:
        network.remove()


def images_from(registry: Registry) -> dict[str, Any]:
    """What the inventory of a nested host says of a registry on this machine, which has no TLS."""
    address = registry.address_in("bridge")
    return {
        "container_images_registry": address,
        "docker_engine_daemon_options": {"insecure-registries": [address]},
    }


def on_this_machine(playbook: str, **extra: Any) -> None:
    """What an operator does where the images are built; of the environment nothing but that is ever there."""
    run = Deployment("test-images", HERE / "images", port_base=28640).run(playbook, **extra)
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
