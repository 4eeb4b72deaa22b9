"""Images from a real registry that serves them under their upstream names, some of them badly; and from a bundle."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import docker
import platform_images
import pytest
from ansible.module_utils.n8n_platform import images_bundle
from ansible.module_utils.n8n_platform.images import ImagesError
from ansible.module_utils.n8n_platform.images_engine import Runner

from tests.support.deployment import Deployment, wait_until
from tests.support.registry import Registry
from tests.support.small_images import archive

# Upstream's names, under names of ours that no deployment has.
UPSTREAM = {"redis": "redis:8.0-trixie", "traefik": "traefik:v3.7.15", "openbao": "openbao/openbao:2.7.2"}
PREFIX = "upstream-test-"
NOWHERE = "sha256:" + "0" * 64

Get = Callable[..., list[str]]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@contextmanager
def serving(storage: Path) -> Iterator[Registry]:
    with Registry(storage / "images", storage) as server:
        yield server


@pytest.fixture(scope="module")
def digests(engine: docker.DockerClient, storage: Path) -> dict[str, str]:
    """Of each upstream image, as the registry has it."""
    found = {}
    with serving(storage) as server:
        for year, (name, reference) in enumerate(UPSTREAM.items(), 2001):
            address = f"{server.address}/{reference}"
            engine.images.load(archive(address, year))
            try:
                assert "errorDetail" not in engine.images.push(address)
                found[name] = engine.images.get_registry_data(address).id
            finally:
                engine.images.remove(address)
    return found


@pytest.fixture
def registry(storage: Path, digests: dict[str, str]) -> Iterator[Registry]:
    with serving(storage) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left(engine: docker.DockerClient) -> Iterator[None]:
    yield
    for tag in tagged(engine):
        engine.images.remove(tag, force=True)


def tagged(engine: docker.DockerClient) -> list[str]:
    """References of the test's images, and names that they were pulled by and should have lost."""
    found = [name for image in engine.images.list() for name in (*image.tags, *image.attrs["RepoDigests"])]
    return sorted(name for name in found if f"/{PREFIX}" in name or name.startswith("127.0.0.1:"))


def upstream(digests: dict[str, str], host: str = "", **changes: dict[str, str]) -> list[dict[str, Any]]:
    """The images as the role lists them; `changes`: what is different in the `pull` of one."""
    listed = []
    for name, reference in UPSTREAM.items():
        image, _, tag = reference.partition(":")
        pull = {"image": host + image, "tag": tag, "digest": digests[name], **changes.get(name, {})}
        listed.append({"name": PREFIX + name, "pull": pull})
    return listed


@pytest.fixture
def manager(tmp_path: Path) -> Callable[..., platform_images.Manager]:
    (tmp_path / "cache/images").mkdir(parents=True)

    def make(images: list[dict[str, Any]], **options: Any) -> platform_images.Manager:
        given = {name: option.get("default") for name, option in platform_images.build_spec().items()}
        entry = {
            "context": None,
            "digest": None,
            "suite": None,
            "base": "",
            "args": {},
            "rootfs": {},
            "files": {},
        }
        own = {
            "environment": "test-upstream",
            "releases_root": str(tmp_path / "releases"),
            "images": [{**entry, **image} for image in images],
            "upstream": [],
            "contexts": str(tmp_path),
            "cache_root": str(tmp_path / "cache"),
            "suite": "trixie",
            "refreshed": "2026-01-01",
            "source": "upstream",
            "registry": Registry.address,
            "minimum_free_gb": 1,
        }
        return platform_images.Manager({**given, **own, **options}, check_mode=False)

    return make


def test_what_a_registry_has_is_pulled_by_digest_and_tagged(
    engine: docker.DockerClient, registry: Registry, digests: dict[str, str], manager: Any
) -> None:
    made = manager(upstream(digests))
    assert made.apply([]) == [PREFIX + name for name in UPSTREAM]
    assert tagged(engine) == sorted(made.choice.refs.values())
    assert manager(upstream(digests)).plan() == []


@pytest.mark.parametrize(
    "wrong", [{"digest": NOWHERE}, {"image": "traefik-is-not-here"}], ids=["digest", "missing"]
)
def test_a_wrong_digest_and_a_missing_image_are_named_before_anything_is_pulled(
    engine: docker.DockerClient,
    registry: Registry,
    digests: dict[str, str],
    manager: Any,
    wrong: dict[str, str],
) -> None:
    images = upstream(digests, traefik=wrong)
    with pytest.raises(ImagesError) as refused:
        manager(images).apply([])
    pull = images[1]["pull"]
    address = f"{registry.address}/{pull['image']}:v3.7.15@{pull['digest']}"
    assert str(refused.value).startswith(f"{PREFIX}traefik: {address} cannot be pulled: ")
    assert tagged(engine) == []


