"""Built images from a registry of the operator's own: pulled by digest where it has them, built where not."""

from typing import Any

import pytest
from ansible.module_utils.n8n_platform import images_registry
from ansible.module_utils.n8n_platform.http import HttpError, JsonClient, Response
from ansible.module_utils.n8n_platform.images import Image, ImagesError
from ansible.module_utils.n8n_platform.images_engine import ImageEngine

DIGEST = "sha256:" + "a" * 64
REFS = {"base": "n8n-platform/base:111", "n8n": "n8n-platform/n8n:222", "redis": "n8n-platform/redis:333"}


class FakeEngine:
    """Has all images; its registry has those of `held`."""

    there = True

    def __init__(self, *held: str) -> None:
        self.held = {f"registry.example/hub/{REFS[name]}" for name in held}
        self.tagged: list[str] = []

    def registry_digest(self, ref: str) -> str:
        return DIGEST if ref in self.held else ""

    def missing(self, refs: dict[str, str]) -> list[str]:
        return []

    def tag(self, ref: str, new: str) -> None:
        self.tagged.append(new)

    def untag(self, ref: str) -> None:
        self.tagged.remove(ref)


class FakeRunner:
    def __init__(self, fails: bool = False) -> None:
        self.commands: list[list[str]] = []
        self.fails = fails

    def say(self, text: str) -> None: ...

    def run(self, command: list[str]) -> None:
        self.commands.append(command)
        if self.fails:
            raise ImagesError("denied")


def family(registry: str = "registry.example/hub/") -> list[Image]:
    return [
        Image("base", "base", "d0", rootfs={"packages": ["curl"]}, registry=registry),
        Image("n8n", "n8n", "d1", base="base", registry=registry),
        Image("redis", pull="redis:8@sha256:bb", registry=registry),
    ]


def test_what_the_registry_has_is_pulled_by_digest_and_the_rest_is_built() -> None:
    base, n8n, redis = images_registry.published(family(), REFS, FakeEngine("n8n"))
    assert n8n.address == f"registry.example/hub/n8n-platform/n8n@{DIGEST}"
    assert not n8n.base, "a pulled image waits for no base"
    assert [base, redis] == [family()[0], family()[2]]


@pytest.mark.parametrize("there", [True, False])
def test_without_a_registry_or_an_engine_nothing_changes(there: bool) -> None:
    engine = FakeEngine("n8n")
    engine.there = there
    registry = "" if there else "registry.example/hub"
    assert images_registry.published(family(registry), REFS, engine) == family(registry)


def test_only_built_images_that_the_registry_lacks_are_published() -> None:
    assert images_registry.unpublished(family(), REFS, FakeEngine("base")) == ["n8n"]
    with pytest.raises(ImagesError, match="container_images_registry is not set"):
        images_registry.unpublished(family(""), REFS, FakeEngine())


@pytest.mark.parametrize("fails", [False, True])
def test_pushing_leaves_no_name_behind(fails: bool) -> None:
    engine, runner = FakeEngine(), FakeRunner(fails)
    try:
        images_registry.push(family()[1], REFS["n8n"], engine, runner)
    except ImagesError:
        assert fails
    assert runner.commands == [["docker", "push", "--quiet", "registry.example/hub/n8n-platform/n8n:222"]]
    assert engine.tagged == []


class TestDigest:
    def engine(self, answer: Any, monkeypatch: pytest.MonkeyPatch) -> ImageEngine:
        """An engine that answers its ping, and then this."""
        answers = [Response(200, {}, b"OK"), answer]

        def request(*_: Any, **__: Any) -> Response:
            if isinstance(answers[0], HttpError):
                raise answers[0]
            return answers.pop(0)

        monkeypatch.setattr(JsonClient, "request", request)
        return ImageEngine()

    def test_of_an_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        body = f'{{"Descriptor": {{"digest": "{DIGEST}"}}}}'.encode()
        assert self.engine(Response(200, {}, body), monkeypatch).registry_digest("r/x:1") == DIGEST

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_of_an_image_that_is_not_there(self, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.engine(Response(status, {}, b"{}"), monkeypatch).registry_digest("r/x:1") == ""

    @pytest.mark.parametrize(("status", "says"), [(500, "refused"), (0, "no answer within 15 s")])
    def test_a_registry_that_does_not_answer_is_named(
        self, status: int, says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = self.engine(HttpError("GET", "/distribution/r/x:1/json", status, "refused"), monkeypatch)
        with pytest.raises(ImagesError, match=f"container_images_registry: r/x:1: {says}"):
            engine.registry_digest("r/x:1")
