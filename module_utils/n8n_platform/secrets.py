"""Making secret values, and the files that services read them from. No store and no Ansible in here."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CERTIFICATE_PARTS = {"crt": "certificate", "key": "private_key", "ca": "ca"}
_ALPHABET = string.ascii_letters + string.digits
# bcrypt's own base 64, in its order.
_BCRYPT_ALPHABET = "./" + string.ascii_uppercase + string.ascii_lowercase + string.digits
_PLACEHOLDER = re.compile(r"\{(?:(sha256):)?([a-z][a-z0-9_]*(?:\.(?:crt|key|ca))?)\}")
_FINGERPRINT_LABEL = b"n8n-platform encryption key fingerprint v1"
_FINGERPRINT_LENGTH = 32


class SecretError(Exception):
    """What was asked for cannot be made; the text names the secret and the field or variable."""


@dataclass(frozen=True)
class SecretFile:
    """A file below the secrets root that should be there, for whom, and the secret `name` that it comes from."""

    path: Path
    uid: int
    gid: int
    name: str


def generate(spec: dict[str, Any]) -> str:
    """A new random value of kind password, hex or create_only (hex when `bytes` is given)."""
    if spec["kind"] == "hex" or spec.get("bytes"):
        return secrets.token_hex(spec.get("bytes") or 32)
    return "".join(secrets.choice(_ALPHABET) for _ in range(spec.get("length") or 32))


def fingerprint(value: str) -> str:
    """Tells whether two keys are the same without telling anything of the key."""
    return hmac.new(value.encode(), _FINGERPRINT_LABEL, hashlib.sha256).hexdigest()[:_FINGERPRINT_LENGTH]


def bcrypt(value: str, known_hash: str = "", cost: int = 4) -> str:
    """A bcrypt hash of `value`; `known_hash` again if it still fits. From the system's libcrypt: Python has none."""
    if known_hash.startswith(f"$2b${cost:02d}$") and _crypt(value, known_hash) == known_hash:
        return known_hash
    # 22 characters carry 128 bits: of the last one only two bits count, and libcrypt wants the others to be 0.
    salt = "".join(secrets.choice(_BCRYPT_ALPHABET) for _ in range(21)) + secrets.choice(".Oeu")
    return _crypt(value, f"$2b${cost:02d}${salt}")


def _crypt(value: str, setting: str) -> str:
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError as error:
        raise SecretError(
            f"hash: bcrypt needs libcrypt (Debian package libcrypt1) on the target: {error}"
        ) from None
    library.crypt.restype = ctypes.c_char_p
    found = library.crypt(value.encode(), setting.encode())
    result = found.decode() if found else ""
    if not result.startswith(setting[:29]):
        raise SecretError("hash: bcrypt is not supported by the target's libcrypt (libxcrypt is needed)")
    return result


def placeholders(template: str) -> list[str]:
    """Names of the secrets that a `derived` template reads."""
    return [match.group(2).partition(".")[0] for match in _PLACEHOLDER.finditer(template)]


def render(template: str, values: dict[str, str]) -> str:
    """Fills `{name}` and `{sha256:name}` (hex digest); `values` by secret or certificate part (`tls.crt`)."""

    def fill(match: re.Match[str]) -> str:
        value = values[match.group(2)]
        return hashlib.sha256(value.encode()).hexdigest() if match.group(1) else value

    return _PLACEHOLDER.sub(fill, template)


def in_order(specs: dict[str, dict[str, Any]]) -> list[str]:
    """Names so that a derived secret comes after those it is made of, and one that falls back to another before that:
    when only some are written, the two still tell whether they were one. Raises SecretError (unknown, circular)."""
    order: list[str] = []
    open_names: set[str] = set()

    def visit(name: str, wanted_by: str) -> None:
        if name not in specs:
            raise SecretError(
                f"secret {wanted_by}: its template or `of` names {name}, which nobody contributes"
            )
        if name in open_names:
            raise SecretError(f"secret {name}: is derived from itself")
        if name in order:
            return
        open_names.add(name)
        for source in sources(specs[name]):
            visit(source, name)
        open_names.discard(name)
        order.append(name)

    for name in sorted(specs, key=lambda name: (not specs[name].get("falls_back_to"), name)):
        visit(name, name)
    return order


