"""Kind `openbao_snapshot`: {name, kind[, store_file]}: our own secret store, by its raft snapshot API."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Context, file_artefact
from ansible.module_utils.n8n_platform.openbao import SecretStore, StoreError

_FORECAST = 32 << 20


def open_store(context: Context, store_file: str = "") -> SecretStore:
    """The environment's store. Raises StoreError."""
    path = store_file or str(context.definition.state_root / "openbao-store.json")
    environment = context.definition.values.get("secrets_environment") or context.environment
    return SecretStore.from_params({"store_file": path, "environment": environment})


class OpenbaoSnapshot:
    """Raises BackupError: the store is sealed, refuses our AppRole, or what it gave is damaged."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.store_file: str = item.get("store_file", "")

    def forecast(self, _context: Context) -> int:
        """Bytes: the store holds small texts only."""
        return _FORECAST

    def run(self, context: Context, staging: Path) -> list[dict[str, Any]]:
        try:
            store = open_store(context, self.store_file)
            content = store.snapshot()
            version = store.health().version
        except StoreError as error:
            raise BackupError(f"{self.name}: {error}") from None
        check_snapshot(content, self.name)
        target = staging / f"{self.name}.snap"
        target.touch(mode=0o600)
        target.write_bytes(content)
        return [file_artefact(self.name, "openbao_snapshot", target, version=version)]


def check_snapshot(content: bytes, name: str) -> None:
    """A snapshot is a gzipped tar with its own SHA256SUMS. Raises BackupError when it is cut off or changed."""
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
            contents = {path: stream.read() for path, stream in files.items() if stream}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise BackupError(f"{name}: the snapshot is damaged: {error}") from None
    sums = contents.get("SHA256SUMS", b"").decode("ascii", "replace").split()
    stated = dict(zip(sums[1::2], sums[::2], strict=False))
    if "state.bin" not in stated:
        raise BackupError(f"{name}: the snapshot is damaged: it has no checksums")
    for path, digest in stated.items():
        if hashlib.sha256(contents.get(path.lstrip("*"), b"")).hexdigest() != digest:
            raise BackupError(f"{name}: the snapshot is damaged: {path}")
