"""The operator's key pair, and bundles that are opened with it or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bundle_key
import platform_bundle
import pyrage
import pytest
from ansible.module_utils.n8n_platform.secrets import fingerprint

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: a passphrase is slow on purpose."""
    path = tmp_path_factory.mktemp("operator") / "keys/backup-key.age"
    bundle_key.make(path, PASSPHRASE)
    return path


def bundle(**changes: Any) -> dict[str, Any]:
    secrets = {"n8n_encryption_key": "k" * 48, "backup_restic_password": "r" * 32}
    files = {"openbao.key": "a" * 64, "backup.json": json.dumps({"environment": "production"})}
    made = {
        "version": 1,
        "environment": "production",
        "run": "20261122T020000Z",
        "secrets": secrets,
        "files": files,
    }
    prints = {name: fingerprint(text) for name, text in (secrets | files).items()}
    return {**made, "fingerprints": prints, **changes}


def sealed(path: Path, recipient: str, content: dict[str, Any]) -> Path:
    path.write_bytes(
        pyrage.encrypt(json.dumps(content).encode(), [pyrage.x25519.Recipient.from_str(recipient)])
    )
    return path


def manager(directory: Path, content: dict[str, Any] | str, environment: str = "production") -> Any:
    text = content if isinstance(content, str) else json.dumps(content)
    params = {"bundle": "b.age", "environment": environment, "directory": str(directory), "content": text}
    return platform_bundle.Manager(params)


def test_the_private_key_is_under_its_passphrase_and_for_its_owner_only(
    tmp_path: Path, key_file: Path
) -> None:
    assert key_file.stat().st_mode & 0o7777 == 0o600
    content = key_file.read_bytes()
    assert content.startswith(b"age-encryption.org/v1") and b"AGE-SECRET-KEY" not in content
    with pytest.raises(bundle_key.KeyFileError, match="passphrase is wrong"):
        bundle_key.read(key_file, "another passphrase")
    with pytest.raises(bundle_key.KeyFileError, match="under a passphrase"):
        bundle_key.read(key_file)
    assert len(bundle_key.read(key_file, PASSPHRASE)) == 1


def test_a_key_is_never_replaced(key_file: Path) -> None:
    before = key_file.read_bytes()
    with pytest.raises(bundle_key.KeyFileError, match="never replaced"):
        bundle_key.make(key_file, PASSPHRASE)
    assert key_file.read_bytes() == before


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bundle_key.KeyFileError, match="less than 12"):
        bundle_key.make(tmp_path / "k.age", "short")
    assert not (tmp_path / "k.age").exists()


def test_the_command_prints_the_recipient_alone_and_the_key_opens_what_is_sealed_to_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "p").write_text(PASSPHRASE + "\n")
    command = [sys.executable, str(ROOT / "plugins/bundle_key.py"), "--file", str(tmp_path / "k.age")]
    done = subprocess.run(
        [*command, "--passphrase-file", str(tmp_path / "p")], capture_output=True, text=True, check=True
    )
    recipient = done.stdout.strip()
    assert recipient.startswith("age1") and PASSPHRASE not in done.stdout + done.stderr
    found = bundle_key.open_bundle(
        sealed(tmp_path / "b.age", recipient, bundle()), tmp_path / "k.age", PASSPHRASE
    )
    assert json.loads(found) == bundle()


def test_a_plain_age_key_opens_too(tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "plain").write_text(f"# made by age-keygen\n{identity}\n")
    made = sealed(tmp_path / "b.age", str(identity.to_public()), bundle())
    assert json.loads(bundle_key.open_bundle(made, tmp_path / "plain")) == bundle()


@pytest.mark.parametrize("harm", ["flipped", "truncated", "foreign"])
def test_a_damaged_or_foreign_bundle_is_refused(tmp_path: Path, key_file: Path, harm: str) -> None:
    identity = bundle_key.read(key_file, PASSPHRASE)[0]
    recipient = identity if harm != "foreign" else pyrage.x25519.Identity.generate()
    made = sealed(tmp_path / "b.age", str(recipient.to_public()), bundle())
    content = bytearray(made.read_bytes())
    if harm == "flipped":
        content[-20] ^= 1
    made.write_bytes(content[:-10] if harm == "truncated" else content)
    with pytest.raises(bundle_key.KeyFileError, match=r"b\.age does not open"):
        bundle_key.open_bundle(made, key_file, PASSPHRASE)


def test_keys_are_written_for_root_only_and_once(tmp_path: Path) -> None:
    found = manager(tmp_path / "keys", bundle())
    found.apply(found.plan())
    names = {"n8n_encryption_key", "backup_restic_password", "openbao.key", "backup.json"}
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "keys").iterdir()}
    assert modes == dict.fromkeys(names, 0o400)
    assert (tmp_path / "keys").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "keys/openbao.key").read_text() == "a" * 64
    assert found.definition == {"environment": "production"}
    assert found.plan() == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no json", "no bundle of keys"),
        (bundle(version=2), "version 2"),
        (bundle(secrets={"n8n_encryption_key": "other"}), "n8n_encryption_key differs from its fingerprint"),
        (bundle(files={"../../etc/passwd": "x"}), "impossible name"),
        (bundle(environment="staging"), "is of staging, not of production"),
        (bundle(files={}), "holds no backup.json"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused_before_anything_is_written(
    tmp_path: Path, content: Any, says: str
) -> None:
    with pytest.raises(platform_bundle.BundleError, match=says):
        manager(tmp_path / "keys", content)
    assert list(tmp_path.iterdir()) == []