def sources(spec: dict[str, Any]) -> list[str]:
    """Names of the secrets that this one is derived from."""
    if spec["kind"] != "derived":
        return []
    return [spec["of"]] if spec.get("hash") else placeholders(spec.get("template") or "")


def file_names(spec: dict[str, Any]) -> list[str]:
    """Names of the files of a secret: its own, or those of a certificate's parts."""
    name = spec["name"]
    return [f"{name}.{part}" for part in CERTIFICATE_PARTS] if spec["kind"] == "certificate" else [name]


def issuer_of(dns_names: list[str], edge_names: list[str]) -> str:
    """`edge` when all names are below the edge's, the issuer that operators trust; else `internal`."""
    return (
        "edge" if all(any(_is_below(name, edge) for edge in edge_names) for name in dns_names) else "internal"
    )


def issuer_names(certificates: list[list[str]], edge_names: list[str]) -> dict[str, list[str]]:
    """The DNS names that each issuer has to be allowed to sign, given the names of each certificate."""
    inner = {name for names in certificates if issuer_of(names, edge_names) == "internal" for name in names}
    return {"edge": sorted(edge_names), "internal": sorted({name.removeprefix("*.") for name in inner})}


def _is_below(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")


def contents(spec: dict[str, Any], fields: dict[str, Any]) -> dict[str, str]:
    """File name -> content from a store entry's fields; what is not known yet is left out."""
    if spec["kind"] != "certificate":
        return {spec["name"]: fields["value"]} if "value" in fields else {}
    return {f"{spec['name']}.{part}": fields[key] for part, key in CERTIFICATE_PARTS.items() if key in fields}


def wanted_files(root: Path, specs: dict[str, dict[str, Any]], services: dict[str, Any]) -> list[SecretFile]:
    """One file per consumer. Raises SecretError when a service lists a secret that nobody contributes."""
    owner = {file: name for name, spec in specs.items() for file in file_names(spec)}
    files = []
    for service, definition in sorted(services.items()):
        for file in definition.get("secrets") or []:
            if file not in owner:
                raise SecretError(f"service {service}: lists secret {file}, which nobody contributes")
            uid, _, gid = str(definition.get("user", "")).partition(":")
            if not uid.isdigit() or not (gid or uid).isdigit():
                raise SecretError(
                    f"service {service}: reads secret {file}, so its `user` must be numeric uid:gid"
                )
            files.append(SecretFile(root / service / file, int(uid), int(gid or uid), owner[file]))
    for name, spec in sorted(specs.items()):
        if spec.get("host"):
            files.extend(SecretFile(root / "host" / file, 0, 0, name) for file in file_names(spec))
    return files


def is_in_place(file: SecretFile, content: str) -> bool:
    """Whether the file is there with this content, owner and mode 0400."""
    try:
        found = file.path.lstat()
        return (found.st_mode, found.st_uid, found.st_gid) == (0o100400, file.uid, file.gid) and (
            file.path.read_bytes() == content.encode()
        )
    except OSError:
        return False


def stray_files(root: Path, wanted: Iterable[Path], kept_text: str) -> list[Path]:
    """Files below root that nobody wants and no kept release names (`kept_text`: the releases' texts)."""
    keep = set(wanted)
    found = sorted(path for path in root.glob("*/*") if not path.is_dir() or path.is_symlink())
    return [path for path in found if path not in keep and str(path) not in kept_text]


def holds_data(guard: str, besides: str = "") -> bool:
    """Whether the path is a file, or a directory that holds anything but the file `besides`."""
    path = Path(guard)
    if not path.is_dir():
        return path.exists()
    return any(entry != Path(besides) for entry in path.iterdir())
