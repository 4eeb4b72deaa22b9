"""SCRAM-SHA-256 verifiers as Postgres stores them (RFC 5803): no plain password is in any statement."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

ITERATIONS = 4096
_PREFIX = "SCRAM-SHA-256"


def verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """`SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>` with a new salt unless one is given.

    ValueError when the password is empty or not printable ASCII: anything else would need SASLprep.
    """
    if not password or not password.isascii() or not password.isprintable():
        raise ValueError("a password must be printable ASCII and not empty")
    used_salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), used_salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"{_PREFIX}${iterations}:{_base64(used_salt)}${_base64(stored_key)}:{_base64(server_key)}"


def matches(stored: str | None, password: str) -> bool:
    """Whether `stored` (pg_authid.rolpassword) is a verifier of `password`; False for md5 and for none."""
    try:
        prefix, parameters, _keys = (stored or "").split("$")
        iterations, salt = parameters.split(":")
        wanted = verifier(password, base64.b64decode(salt, validate=True), int(iterations))
    except ValueError:
        return False
    return prefix == _PREFIX and hmac.compare_digest(wanted, stored or "")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
