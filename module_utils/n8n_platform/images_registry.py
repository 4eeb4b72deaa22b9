"""A registry of the operator's own that keeps built images: pushed once under their reference, pulled by digest."""

from __future__ import annotations

from ansible.module_utils.n8n_platform.images import Image, ImagesError
from ansible.module_utils.n8n_platform.images_engine import ImageEngine, Runner


def published(images: list[Image], refs: dict[str, str], engine: ImageEngine) -> list[Image]:
    """The same images; those that their registry has under their reference are pulled from there instead of built."""
    return [_published(image, refs[image.name], engine) for image in images]


def unpublished(images: list[Image], refs: dict[str, str], engine: ImageEngine) -> list[str]:
    """Names of the built images that the registry lacks."""
    built = [image for image in images if not image.pull]
    if not all(image.registry for image in built):
        raise ImagesError("container_images_registry is not set")
    if missing := engine.missing({image.name: refs[image.name] for image in built}):
        raise ImagesError(f"nothing to publish yet: {', '.join(missing)} missing")
    return [image.name for image in published(built, refs, engine) if not image.pull]


def push(image: Image, ref: str, engine: ImageEngine, runner: Runner) -> None:
    address = _address(image, ref)
    runner.say(f"{image.name} push {address}")
    engine.tag(ref, address)
    try:
        runner.run(["docker", "push", "--quiet", address])
    finally:
        engine.untag(address)
    runner.say(f"{image.name} push done")


def _published(image: Image, ref: str, engine: ImageEngine) -> Image:
    if image.pull or not image.registry or not engine.there:
        return image
    digest = engine.registry_digest(_address(image, ref))
    pull = f"{ref.rpartition(':')[0]}@{digest}"
    return Image(image.name, pull=pull, registry=image.registry) if digest else image


def _address(image: Image, ref: str) -> str:
    return f"{image.registry.rstrip('/')}/{ref}"
