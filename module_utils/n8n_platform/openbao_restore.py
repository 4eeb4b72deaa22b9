"""What a backup holds of a store of our own, and how a server takes it.

A server takes a snapshot only when it is initialised, so it is initialised for a moment, with keys that nobody needs
afterwards. It checks by its seal that the snapshot is of the same seal key, and by sums that it is whole, before it
lets go of anything; a server that refused is abandoned, with its data directory.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.n8n_platform.openbao import BaoClient, SecretStore, StoreError
from ansible.module_utils.n8n_platform.openbao_setup import SEAL_KEY_LENGTH, Record

_SUMS = "SHA256SUMS"
_UPLOAD_SECONDS = 120.0
# Of the server's own: what belongs to the directory that it uses here, whatever the record of the source says.
_OWN_VALUES = ("generation", "abandoned")


@dataclass(frozen=True)
class StoreBackup:
    """Files of the source: raft snapshot, record of its keys, seal key."""

    snapshot: Path
    record_file: Path
    seal_key: Path

    @property
    def key(self) -> str:
        return self.seal_key.read_text(encoding="utf-8")

    @property
    def digest(self) -> str:
        return _digest(self.snapshot.open("rb"))

    def record(self) -> Record:
        return Record(self.record_file)

    def check(self) -> None:
        """Raises StoreError that names the file which is missing, truncated or damaged. Changes nothing."""
        for path in (self.snapshot, self.record_file, self.seal_key):
            if not path.is_file():
                raise StoreError(f"recovery: {path} is not there")
        if self.seal_key.stat().st_size != SEAL_KEY_LENGTH:
            raise StoreError(f"recovery: the seal key {self.seal_key} has not {SEAL_KEY_LENGTH} characters")
        record = self.record()
        if record.phase != "initialised" or not record.get("role_id") or not record.get("secret_id"):
            raise StoreError(f"recovery: the record {self.record_file} is of a store that was not set up yet")
        _check_archive(self.snapshot)


def take(client: BaoClient, root_token: str, backup: StoreBackup) -> None:
    """Lets an initialised server take the snapshot. Raises StoreError when it refuses; it then has kept its own."""
    content = backup.snapshot.read_bytes()
    root = BaoClient(client.address, token=root_token, timeout=_UPLOAD_SECONDS)
    status, answer = root.call("POST", "sys/storage/raft/snapshot", content, allowed=(400, 500))
    if status < 400:
        return
    problem = " ".join(str(answer.get("errors", "")).split())
    if "seal" in problem:
        raise StoreError(
            f"recovery: the seal key {backup.seal_key} is not the one that {backup.snapshot} was sealed with"
        )
    raise StoreError(f"recovery: the store refuses the snapshot {backup.snapshot}: {problem}")


def takes_approle(store: SecretStore) -> bool:
    """Whether the server that answers is the source: unsealed, and its AppRole works."""
    try:
        store.login()
    except StoreError:
        return False
    return True


def await_approle(store: SecretStore, seconds: float) -> bool:
    """Whether the source's AppRole works in time; a server that took a snapshot starts anew within itself."""
    deadline = time.monotonic() + seconds
    while not takes_approle(store):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def adopt(record: Record, source: Record, digest: str) -> None:
    """Makes the source's record the one of this store, and notes what it was restored from: the source may have been
    restored itself."""
    own = {key: record.get(key) for key in _OWN_VALUES}
    values = {**source.values, **own, "restored": digest}
    outdated = dict.fromkeys(set(record.values) - set(values))
    record.update(**outdated, **values)


def _check_archive(path: Path) -> None:
    try:
        with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
            found: dict[str, str] = {}
            sums = ""
            for member in archive:
                stream = archive.extractfile(member)
                if stream is None:
                    continue
                if member.name == _SUMS:
                    sums = stream.read().decode()
                else:
                    found[member.name] = _digest(stream)
            # To the end, where gzip's own sum is.
            while plain.read(2**20):
                pass
    except (OSError, EOFError, UnicodeDecodeError, tarfile.TarError, zlib.error) as error:
        raise StoreError(f"recovery: the snapshot {path} is damaged: {error}") from None
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
    if not wanted or any(found.get(name) != digest for name, digest in wanted.items()):
        raise StoreError(f"recovery: the snapshot {path} is damaged: its content differs from its sums")


def _digest(stream: object) -> str:
    with stream:  # type: ignore[attr-defined]
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
