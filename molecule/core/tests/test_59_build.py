"""A build that is killed goes on where it was, and nothing of it carries an image's name before it is whole."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from ansible.module_utils.n8n_platform.images import Image, context_digest
from ansible.module_utils.n8n_platform.images_build import Builder, Settings
from ansible.module_utils.n8n_platform.images_engine import ImageEngine, Runner

from tests.support.deployment import Deployment, wait_until

NAME = "n8n-platform/resume-test"
# The second step lasts for as long as the build's certificates hold `word`: they are no part of its cache key.
DOCKERFILE = """\
FROM base
RUN echo {word} > /first
RUN --mount=type=secret,id=ca.crt while grep -q {word} /run/secrets/ca.crt; do sleep 0.2; done
USER 65534:65534
"""


class Build:
    """Builds one small image from the deployment's own base."""

    def __init__(self, folder: Path, base: str) -> None:
        self.word = f"hold-{uuid4().hex}"
        context = folder / "contexts/resume-test"
        context.mkdir(parents=True)
        (context / "Dockerfile").write_text(DOCKERFILE.format(word=self.word))
        self.folder, self.progress = folder, folder / "progress"
        self.refs = {"base": base, "resume-test": f"{NAME}:0123456789ab"}
        self.image = Image("resume-test", "resume-test", context_digest(context), base="base")

    def run(self, extra_ca: str = "") -> None:
        settings = Settings(self.folder / "contexts", self.folder, "2026-01-01", extra_ca=extra_ca)
        runner = Runner(self.folder / "build.log", self.progress)
        Builder(settings, ImageEngine(), runner).build([self.image], self.refs, ["resume-test"])

    def run_in_a_session(self, extra_ca: str) -> None:
        os.setsid()
        self.run(extra_ca)

    def holds(self) -> bool:
        """Whether its second step runs; a second build would join it instead of beginning its own."""
        return any(self.word in _command(process) for process in Path("/proc").glob("[0-9]*"))

    def steps(self) -> list[str]:
        """Lines of the progress file about the Dockerfile's steps, without times."""
        lines = self.progress.read_text().splitlines() if self.progress.exists() else []
        return [line.partition(" in ")[0] for line in lines if line.startswith("resume-test ")]


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:  # it has ended
        return ""


@pytest.fixture
def build(core: Deployment, engine: docker.DockerClient, tmp_path: Path) -> Iterator[Build]:
    # The newest: what this checkout's images stand on.
    (base, *_) = sorted(engine.images.list("n8n-platform/base"), key=lambda i: i.attrs["Created"])[::-1]
    yield Build(tmp_path, base.tags[0])
    for tag in names(engine):
        engine.images.remove(tag)


def names(engine: docker.DockerClient) -> list[str]:
    return [tag for image in engine.images.list(NAME) for tag in image.tags]


def test_a_killed_build_resumes_and_leaves_no_half_image(
    build: Build, engine: docker.DockerClient, tmp_path: Path
) -> None:
    process = multiprocessing.Process(target=build.run_in_a_session, args=(f"{build.word}\n",))
    process.start()
    try:
        wait_until(build.holds, "the second step to run")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    wait_until(lambda: not build.holds(), "the engine to give the killed build up")
    assert "resume-test 1/3 done" in build.steps()
    assert names(engine) == []

    build.progress.unlink()
    build.run()
    assert "resume-test 1/3 cached" in build.steps(), build.steps()
    assert "resume-test 2/3 done" in build.steps(), build.steps()
    assert names(engine) == [build.refs["resume-test"]]
