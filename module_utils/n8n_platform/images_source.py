"""Decides where images come from, before anything is fetched."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import images as model
from ansible.module_utils.n8n_platform import images_bundle as bundles
from ansible.module_utils.n8n_platform.images import Image
from ansible.module_utils.n8n_platform.images_engine import ImageEngine
from ansible.module_utils.n8n_platform.images_registry import published


@dataclass(frozen=True)
class Choice:
    """A source, what it gives, and why it was taken."""

    source: str
    images: list[Image]
    refs: dict[str, str]
    reason: str = "asked for"


def offer(source: str, entries: list[dict[str, Any]], params: dict[str, Any]) -> Choice:
    """What a source gives, of the images as the module's options describe them."""
    images = [_image(entry, params) for entry in entries]
    return Choice(source, images, model.plan_refs(images, params["refreshed"], platform.machine()))


def _image(entry: dict[str, Any], params: dict[str, Any]) -> Image:
    context = entry["context"] or entry["name"]
    digest = entry["digest"]
    if not digest and not entry["pull"]:
        digest = model.context_digest(Path(params["contexts"], context))
    pull = model.pull_reference(entry["pull"]) if entry["pull"] else ""
    suite = entry["suite"] or params["suite"]
    rootfs = {**entry["rootfs"], "suite": suite} if entry["rootfs"] else {}
    args = {key: str(value) for key, value in entry["args"].items()}
    return Image(
        entry["name"],
        context,
        digest or "",
        pull,
        entry["base"],
        args,
        rootfs,
        entry["files"],
        params["registry"],
        suite,
    )


def choose(
    asked: str, packages: Choice, upstream: Choice, engine: ImageEngine, bundle_file: Path | None
) -> Choice:
    """`auto` decides, everything else was asked for; a bundle gives what it was made from. Raises ImagesError."""
    if asked == "packages":
        return packages
    if asked == "upstream":
        return upstream
    if asked == "bundle" and bundle_file and bundles.manifest_of(bundle_file).exists():
        made_from = str(bundles.read_manifest(bundle_file)["source"])
        offer = upstream if made_from == "upstream" else packages
        return replace(offer, source="bundle", reason=f"asked for, made from {made_from}")
    for offer in (packages, upstream):
        if not engine.missing(offer.refs):
            return replace(
                offer, source=offer.source if asked == "auto" else asked, reason="all its images are there"
            )
    if asked == "bundle":
        return replace(packages, source="bundle")
    if all(image.pull for image in published(packages.images, packages.refs, engine)):
        return replace(packages, reason="the registry has all its images")
    problem = upstream_problem(upstream.images, engine)
    if problem:
        return replace(packages, reason=problem)
    return replace(upstream, reason="a registry answers")


def upstream_problem(images: list[Image], engine: ImageEngine) -> str:
    """Why upstream images cannot be had, empty when they can. A registry is asked only if every digest is pinned."""
    pulled = [image for image in images if image.pull]
    for image in pulled:
        if "@sha256:" not in image.pull:
            return f"no digest is pinned for {image.name}"
    return engine.registry_problem(pulled[0].address) if pulled else "no upstream images are named"
