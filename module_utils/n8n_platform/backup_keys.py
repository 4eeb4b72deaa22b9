"""Kind `keys`: {name, kind[, secrets: [names]][, files: {name: path}]}: what an empty host needs to open the rest.

All items of this kind make one bundle: JSON {version, environment, run, created, secrets {name: value}, files {name:
text}, fingerprints {name: hex}}, encrypted with age to public keys, so that the host holds nothing that opens it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import RUN_ID, BackupError, Context, Exit, sha256_of
from ansible.module_utils.n8n_platform.backup_openbao import open_store
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.openbao import StoreError
from ansible.module_utils.n8n_platform.secrets import fingerprint

VERSION = 1
SUFFIX = ".age"
_AGE_HEADER = b"age-encryption.org/v1\n"


class Keys:
    """Raises BackupError: a key is missing, or a service uses another one than the store holds."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.secrets = sorted({name for item in items for name in item.get("secrets", [])})
        self.files = {name: Path(path) for item in items for name, path in item.get("files", {}).items()}

    def collect(self, context: Context) -> dict[str, Any]:
        """The bundle in clear; it never touches a disk."""
        try:
            store = open_store(context)
            values = {name: store.get(name) for name in self.secrets}
        except StoreError as error:
            raise BackupError(f"keys: {error}") from None
        missing = [name for name, value in values.items() if not value]
        missing += [str(path) for path in self.files.values() if not path.is_file()]
        if missing:
            raise BackupError(
                f"keys: {', '.join(missing)}: missing, so a backup could not be opened", Exit.WRONG_KEY
            )
        secrets = {name: str(value) for name, value in values.items()}
        self._compare(context, secrets)
        files = {name: path.read_text(encoding="utf-8") for name, path in self.files.items()}
        return {
            "version": VERSION,
            "environment": context.environment,
            "run": context.run_id,
            "created": context.now.isoformat(),
            "secrets": secrets,
            "files": files,
            "fingerprints": {name: fingerprint(text) for name, text in sorted((secrets | files).items())},
        }

    def write(self, context: Context, bundle: dict[str, Any], recipients: list[str]) -> Path:
        """<environment>-<run>.age in staging, 0600. Raises BackupError."""
        target = context.definition.staging / f"{context.environment}-{context.run_id}{SUFFIX}"
        target.touch(mode=0o600)
        argv = ["age", *(part for recipient in recipients for part in ("--recipient", recipient))]
        try:
            result = context.oneshots.run(
                context.definition.image("backup"),
                argv,
                stdin=json.dumps(bundle),
                stdout_file=target,
                timeout=context.limit("keys"),
            )
            if result.code:
                raise BackupError(f"keys: age refused backup_bundle_recipients: {result.words(300)}")
            if target.read_bytes()[: len(_AGE_HEADER)] != _AGE_HEADER:
                raise BackupError("keys: the bundle was not encrypted")
        except EngineError as error:
            raise BackupError(f"keys: {error}") from None
        return target

    def _compare(self, context: Context, secrets: dict[str, str]) -> None:
        """What services really use has to be what the store holds, or the bundle would open nothing."""
        for name, value in secrets.items():
            for path in sorted(context.definition.secrets_root.glob(f"*/{name}")):
                if fingerprint(path.read_text(encoding="utf-8").rstrip("\n")) != fingerprint(value):
                    raise BackupError(
                        f"keys: {path} is not the {name} of the secret store: what is encrypted with one cannot be "
                        "opened with the other; run the site playbook or put the right one back",
                        Exit.WRONG_KEY,
                    )


def of_environment(environment: str, folder: Path) -> dict[str, Path]:
    """Bundles in a folder by their run, also of runs that are gone."""
    named = {run_of(environment, path.name): path for path in folder.glob(f"{environment}-*{SUFFIX}")}
    return {run: path for run, path in sorted(named.items()) if run}


def run_of(environment: str, name: str) -> str:
    """Of a bundle by its name, "" of another's: environments may share a folder, `x` and `x-y` too."""
    run = name.removeprefix(f"{environment}-").removesuffix(SUFFIX)
    return run if RUN_ID.match(run) and name == f"{environment}-{run}{SUFFIX}" else ""


def bundle_artefact(path: Path) -> dict[str, Any]:
    """How the bundle stands in the manifest."""
    return {
        "name": "keys",
        "kind": "keys",
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "details": {},
    }
