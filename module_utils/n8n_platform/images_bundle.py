"""Bundle of images for hosts that reach no registry: one archive and, beside it, a manifest with checksums.

Manifest: `{format, source, refs: {name: ref}, files: {name: {size, sha256}}, sha256}`; the last one is of the rest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.images import ImagesError
from ansible.module_utils.n8n_platform.images_engine import Runner

FORMAT = 1


def manifest_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def save(file: Path, source: str, refs: dict[str, str], runner: Runner) -> None:
    """Write archive and manifest; both appear under their names only when they are whole. Raises ImagesError."""
    part = file.with_name(f"{file.name}.part")
    runner.say(f"bundle save {len(refs)} images")
    runner.run(["docker", "save", f"--output={part}", *sorted(refs.values())])
    runner.say("bundle save done")
    runner.say("bundle checksums of the files")
    files = {file.name: {"size": part.stat().st_size, "sha256": sha256(part)}}
    manifest = seal({"format": FORMAT, "source": source, "refs": refs, "files": files})
    manifest_part = file.with_name(f"{file.name}.json.part")
    manifest_part.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    part.chmod(0o644)
    part.rename(file)
    manifest_part.rename(manifest_of(file))
    runner.say("bundle checksums done")


def load(file: Path, runner: Runner) -> None:
    """Load the archive into the engine after every byte was checked. Raises ImagesError."""
    verify(file, runner)
    runner.say(f"bundle load {file.name}")
    runner.run(["docker", "load", f"--input={file}"])
    runner.say("bundle load done")


def verify(file: Path, runner: Runner) -> None:
    """Raises ImagesError, naming the file, when a byte of the bundle is not what it was when it was made."""
    manifest = read_manifest(file)
    for name, expected in manifest["files"].items():
        path = file.with_name(name)
        runner.say(f"bundle check {name}")
        if not path.is_file():
            raise ImagesError(f"{path} is missing from the bundle")
        if path.stat().st_size != expected["size"] or sha256(path) != expected["sha256"]:
            raise ImagesError(f"{path} is damaged: its checksum is not the one in {manifest_of(file).name}")
    runner.say("bundle check done")


def check_holds(file: Path, refs: dict[str, str]) -> None:
    """Raises ImagesError when the bundle was made from other inputs, and so lacks one of the images."""
    held = read_manifest(file)["refs"]
    if lacking := [ref for name, ref in refs.items() if held.get(name) != ref]:
        raise ImagesError(f"{file} was made from other inputs, it does not hold {', '.join(lacking)}")


def is_current(file: Path, refs: dict[str, str]) -> bool:
    """Whether a bundle of these images is there; a damaged manifest counts as none."""
    try:
        return bool(file.is_file() and read_manifest(file)["refs"] == refs)
    except ImagesError:
        return False


def read_manifest(file: Path) -> dict[str, Any]:
    """The manifest that lies beside `file`. Raises ImagesError when it is missing or damaged."""
    path = manifest_of(file)
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise ImagesError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ImagesError(f"{path} is damaged: not JSON") from None
    if not isinstance(manifest, dict) or seal(manifest) != manifest:
        raise ImagesError(f"{path} is damaged: its own checksum does not fit")
    if manifest["format"] != FORMAT or file.name not in manifest["files"]:
        raise ImagesError(f"{path} is no manifest of {file.name}")
    return manifest


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the checksum of everything else in it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
