"""What an n8n that is taken over brings along: a dump of its database, or n8n's own export of its entities."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_CUSTOM_MAGIC = b"PGDMP"
_CUSTOM_FORMAT = 1
_PLAIN_HEADER = b"-- PostgreSQL database dump"
_CLUSTER_HEADER = b"-- PostgreSQL database cluster dump"
_PLAIN_VERSIONS = re.compile(rb"^-- Dumped (?:from database|by pg_dump) version (\d+)", re.MULTILINE)
_HEAD_BYTES = 16384
_MIGRATIONS_FILE = "migrations.jsonl"
_ENTITIES_ZIP = "entities.zip"

KEY_VARIABLE = "n8n_encryption_key_import_file"
PASSWORD_VARIABLE = "n8n_owner_password_import_file"  # noqa: S105 (the name of an input)
START_OVER = "Nothing was adopted and nothing changed: adopt again with the right file."

# What names the former server's roles; objects belong to the role that restores.
_DROPPED = re.compile(
    rb"^(ALTER [A-Z ]+ .* OWNER TO [^;]+;|(GRANT|REVOKE) .*;|ALTER DEFAULT PRIVILEGES .*;"
    rb"|COMMENT ON (EXTENSION|DATABASE|SCHEMA) .*;|SET SESSION AUTHORIZATION .*;|\\(un)?restrict \S+)\s*$"
)
_COPY = re.compile(rb"^COPY .* FROM stdin;\s*$")


class AdoptError(Exception):
    """What cannot be adopted and why; the text names the variable or the table, never a value."""


@dataclass(frozen=True)
class Source:
    """`format`: custom, plain or entities; `server_major`: newest Postgres major named in a dump, 0 when none is;
    `sha256`: tells sources apart; `file`: the one file that it is."""

    format: str
    server_major: int
    sha256: str
    file: Path


def require_text(variable: str, path: str) -> None:
    """Raises AdoptError, naming `variable`, when it names no file with text in it."""
    if not path:
        raise AdoptError(f"{variable}: is not set")
    try:
        if Path(path).read_text(encoding="utf-8").strip():
            return
        problem = "is empty"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is no text"
    raise AdoptError(f"{variable}: {path} {problem}")


def inspect_dump(path: Path, server_major: int) -> Source:
    """Raises AdoptError: not readable, neither format of pg_dump, or of a major newer than `server_major`."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise AdoptError(f"{path} cannot be read: {error.strerror}") from None
    if head.startswith(_CUSTOM_MAGIC):
        kind, major = "custom", _custom_major(path, head)
    elif _CLUSTER_HEADER in head:
        raise AdoptError(f"{path} is a dump of a whole cluster (pg_dumpall): dump the database with pg_dump")
    elif _PLAIN_HEADER in head:
        kind, major = "plain", max((int(found) for found in _PLAIN_VERSIONS.findall(head)), default=0)
    else:
        raise AdoptError(f"{path} is no dump of pg_dump in custom (-Fc) or plain format, uncompressed")
    if major > server_major:
        raise AdoptError(f"{path} comes from Postgres {major}, newer than ours, {server_major}")
    return Source(kind, major, digest, path)


