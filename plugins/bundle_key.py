"""The age key pair of the operator's side: made by bin/backup-key, used to open a bundle of keys on the controller.

The file of the private key is an age file under a passphrase; `age -d -i FILE` takes it, too.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

import pyrage  # type: ignore[import-untyped]

_PLAIN = "AGE-SECRET-KEY-"
_PASSPHRASE_LENGTH = 12
_DEFAULT_FILE = "~/.config/n8n-platform/backup-key.age"


class KeyFileError(Exception):
    """The file, the passphrase or the bundle cannot be used. The text names which, never a content."""


def make(path: Path, passphrase: str) -> str:
    """Writes a new private key to `path` (0600) and returns its recipient, `age1...`. Never replaces a file."""
    if len(passphrase) < _PASSPHRASE_LENGTH:
        raise KeyFileError(f"the passphrase has less than {_PASSPHRASE_LENGTH} characters")
    if path.exists():
        raise KeyFileError(f"{path} exists already. Backups may need it: it is never replaced")
    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    text = f"# public key: {recipient}\n{identity}\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pyrage.passphrase.encrypt(text.encode(), passphrase))
    return recipient


def read(path: Path, passphrase: str = "") -> list[pyrage.x25519.Identity]:
    """The identities of a key file, which may be under a passphrase or plain. Raises KeyFileError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    if _PLAIN.encode() not in content:
        if not passphrase:
            raise KeyFileError(f"{path} is under a passphrase: give it by a file or at the prompt")
        try:
            content = pyrage.passphrase.decrypt(content, passphrase)
        except pyrage.DecryptError:
            raise KeyFileError(f"{path}: the passphrase is wrong, or the file is damaged") from None
    lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
    identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(_PLAIN)]
    if not identities:
        raise KeyFileError(f"{path} holds no age private key")
    return identities


def open_bundle(bundle: Path, key_file: Path, passphrase: str = "") -> bytes:
    """What the bundle holds. Raises KeyFileError that says whether key, passphrase or bundle is at fault."""
    identities = read(key_file, passphrase)
    try:
        return bytes(pyrage.decrypt(bundle.read_bytes(), identities))
    except OSError as error:
        raise KeyFileError(f"{bundle}: {error.strerror}") from None
    except pyrage.DecryptError:
        raise KeyFileError(
            f"{bundle} does not open with the key in {key_file}: it was made for another key, or is damaged"
        ) from None


def _ask() -> str:
    passphrase = getpass.getpass("Passphrase of the new key: ")
    if getpass.getpass("Again: ") != passphrase:
        raise KeyFileError("the two passphrases differ")
    return passphrase


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bin/backup-key", description="Make the key pair of backup bundles."
    )
    parser.add_argument(
        "--file", type=Path, default=Path(_DEFAULT_FILE).expanduser(), help="default: %(default)s"
    )
    parser.add_argument("--passphrase-file", type=Path, help="its first line; asked for if not given")
    options = parser.parse_args()
    try:
        given = options.passphrase_file
        passphrase = given.read_text(encoding="utf-8").splitlines()[0] if given else _ask()
        recipient = make(options.file, passphrase)
    except (KeyFileError, OSError, IndexError) as error:
        print(f"backup-key: {error}", file=sys.stderr)
        return 1
    print(
        f"Private key: {options.file} (keep it and its passphrase off the hosts, and more than once)",
        file=sys.stderr,
    )
    print(f"Say in the inventory: backup_bundle_recipients: [{recipient}]", file=sys.stderr)
    print(recipient)
    return 0


if __name__ == "__main__":
    sys.exit(main())