@contextmanager
def stalling(layer: str) -> Iterator[str]:
    """Address of a registry that says what it has, and then sends nothing of one layer."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        timeout = 1.0  # the engine begins with TLS, which has no end of a line

        def do_GET(self) -> None:
            if self.path.endswith(layer):
                over.wait()
                return
            self.send_response(307)
            self.send_header("Location", f"http://{Registry.address}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()


def layer_of(image: str, digest: str) -> str:
    request = Request(f"http://{Registry.address}/v2/{image}/manifests/{digest}")
    request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
    with urlopen(request, timeout=10) as answer:
        (layer,) = json.load(answer)["layers"]
    return str(layer["digest"])


def test_a_pull_that_stalls_is_given_up_and_named(
    engine: docker.DockerClient, registry: Registry, digests: dict[str, str], manager: Any
) -> None:
    with stalling(layer_of("redis", digests["redis"])) as address:
        made = manager(upstream(digests)[:1], registry=address, stall_seconds=3)
        assert made.plan() == [f"{PREFIX}redis"]
        with pytest.raises(
            ImagesError, match=rf"{address}/redis:8\.0-trixie@sha256:\w+: no sign of life for 3 s"
        ):
            made.apply([])
    assert tagged(engine) == []


def test_a_registry_that_goes_away_after_auto_has_decided_is_refused_and_not_replaced(
    core: Deployment, engine: docker.DockerClient, storage: Path, digests: dict[str, str], tmp_path: Path
) -> None:
    server = Registry(storage / "images", storage)
    planned, go_on = tmp_path / "planned", tmp_path / "go-on"

    def stop_the_registry() -> None:
        wait_until(planned.exists, "the plan")
        server.__exit__()
        go_on.touch()

    (tmp_path / "cache/images").mkdir(parents=True)
    server.__enter__()
    meanwhile = threading.Thread(target=stop_the_registry)
    meanwhile.start()
    run = core.run(
        "../molecule/core/upstream",
        container_images_source="auto",
        platform_cache_root=str(tmp_path / "cache"),
        platform_releases_root=str(tmp_path / "releases"),
        planned=str(planned),
        go_on=str(go_on),
        __container_images_upstream=upstream(digests, f"{server.address}/"),
        # Packages would begin with this one.
        __container_images_packages=[{"name": f"{PREFIX}redis", "context": "base-upstream"}],
        __container_images_older_base=[],
        __container_images_ours=[],
    )
    meanwhile.join()
    assert run.stdout.count("images from ") == 1
    assert "images from upstream (a registry answers)" in run.stdout
    assert run.rc != 0
    (failure,) = run.failures()
    assert f"{PREFIX}redis: {server.address}/redis:8.0-trixie@sha256:" in failure
    assert "cannot be pulled" in failure
    assert tagged(engine) == []


def test_the_playbook_bundle_says_what_it_pulls_and_saves_it(
    core: Deployment,
    engine: docker.DockerClient,
    registry: Registry,
    digests: dict[str, str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "images.tar"
    (tmp_path / "cache/images").mkdir(parents=True)
    run = core.run(
        "bundle",
        # Other roles' looks for images that are none of these.
        options="--skip-tags preflight",
        container_images_source="upstream",
        container_images_bundle_file=str(file),
        platform_cache_root=str(tmp_path / "cache"),
        __container_images_upstream=upstream(digests, f"{registry.address}/"),
        __container_images_packages=[],
        __container_images_older_base=[],
        __container_images_ours=[],
    )
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    for name, reference in UPSTREAM.items():
        address = re.escape(f"{registry.address}/{reference}@{digests[name]}")
        for step in (f"pull {address}", "pull done"):
            assert re.search(rf"^ +\d+s  {PREFIX}{name} {step}\s*$", run.stdout, re.MULTILINE), run.stdout

    references = tagged(engine)
    assert len(references) == len(UPSTREAM)
    for reference in references:
        engine.images.remove(reference)
    images_bundle.load(file, Runner(tmp_path / "load.log", tmp_path / "load-progress"))
    assert tagged(engine) == references


@pytest.mark.parametrize("position", [0.0, 0.5, 0.999])
def test_a_bundle_is_loaded_only_if_no_byte_of_it_has_changed(
    engine: docker.DockerClient,
    registry: Registry,
    digests: dict[str, str],
    manager: Any,
    tmp_path: Path,
    position: float,
) -> None:
    file = tmp_path / "images.tar"
    made = manager(upstream(digests)[:2], bundle_file=str(file))
    made.apply([])
    assert made.bundle(check_mode=False)
    references = tagged(engine)
    assert len(references) == 2
    for reference in references:
        engine.images.remove(reference)

    options = {"source": "bundle", "bundle_file": str(file), "upstream": made.params["images"]}
    whole = file.read_bytes()
    place = int(len(whole) * position)
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ImagesError, match=rf"{file} is damaged"):
        manager(upstream(digests)[:2], **options).apply([])
    assert tagged(engine) == []

    file.write_bytes(whole)
    assert len(manager(upstream(digests)[:2], **options).apply([])) == 2
    assert tagged(engine) == references
