#!/usr/bin/python
# Copyright (c) the n8n platform maintainers
# SPDX-License-Identifier: MIT
"""Build the container images that are missing from the engine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_images
short_description: Get the container images that the engine lacks
description:
  - Gives each image the reference C(n8n-platform/<name>:<hash of its inputs>), asks the engine which of them are
    missing, and makes those, from one of several sources. All sources end in references of this form.
  - Building is one C(docker buildx bake) for each level of bases. Finished layers stay, so a run that was interrupted
    goes on where it stopped. Everything comes from the package registries that the host's own clients are set up
    for; their settings and the host's CA bundle are given to the build as secrets and end up in no layer.
  - The action plugin of the same name fills in the digests, copies the build contexts and shows the progress.
options:
  state:
    description:
      - V(present) makes what is missing.
      - V(bundled) writes all images to O(bundle_file) and a manifest with checksums beside it.
      - V(published) pushes the built images that O(registry) lacks.
      - V(pruned) removes images of the platform that are not among the O(keep) newest of their name and that neither
        a container uses nor a release or the inventory of any environment of this host names, and of BuildKit's cache
        what is more than O(cache_gb).
    type: str
    choices: [present, bundled, published, pruned]
    default: present
  environment:
    description:
      - Environment that needs the images. O(state=present) notes it below O(cache_root), so that they stay when another
        environment prunes, and installs the program that the schedule calls for that.
    type: str
    required: true
  releases_root:
    description: Folder of the environment's releases, which name images, too.
    type: path
    required: true
  source:
    description:
      - V(packages) builds all images of O(images).
      - V(upstream) takes those of O(upstream) instead; what has C(pull) is pulled by its digest.
      - V(bundle) loads O(bundle_file).
      - V(auto) decides before anything is fetched. Where all images of V(packages) or of V(upstream) are there, that
        one. Otherwise V(upstream) if each C(pull) has a digest and a registry answers, else V(packages).
    type: str
    choices: [auto, upstream, packages, bundle]
    default: auto
  choice:
    description: RV(choice) of an earlier task of the run. It stays, whatever a registry answers by now.
    type: dict
    default: {}
  images:
    description: The images when everything is built, in any order.
    type: list
    elements: dict
    required: true
    suboptions: &image
      name: {type: str, required: true, description: Name below C(n8n-platform/).}
      context: {type: str, description: "Folder of its build context below O(contexts); the image's name if not given."}
      digest: {type: str, description: Digest of that folder; made from the folder on the target if not given.}
      suite: {type: str, description: "Suite of Debian that its packages are of; O(suite) if not given."}
      pull: {type: dict, default: {}, description: "C(image), C(tag) and C(digest) to pull instead of building."}
      base: {type: str, default: "", description: The image of this list that its Dockerfile names in C(FROM).}
      args: {type: dict, default: {}, description: Build arguments.}
      rootfs:
        description: C(packages) of a Debian root file system, which the Dockerfile finds as C(rootfs.tar).
        type: dict
        default: {}
      files:
        description: Names and texts of files, which the Dockerfile copies from the context C(files).
        type: dict
        default: {}
  upstream:
    description: The images when a registry is used.
    type: list
    elements: dict
    default: []
    suboptions: *image
  contexts:
    description: Folder of the build contexts on the target.
    type: path
    required: true
  cache_root:
    description: Folder for what is only needed while building, the log and the lock.
    type: path
    required: true
  suite:
    description: Suite of Debian that is built from.
    type: str
    required: true
  refreshed:
    description: A date; one of the hashed inputs, so that a new one takes the updates of all packages.
    type: str
    required: true
  registry:
    description:
      - Registry to pull from instead of the one that the names say, host and path without a scheme.
      - What it has of the images that would be built is pulled from there by digest, too.
    type: str
    default: ""
  progress_file:
    description: Where to write a line for each step that begins or ends; C(progress) in the folder for building.
    type: path
  bundle_file:
    description: The bundle, on the target; its manifest lies beside it with C(.json) added to the name.
    type: path
  keep:
    description: How many of the newest images of each name O(state=pruned) keeps in any case.
    type: int
    default: 2
  cache_gb:
    description: How much of BuildKit's cache O(state=pruned) leaves, in GB; layers of images do not count.
    type: int
    default: 20
  minimum_free_gb:
    description: Refuse to make images with less than this free where the engine keeps them.
    type: int
    default: 12
  stall_seconds:
    description: Give up a pull that makes no progress for this long.
    type: int
    default: 300
  debian_mirror:
    description: Address of Debian's archive; the one in the host's apt sources if empty.
    type: str
    default: ""
  debian_security_mirror: {type: str, default: "", description: The same for Debian's security archive.}
  extra_ca:
    description: Authorities, as PEM text, that are trusted while building besides the host's own.
    type: str
    default: ""
  http_proxy:
    description: Proxy for the build.
    type: str
    default: ""
  no_proxy:
    description: Names that are reached without O(http_proxy).
    type: str
    default: ""
requirements:
  - docker with buildx, mmdebstrap
attributes:
  check_mode:
    support: full
    description: Plans only, and refuses what could not be made.
  diff_mode:
    support: full
    description: The references that come or go.
author: n8n platform maintainers
"""

