"""Plan of the container images: tags from inputs, the order of building, the bake file, its progress."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = "n8n-platform"
LABEL = "io.n8n-platform"
SECRET_FILES = ("apt.sources", "apt.conf", "pip.conf", "npmrc", "ca.crt")


class ImagesError(Exception):
    """Something an operator has to put right; the text says what."""


@dataclass(frozen=True)
class Image:
    """One image: pulled under `pull`, or built from a context folder, build arguments and the image it starts from.

    registry: where to pull from instead of where `pull` says; no input of the tag, since the digest is one.
    rootfs: `{suite, packages}` of the root file system that its Dockerfile adds as rootfs.tar, empty for none.
    files: {name: text} that its Dockerfile copies from the context `files`.
    suite: of Debian, whose packages are installed; no input of the tag, since the base is one.
    """

    name: str
    context: str = ""
    digest: str = ""
    pull: str = ""
    base: str = ""
    args: dict[str, str] = field(default_factory=dict)
    rootfs: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    registry: str = ""
    suite: str = ""

    @property
    def address(self) -> str:
        return f"{self.registry.rstrip('/')}/{self.pull}" if self.registry else self.pull


def pull_reference(version: dict[str, Any]) -> str:
    """`image:tag@digest` of `{image, tag, digest}`; without a digest it is refused where it gets pulled."""
    digest = f"@{version['digest']}" if version.get("digest") else ""
    return f"{version['image']}:{version['tag']}{digest}"


def context_digest(folder: str | Path) -> str:
    """Digest of the names, executable bits and contents of a folder's files."""
    root = Path(folder)
    if not (root / "Dockerfile").is_file():
        raise ImagesError(f"{root}: no Dockerfile")
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        executable = "x" if path.stat().st_mode & 0o100 else "-"
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\0{executable}\0{content}\n".encode())
    return digest.hexdigest()


def plan_refs(images: list[Image], refreshed: str, architecture: str) -> dict[str, str]:
    """Reference of each image. Its tag is the hash of all that goes in, the hash of its base included."""
    known = {image.name: image for image in images}
    if len(known) != len(images):
        raise ImagesError("an image is named twice")
    refs: dict[str, str] = {}

    def ref_of(name: str, dependents: tuple[str, ...] = ()) -> str:
        if name in dependents:
            raise ImagesError(f"images are based on each other: {' -> '.join((*dependents, name))}")
        if name not in refs:
            image = known[name]
            if image.base and image.base not in known:
                raise ImagesError(f"{name}: its base {image.base!r} is not an image of the list")
            inputs = {
                "name": name,
                "context": image.digest,
                "args": image.args,
                "rootfs": image.rootfs,
                "base": ref_of(image.base, (*dependents, name)) if image.base else "",
                "refreshed": refreshed,
                "architecture": architecture,
            }
            inputs |= {"pull": image.pull} if image.pull else {}
            inputs |= {"files": image.files} if image.files else {}
            digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
            refs[name] = f"{REPOSITORY}/{name}:{digest[:12]}"
        return refs[name]

    for image in images:
        ref_of(image.name)
    return {image.name: refs[image.name] for image in images}


def waves(images: list[Image], missing: list[str]) -> list[list[Image]]:
    """The missing images in the order of their bases: those of one wave can be built side by side.

    A wave starts from images that the engine has, never from a target of the same bake: BuildKit would give the same
    layers two cache keys, and a change of one image would rebuild it from the start.
    """
    left = [image for image in images if image.name in missing]
    found = []
    while left:
        names = {image.name for image in left}
        wave = [image for image in left if image.base not in names]
        left = [image for image in left if image.base in names]
        found.append(wave)
    return found


def secret_file(name: str, suite: str) -> str:
    """Name of the file behind a build secret: where packages come from depends on the suite."""
    return f"{name}-{suite}" if name == "apt.sources" else name


def bake_file(
    wave: list[Image],
    refs: dict[str, str],
    refreshed: str,
    folders: dict[str, str],
    labels: dict[str, dict[str, str]],
    suffix: str = "",
) -> dict[str, Any]:
    """What `docker buildx bake` is given: one target per image.

    refreshed: a build argument too, so that BuildKit's own cache does not keep old packages;
    folders: `contexts`, `secrets`, `rootfs`, `files`; labels: more labels per image; suffix: added to the tags.
    """
    targets: dict[str, Any] = {}
    for image in wave:
        tag = refs[image.name].rpartition(":")[2]
        target: dict[str, Any] = {
            "context": f"{folders['rootfs']}/{tag}"
            if image.rootfs
            else f"{folders['contexts']}/{image.context}",
            "dockerfile": f"{folders['contexts']}/{image.context}/Dockerfile",
            "args": {"DEBIAN_REFRESHED": refreshed, **image.args},
            "labels": {f"{LABEL}.image": image.name, f"{LABEL}.inputs": tag, **labels.get(image.name, {})},
            "tags": [refs[image.name] + suffix],
            "secret": [
                f"id={name},src={folders['secrets']}/{secret_file(name, image.suite)}"
                for name in SECRET_FILES
            ],
        }
        if image.base:
            target["contexts"] = {image.base: f"docker-image://{refs[image.base]}"}
        if image.files:
            target["contexts"] = {**target.get("contexts", {}), "files": f"{folders['files']}/{tag}"}
        targets[image.name] = target
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


class BakeProgress:
    """Turns lines of `docker buildx bake --progress=plain` into progress lines.

    A progress line is `<what> <step> <text>`; its text begins with done, cached or FAILED when the step has ended.
    """

    STEP = re.compile(r"#(\d+) \[((?:\S+ +)*)(\d+/\d+)\] (.*)")
    END = re.compile(r"#(\d+) (DONE|CACHED|ERROR)(.*)")

    def __init__(self, images: list[str]) -> None:
        self.images = images
        self.steps: dict[str, str] = {}

    def read(self, line: str) -> str:
        match = self.STEP.match(line)
        if match:
            number, names, count, command = match.groups()
            if number in self.steps:
                return ""
            # Where only one image is built, BuildKit does not name it; it numbers the stages without a name.
            words = [word for word in names.split() if not word.startswith("stage-")]
            if not words or words[0] not in self.images:
                words.insert(0, self.images[0])
            self.steps[number] = f"{'/'.join(words)} {count}"
            command = re.sub(r"--mount=\S+\s+", "", command)
            return f"{self.steps[number]} {' '.join(command.split())[:70]}"
        match = self.END.match(line)
        if match and match[1] in self.steps:
            ending = {"DONE": f"done in{match[3]}", "CACHED": "cached", "ERROR": "FAILED"}[match[2]]
            return f"{self.steps[match[1]]} {ending}"
        return ""


class ProgressView:
    """What to show of progress lines: all of them, and after a silence the steps that are still running."""

    SILENCE_SECONDS = 30

    def __init__(self) -> None:
        self._running: dict[str, float] = {}
        self._shown = 0.0

    def lines(self, new: list[str], now: float) -> list[str]:
        """`now`: seconds since the start."""
        for line in new:
            what, step, text = [*line.split(" ", 2), "", ""][:3]
            if text.startswith(("done", "cached", "FAILED")):
                self._running.pop(f"{what} {step}", None)
            else:
                self._running[f"{what} {step}"] = now
        shown = new
        if not new and now - self._shown >= self.SILENCE_SECONDS:
            shown = [f"{step} running for {now - since:.0f}s" for step, since in self._running.items()]
        if shown:
            self._shown = now
        return shown
