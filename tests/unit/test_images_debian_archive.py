"""Where Debian's archive is for a build, and that a host without one is told so while nothing has changed."""

import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import platform_images
import pytest
from ansible.module_utils.n8n_platform import images_build
from ansible.module_utils.n8n_platform.apt_sources import configured_entries
from ansible.module_utils.n8n_platform.images import Image, ImagesError
from ansible.module_utils.n8n_platform.images_clients import debian_mirrors

ROOT = Path(__file__).resolve().parents[2]
NOBLE = """Types: deb
URIs: http://a.example/ubuntu/
Suites: noble noble-updates noble-backports
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: http://s.example/ubuntu/
Suites: noble-security
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""
BOOKWORM = """Types: deb
URIs: http://h.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://h.example/debian-security
Suites: bookworm-security
Components: main
"""
# As Debian's own images for clouds have it.
CLOUD = """Types: deb deb-src
URIs: mirror+file://{apt}/mirrors/debian.list
Suites: bookworm bookworm-updates bookworm-backports
Components: main

Types: deb deb-src
URIs: mirror+file:{apt}/mirrors/debian-security.list
Suites: bookworm-security
Components: main
"""


class BareEngine:
    """One that is not installed yet: nothing is there, and no registry can be asked."""

    there = False

    def missing(self, wanted: dict[str, str]) -> list[str]:
        return list(wanted)

    def registry_problem(self, ref: str) -> str:
        return "the container engine is not there yet"

    def free_gb(self) -> int:
        return 100


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc/apt of a host, without a source."""
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    monkeypatch.setattr(images_build, "configured_entries", lambda _: configured_entries(folder))
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    """A server that has Debian trixie below its address."""
    release = tmp_path / "archive/debian/dists/trixie/InRelease"
    release.parent.mkdir(parents=True)
    release.write_text("Origin: Debian\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "archive"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/debian"
        server.shutdown()
        thread.join()


def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, **options: Any) -> list[str]:
    """What preflight finds missing on a bare host; raises what it refuses."""
    monkeypatch.setattr(platform_images, "ImageEngine", lambda **_: BareEngine())
    given = {name: option.get("default") for name, option in platform_images.build_spec().items()}
    entry = {"context": None, "digest": "d", "suite": None, "base": "", "args": {}, "rootfs": {}, "files": {}}
    pull = {"image": "debian", "tag": "trixie", "digest": "sha256:" + "a" * 64}
    base = {**entry, "name": "base", "pull": {}, "suite": options.get("suite", "trixie")}
    own = {
        "environment": "local",
        "releases_root": str(tmp_path / "releases"),
        "images": [{**base, "rootfs": {"packages": ["curl"]}}],
        "upstream": [{**entry, "name": "debian", "pull": pull}, {**base, "base": "debian"}],
        "contexts": str(tmp_path / "contexts"),
        "cache_root": str(tmp_path / "cache"),
        "suite": "trixie",
        "refreshed": "2026-01-01",
        "source": source,
    }
    planned = platform_images.run({**given, **own, **options}, check_mode=True)
    return list(planned["missing"])


def test_of_a_list_of_mirrors_the_first_is_taken(apt: Path) -> None:
    (apt / "mirrors").mkdir()
    (apt / "sources.list.d/debian.sources").write_text(CLOUD.format(apt=apt))
    assert debian_mirrors(configured_entries(apt)) == ("", "")
    archive, security = apt / "mirrors/debian.list", apt / "mirrors/debian-security.list"
    archive.write_text(
        "# All\n\nfile:/srv/debian\nhttps://m.example/debian\tpriority:1\nhttp://n.example/debian\n"
    )
    security.write_text("http://m.example/debian-security/\n")
    found = debian_mirrors(configured_entries(apt))
    assert found == ("https://m.example/debian", "http://m.example/debian-security")


@pytest.mark.parametrize("source", ["auto", "packages"])
@pytest.mark.parametrize("sources", ["", NOBLE], ids=["none", "ubuntu"])
def test_a_host_without_one_is_refused_and_both_ways_are_named(
    apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sources: str
) -> None:
    (apt / "sources.list.d/ubuntu.sources").write_text(sources)
    with pytest.raises(ImagesError) as refused:
        plan(tmp_path, monkeypatch, source)
    for way in ("set container_images_debian_mirror", "make pin", "container_images_source to upstream"):
        assert way in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["apt"]


def test_one_that_does_not_answer_or_lacks_the_suite_is_refused(
    apt: Path, archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan(tmp_path, monkeypatch, "packages", debian_mirror=archive) == ["base"]
    for mirror, suite in ((archive, "sid"), ("http://127.0.0.1:1/debian", "trixie")):
        with pytest.raises(ImagesError, match=rf"container_images_debian_mirror.* has no {suite}: "):
            plan(tmp_path, monkeypatch, "packages", debian_mirror=mirror, suite=suite)


def test_both_ways_are_ways(apt: Path, archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (apt / "sources.list.d/ubuntu.sources").write_text(NOBLE)
    assert plan(tmp_path, monkeypatch, "auto", debian_mirror=archive) == ["base"]
    assert plan(tmp_path, monkeypatch, "upstream") == ["debian", "base"]


@pytest.mark.parametrize("given", [None, "", "http://m.example/debian"])
def test_hosted_integration_is_given_one_or_fails_by_name(apt: Path, given: str | None) -> None:
    (apt / "preferences.d").mkdir()
    (apt / "sources.list.d/ubuntu.sources").write_text(NOBLE)
    environment = {"PATH": os.environ["PATH"]} | ({} if given is None else {"DEBIAN_MIRROR": given})
    done = subprocess.run(
        [ROOT / ".ci/debian-archive", apt], env=environment, capture_output=True, text=True, check=False
    )
    assert debian_mirrors(configured_entries(apt)) == (given or "", "")
    if not given:
        assert done.returncode != 0
        assert "DEBIAN_MIRROR: is not set: give the address of a Debian archive" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "Pin: release o=Debian\nPin-Priority: -1\n" in (apt / "preferences.d/debian-archive").read_text()


def test_what_is_built_on_a_pulled_base_needs_none(apt: Path, tmp_path: Path) -> None:
    settings = images_build.Settings(tmp_path, tmp_path, "2026-01-01")
    pulled = Image("redis", pull="redis:8@sha256:aa")
    images_build.Builder(settings, BareEngine(), None).check([pulled, Image("app", "app", "d1", base="base")])


def test_addresses_that_are_set_come_before_the_hosts_own(apt: Path, tmp_path: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(BOOKWORM)

    def mirrors(**settings: str) -> tuple[str, str]:
        return images_build.Builder(
            images_build.Settings(tmp_path, tmp_path, "2026-01-01", **settings), BareEngine(), None
        )._mirrors()

    own, own_security = "http://h.example/debian", "http://h.example/debian-security"
    assert mirrors() == (own, own_security)
    assert mirrors(debian_mirror="http://m.example/d") == ("http://m.example/d", own_security)
    assert mirrors(debian_security_mirror="http://m.example/s") == (own, "http://m.example/s")
