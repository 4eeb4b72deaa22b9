"""Makes images on the host: the root file system with mmdebstrap, everything else with `docker buildx bake`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.n8n_platform import images_clients as clients
from ansible.module_utils.n8n_platform.apt_sources import configured_entries
from ansible.module_utils.n8n_platform.images import (
    LABEL,
    BakeProgress,
    Image,
    ImagesError,
    bake_file,
    context_digest,
    secret_file,
    waves,
)
from ansible.module_utils.n8n_platform.images_engine import ImageEngine, Runner

UNLABELLED = "-unlabelled"
# Of the package apt: asks as the host itself does, with its proxies and authorities.
APT_HELPER = "/usr/lib/apt/apt-helper"
ARCHIVE_SECONDS = 20
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
ROOTFS_OPTIONS = [
    # Documentation and translations stay out, here and in every package that is installed later.
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    # Where packages come from is the host's business: no image may hold it.
    '--customize-hook=cd "$1/etc/apt" && rm -f sources.list sources.list.d/* apt.conf.d/99mmdebstrap',
]


@dataclass(frozen=True)
class Settings:
    """What an operator may say about building; addresses are empty for "as the host does", `extra_ca` is PEM text."""

    contexts: Path
    work: Path
    refreshed: str
    debian_mirror: str = ""
    debian_security_mirror: str = ""
    extra_ca: str = ""
    http_proxy: str = ""
    no_proxy: str = ""
    stall_seconds: int = 300


class Builder:
    """Makes missing images in the order of their bases. Raises ImagesError."""

    def __init__(self, settings: Settings, engine: ImageEngine, runner: Runner) -> None:
        self.settings = settings
        self.engine = engine
        self.runner = runner

    def check(self, images: list[Image]) -> None:
        """Refuse what could not be built, before anything is."""
        if any(image.rootfs for image in images) and not self._mirrors()[0]:
            raise ImagesError(
                "no Debian archive in the host's apt sources to build from: set container_images_debian_mirror, "
                "or pin the upstream images (make pin) and set container_images_source to upstream"
            )
        for suite in sorted({image.suite for image in images if image.rootfs}):
            self._check_archive(suite)
        for image in images:
            if image.pull:
                self._check_pull(image)

    def build(self, images: list[Image], refs: dict[str, str], missing: list[str]) -> None:
        with self._client_settings({image.suite for image in images}):
            for wave in waves(images, missing):
                for image in wave:
                    self._prepare(image, refs[image.name])
                self._make([image for image in wave if not image.pull], refs)
        for made in ("rootfs", "files"):
            shutil.rmtree(self.settings.work / made, ignore_errors=True)

    def _check_archive(self, suite: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            authorities = Path(folder, "ca.crt")
            authorities.write_text(self._authorities())
            options = {
                "APT::Sandbox::User": "root",
                "Acquire::Retries": 1,
                "Acquire::http::Timeout": ARCHIVE_SECONDS,
                "Acquire::https::Timeout": ARCHIVE_SECONDS,
                "Acquire::https::CaInfo": authorities,
            }
            if self.settings.http_proxy:
                options["Acquire::http::Proxy"] = self.settings.http_proxy
            release = f"{self._mirrors()[0].rstrip('/')}/dists/{suite}/InRelease"
            command = [APT_HELPER, *(f"-o={name}={value}" for name, value in options.items())]
            try:
                self.runner.output([*command, "download-file", release, f"{folder}/InRelease"])
            except ImagesError as error:
                raise ImagesError(
                    f"the Debian archive to build from (container_images_debian_mirror, else the host's apt sources) "
                    f"has no {suite}: {error}"
                ) from error

    def _check_pull(self, image: Image) -> None:
        if "@sha256:" not in image.pull:
            raise ImagesError(
                f"{image.name}: {image.pull} has no digest (platform_versions.{image.name}.digest)"
            )
        problem = self.engine.registry_problem(image.address) if self.engine.there else ""
        if problem:
            raise ImagesError(f"{image.name}: {image.address} cannot be pulled: {problem}")

    def _prepare(self, image: Image, ref: str) -> None:
        if image.pull:
            self.runner.say(f"{image.name} pull {image.address}")
            self.runner.run(["docker", "pull", image.address], silence_seconds=self.settings.stall_seconds)
            self.engine.tag(image.address, ref)
            # Left alone, the name that it was pulled by would keep the image when its reference is pruned.
            self.engine.untag(image.address)
            self.runner.say(f"{image.name} pull done")
            return
        folder = self.settings.contexts / image.context
        if context_digest(folder) != image.digest:
            raise ImagesError(f"{folder}: its files are not those that the tag of {image.name} was made from")
        for name, text in image.files.items():
            file = self.settings.work / "files" / ref.rpartition(":")[2] / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if image.rootfs:
            self._make_rootfs(image, ref)

    def _make(self, wave: list[Image], refs: dict[str, str]) -> None:
        if not wave:
            return
        self._bake(wave, refs, {}, UNLABELLED)
        # What was installed is only known now. The second run finds every layer done and adds the labels.
        labels = {
            image.name: {f"{LABEL}.debian-packages": self._packages(refs[image.name])} for image in wave
        }
        self._bake(wave, refs, labels)
        for image in wave:
            self.engine.untag(refs[image.name] + UNLABELLED)

    def _make_rootfs(self, image: Image, ref: str) -> None:
        done = self.settings.work / "rootfs" / ref.rpartition(":")[2] / "rootfs.tar"
        if done.exists():
            return
        started = time.monotonic()
        suite, packages = image.suite, ",".join(image.rootfs["packages"])
        self.runner.say(f"{image.name} rootfs of Debian {suite}")
        done.parent.mkdir(parents=True, exist_ok=True)
        command = ["mmdebstrap", "--variant=minbase", "--format=tar", "--mode=root", f"--include={packages}"]
        command += [*ROOTFS_OPTIONS, f"--aptopt={self.settings.work}/secrets/host.conf"]
        command += [suite, str(done.with_name("part")), "-"]
        self.runner.run(command, stdin=clients.apt_sources(suite, *self._mirrors()))
        done.with_name("part").rename(done)
        self.runner.say(f"{image.name} rootfs done in {time.monotonic() - started:.1f}s")

    def _bake(
        self, wave: list[Image], refs: dict[str, str], labels: dict[str, dict[str, str]], suffix: str = ""
    ) -> None:
        work = self.settings.work
        folders = {
            "contexts": str(self.settings.contexts),
            "secrets": f"{work}/secrets",
            "rootfs": f"{work}/rootfs",
            "files": f"{work}/files",
        }
        file = work / "bake.json"
        file.write_text(
            json.dumps(bake_file(wave, refs, self.settings.refreshed, folders, labels, suffix), indent=1)
        )
        command = ["docker", "buildx", "bake", "--builder=default", "--progress=plain", f"--file={file}"]
        proxies = {
            "HTTP_PROXY": self.settings.http_proxy,
            "HTTPS_PROXY": self.settings.http_proxy,
            "NO_PROXY": self.settings.no_proxy,
        }
        # Predefined build arguments: BuildKit keeps them out of the layers' keys and of the history.
        command += [f"--set=*.args.{name}={value}" for name, value in proxies.items() if value]
        self.runner.run(
            command, shorten=BakeProgress([image.name for image in wave]).read if suffix else None
        )

    def _packages(self, ref: str) -> str:
        command = [
            "docker",
            "run",
            "--rm",
            "--network=none",
            "--read-only",
            "--cap-drop=ALL",
            "--user=65534:65534",
        ]
        command += ["--no-healthcheck", "--entrypoint=dpkg-query", ref + UNLABELLED]
        return self.runner.output([*command, "-W", "-f", "${Package}=${Version} "]).strip()

    @contextmanager
    def _client_settings(self, suites: set[str]) -> Iterator[None]:
        """The settings of the host's package clients as files, for as long as a build runs."""
        work = self.settings.work
        folder = work / "secrets"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        archive, security = self._mirrors()
        dump = self.runner.output(["apt-config", "dump", "Acquire"])
        proxy = self.settings.http_proxy
        environment = dict(os.environ)
        settings = {
            "apt.conf": clients.apt_conf(dump, "/run/secrets/ca.crt", proxy),
            "host.conf": clients.apt_conf(dump, f"{folder}/ca.crt", proxy),
            "pip.conf": clients.pip_conf(clients.texts(clients.PIP_FILES), environment),
            "npmrc": clients.npmrc(clients.texts(clients.NPM_FILES), environment),
            "ca.crt": self._authorities(),
        }
        for suite in suites:
            # Without an archive of the host's, the sources that the base image came with are used.
            sources = clients.apt_sources(suite, archive, security) if archive else ""
            settings[secret_file("apt.sources", suite)] = sources
        try:
            for name, text in settings.items():
                (folder / name).write_text(text)
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _authorities(self) -> str:
        return CA_BUNDLE.read_text() + self.settings.extra_ca

    def _mirrors(self) -> tuple[str, str]:
        archive, security = clients.debian_mirrors(configured_entries(Path("/etc/apt")))
        return self.settings.debian_mirror or archive, self.settings.debian_security_mirror or security