EXAMPLES = r"""
- name: build | Build missing images
  platform_images:
    environment: local
    releases_root: /var/lib/n8n-platform/local/releases
    images:
      - {name: base, rootfs: {packages: [ca-certificates, curl]}}
      - {name: redis, base: base, args: {REDIS_MAJOR: "8"}}
    contexts: "{{ role_path }}/files"
    cache_root: "{{ platform_cache_root }}"
    suite: trixie
    refreshed: "2026-01-01"
"""

RETURN = r"""
refs:
  description: Reference of each image by its name, C(-) written as C(_).
  returned: always
  type: dict
  sample: {n8n: "n8n-platform/n8n:0123456789ab"}
choice:
  description: The C(source) that was taken, and the C(reason).
  returned: always
  type: dict
missing:
  description: Names of the images that the engine lacked.
  returned: always
  type: list
  elements: str
bootstraps:
  description: Whether one of the missing images starts from a root file system that mmdebstrap makes.
  returned: with O(state=present)
  type: bool
built:
  description: Names of the images that were made, with O(state=published) of those that were pushed.
  returned: always
  type: list
  elements: str
removed:
  description: References that were removed.
  returned: with O(state=pruned)
  type: list
  elements: str
cache_bytes:
  description: How much of BuildKit's cache was too much.
  returned: with O(state=pruned)
  type: int
ansible_facts:
  description: C(container_images_refs), the same as RV(refs); C(__container_images_choice), RV(choice) once it stays.
  returned: always
  type: dict
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.n8n_platform import images_bundle as bundles
from ansible.module_utils.n8n_platform import images_prune
from ansible.module_utils.n8n_platform.images import Image, ImagesError
from ansible.module_utils.n8n_platform.images_build import Builder, Settings
from ansible.module_utils.n8n_platform.images_engine import ImageEngine, Runner
from ansible.module_utils.n8n_platform.images_notes import Notes
from ansible.module_utils.n8n_platform.images_prune import PruneError
from ansible.module_utils.n8n_platform.images_registry import published, push, unpublished
from ansible.module_utils.n8n_platform.images_source import Choice, choose, offer


def build_spec() -> dict[str, Any]:
    image = {
        "name": {"type": "str", "required": True},
        "context": {"type": "str"},
        "digest": {"type": "str"},
        "suite": {"type": "str"},
        "pull": {"type": "dict", "default": {}},
        "base": {"type": "str", "default": ""},
        "args": {"type": "dict", "default": {}},
        "rootfs": {"type": "dict", "default": {}},
        "files": {"type": "dict", "default": {}},
    }
    texts = ("registry", "debian_mirror", "debian_security_mirror", "extra_ca", "http_proxy", "no_proxy")
    states = ["present", "bundled", "published", "pruned"]
    sources = ["auto", "upstream", "packages", "bundle"]
    return {
        "state": {"type": "str", "choices": states, "default": "present"},
        "environment": {"type": "str", "required": True},
        "releases_root": {"type": "path", "required": True},
        "source": {"type": "str", "choices": sources, "default": "auto"},
        "choice": {"type": "dict", "default": {}},
        "images": {"type": "list", "elements": "dict", "required": True, "options": image},
        "upstream": {"type": "list", "elements": "dict", "default": [], "options": image},
        "contexts": {"type": "path", "required": True},
        "cache_root": {"type": "path", "required": True},
        "suite": {"type": "str", "required": True},
        "refreshed": {"type": "str", "required": True},
        "progress_file": {"type": "path"},
        "bundle_file": {"type": "path"},
        "keep": {"type": "int", "default": 2},
        "cache_gb": {"type": "int", "default": 20},
        "minimum_free_gb": {"type": "int", "default": 12},
        "stall_seconds": {"type": "int", "default": 300},
        **{name: {"type": "str", "default": ""} for name in texts},
    }


class Manager:
    """Plans and makes. Raises ImagesError."""

    def __init__(self, params: dict[str, Any], check_mode: bool) -> None:
        self.params = params
        self.work = Path(params["cache_root"]) / "images"
        self.engine = ImageEngine(may_be_absent=check_mode)
        self.runner = Runner(self.work / "build.log", Path(params["progress_file"] or self.work / "progress"))
        given = {field.name: params[field.name] for field in fields(Settings) if field.name in params}
        settings = Settings(**{**given, "contexts": Path(params["contexts"]), "work": self.work})
        self.builder = Builder(settings, self.engine, self.runner)
        self.choice = self._choose()
        names = (params["environment"], params["releases_root"], Path(params["contexts"]).name)
        self.notes = Notes(self.work, *names, list(self.choice.refs.values()))

    def plan(self) -> list[str]:
        """Names of the images that the engine lacks; refuses what could not be made."""
        missing = self.engine.missing(self.choice.refs)
        if missing:
            free = self.engine.free_gb()
            if free < self.params["minimum_free_gb"]:
                wanted = f"{self.params['minimum_free_gb']} needed (container_images_minimum_free_gb)"
                raise ImagesError(f"{free} GB free where the engine keeps its images, {wanted}")
            if self.choice.source == "bundle":
                bundles.check_holds(self._bundle_file(), {name: self.choice.refs[name] for name in missing})
            else:
                self.builder.check(self.sources(missing))
        return missing

    def sources(self, missing: list[str]) -> list[Image]:
        """How the missing ones are had; an engine that is not there yet cannot ask the registry, so none is known."""
        if self.choice.source == "bundle" or (self.params["registry"] and not self.engine.there):
            return []
        return published(
            [image for image in self.choice.images if image.name in missing], self.choice.refs, self.engine
        )

    def apply(self, unknown: list[Path]) -> list[str]:
        """Make what is missing once no other run makes images on this host; returns the names.

        unknown: notes to be written. They come first: from then on nobody prunes what is about to be made.
        """
        with images_prune.alone(self.work):
            self.notes.write(unknown)
            missing = self.plan()
            if missing and self.choice.source == "bundle":
                bundles.load(self._bundle_file(), self.runner)
            elif missing:
                self.builder.build(self.sources(missing), self.choice.refs, missing)
            return missing

    def bundle(self, check_mode: bool) -> bool:
        """Write the bundle unless it is there; True when it is (or would be) written."""
        file = self._bundle_file()
        if missing := self.engine.missing(self.choice.refs):
            raise ImagesError(f"nothing to bundle yet: {', '.join(missing)} missing")
        if bundles.is_current(file, self.choice.refs):
            return False
        if not check_mode:
            with images_prune.alone(self.work):
                bundles.save(file, self.choice.source, self.choice.refs, self.runner)
        return True

    def publish(self, check_mode: bool) -> list[str]:
        """Push what the registry lacks; the names of those that go (or would go) there."""
        names = unpublished(self.choice.images, self.choice.refs, self.engine)
        if names and not check_mode:
            with images_prune.alone(self.work):
                for image in self.choice.images:
                    if image.name in names:
                        push(image, self.choice.refs[image.name], self.engine, self.runner)
        return names

    def prune(self, check_mode: bool) -> tuple[list[str], int]:
        """Remove old images and caches; the references and the bytes of cache that go (or would go)."""
        params, engine = self.params, images_prune.Engine()
        pruner = images_prune.Pruner(self.work, params["keep"], params["cache_gb"], engine)
        with images_prune.alone(self.work):
            (refs, contexts), excess = pruner.plan(), pruner.cache_excess()
            if not check_mode:
                pruner.apply(refs, contexts)
        return refs, excess

    def _choose(self) -> Choice:
        packages = offer("packages", self.params["images"], self.params)
        upstream = offer("upstream", self.params["upstream"] or self.params["images"], self.params)
        kept = self.params["choice"]
        asked = kept.get("source", self.params["source"])
        file = self._bundle_file() if asked == "bundle" else None
        return replace(choose(asked, packages, upstream, self.engine, file), **kept)

    def _bundle_file(self) -> Path:
        if not self.params["bundle_file"]:
            raise ImagesError("container_images_bundle_file is not set")
        return Path(self.params["bundle_file"])


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    manager = Manager(params, check_mode)
    refs = {name.replace("-", "_"): ref for name, ref in manager.choice.refs.items()}
    choice = {"source": manager.choice.source, "reason": manager.choice.reason}
    lasting = choice if manager.engine.there else {}  # by which a registry is asked
    result: dict[str, Any] = {
        "refs": refs,
        "choice": choice,
        "ansible_facts": {"container_images_refs": refs, "__container_images_choice": lasting},
        "missing": [],
        "built": [],
    }
    if params["state"] == "bundled":
        return {**result, "changed": manager.bundle(check_mode)}
    if params["state"] == "published":
        pushed = manager.publish(check_mode)
        return {**result, "changed": bool(pushed), "built": pushed}
    if params["state"] == "pruned":
        gone, cache = manager.prune(check_mode)
        diff = {"before": _lines([*gone, f"build cache: {cache} bytes"] if cache else gone), "after": ""}
        return {**result, "changed": bool(gone or cache), "removed": gone, "cache_bytes": cache, "diff": diff}
    missing, unknown = manager.plan(), manager.notes.plan()
    changed = bool(missing or unknown)
    result["bootstraps"] = any(image.rootfs for image in manager.sources(missing))
    result["built"] = manager.apply(unknown) if changed and not check_mode else []
    comes = _lines([*(manager.choice.refs[name] for name in missing), *map(str, unknown)])
    return {**result, "changed": changed, "missing": missing, "diff": {"before": "", "after": comes}}


def _lines(refs: list[str]) -> str:
    return "".join(f"{ref}\n" for ref in refs)


def main() -> None:
    module = AnsibleModule(build_spec(), supports_check_mode=True)
    try:
        result = run(module.params, module.check_mode)
    except (ImagesError, PruneError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
