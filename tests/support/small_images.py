"""Images of a few bytes, for tests of what happens to images."""

from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256


def archive(ref: str, year: int) -> bytes:
    """What `docker load` takes: an image of one small file, made on the first day of a year."""

    def packed(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    layer = packed({"made-for": ref.encode()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": f"{year}-01-01T00:00:00Z",
        "config": {"Cmd": ["/made-for"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [ref], "Layers": ["layer.tar"]}]
    texts = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    return packed({**texts, "layer.tar": layer})