def inspect_entities(path: Path) -> Source:
    """The zip file of `n8n export:entities`, or the directory it is in. Raises AdoptError when it is none."""
    file = path / _ENTITIES_ZIP if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except OSError as error:
        raise AdoptError(f"{file} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise AdoptError(f"{file} is no zip file of n8n export:entities") from None
    if _MIGRATIONS_FILE not in names:
        raise AdoptError(f"{file} is no export of n8n export:entities: it has no {_MIGRATIONS_FILE}")
    return Source("entities", 0, digest, file)


def _custom_major(path: Path, head: bytes) -> int:
    """From the header of the custom format: version, sizes, format, compression, time, and three strings."""
    try:
        version, int_bytes, form = (head[5], head[6]), head[8], head[10]
        if form != _CUSTOM_FORMAT:
            raise AdoptError(f"{path} is an archive of pg_dump, but not in custom format (-Fc)")
        # Since 1.15 one byte names the compression; before, a number was its level.
        offset = 11 + (1 if version >= (1, 15) else int_bytes + 1) + 7 * (int_bytes + 1)
        texts = []
        for _ in range(3):
            length = int.from_bytes(head[offset + 1 : offset + 1 + int_bytes], "little")
            offset += 1 + int_bytes
            texts.append(head[offset : offset + length].decode())
            offset += length
        return max(int(text.partition(".")[0]) for text in texts[1:])
    except (IndexError, ValueError):
        raise AdoptError(f"{path} begins like an archive of pg_dump, but is damaged") from None


def plain_statements(lines: Iterable[bytes]) -> Iterator[bytes]:
    """A plain dump without what names the former server's roles.

    Raises AdoptError for a command of psql (`\\connect` of `pg_dump --create`, `\\!`, ...): data lines apart, a
    plain dump holds none that we would run. Also when the dump has no end, since psql takes an end for success.
    """
    copying, complete = False, False
    for line in lines:
        if copying:
            copying = line.rstrip(b"\r\n") != b"\\."
        elif _COPY.match(line):
            copying = True
        elif _DROPPED.match(line):
            continue
        elif line.startswith(b"\\"):
            command = line.split()[0].decode(errors="replace")
            raise AdoptError(f"the dump has the psql command {command}: dump one database, without --create")
        elif line.startswith(b"-- PostgreSQL database dump complete"):
            complete = True
        yield line
    if copying or not complete:
        raise AdoptError("the dump ends in the middle: it is not complete")


def feed(stream: BinaryIO, lines: Iterable[bytes]) -> None:
    for line in lines:
        stream.write(line)
    stream.close()


def describe(params: dict[str, Any]) -> dict[str, Any]:
    """What module n8n_adopt is told of the source (`dump_file` or `entities_file`, `required_files`, `server_major`).

    Raises AdoptError that names the variable of a file that is missing, unreadable, empty or of no use."""
    for variable, path in params["required_files"].items():
        require_text(variable, path)
    dump, entities = params["dump_file"], params["entities_file"]
    if bool(dump) == bool(entities):
        raise AdoptError("n8n_adopt_dump_file, n8n_adopt_entities_file: one of the two is needed")
    variable = "n8n_adopt_dump_file" if dump else "n8n_adopt_entities_file"
    try:
        source = (
            inspect_dump(Path(dump), params["server_major"]) if dump else inspect_entities(Path(entities))
        )
    except AdoptError as error:
        raise AdoptError(f"{variable}: {error}") from None
    return {"format": source.format, "sha256": source.sha256, "file": str(source.file)}


def judge(answer: dict[str, Any], email: str) -> None:
    """Raises AdoptError that names the variable behind what does not fit."""
    if newer := answer["newer_migrations"]:
        raise AdoptError(
            f"n8n_adopt_dump_file: a newer n8n made this database (migration {newer[-1]}). {START_OVER}"
        )
    if answer["failed"] and not answer["proofs"]:
        raise AdoptError(f"{KEY_VARIABLE}: the key decrypts none of the credentials. {START_OVER}")
    if not answer["keys_fit"]:
        raise AdoptError(f"{KEY_VARIABLE}: the key does not open the data keys of the source. {START_OVER}")
    if not answer["password_fits"]:
        raise AdoptError(f"{PASSWORD_VARIABLE}: is not the password of {email}. {START_OVER}")


def require_owner(user: dict[str, Any] | None, email: str, owners: list[str]) -> None:
    """Raises AdoptError unless `user`, the row of `email`, is an owner who can log in with a password alone."""
    if user is None:
        raise AdoptError(f"n8n_owner_email: the source has no user {email}; owner is {owners}")
    if owners and email.lower() not in owners:
        raise AdoptError(f"n8n_owner_email: {email} is not the owner; owner is {owners}")
    if user.get("mfaEnabled"):
        raise AdoptError(
            f"n8n_owner_email: {email} has a second factor, so nobody but a person can log in; switch it off "
            "in the source, dump again, and switch it on afterwards"
        )
