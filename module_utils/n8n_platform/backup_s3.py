"""S3 through the tools image: each call is one container that speaks boto3 and is gone afterwards.

What it can do stands in roles/container_images/files/backup/backup_s3/__main__.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.engine_run import Mount, OneShots, RunTimeout

# Where the program finds what is mounted.
_CREDENTIALS = "/run/s3/credentials"
_CA = "/run/s3/ca.pem"
_FILES = "/run/s3/files"
# Beyond the request's own time limit: to make a container and to load boto3.
_START_SECONDS = 60
_TEMPORARY = {"Timeout", "Unreachable", "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout"}
_SERVER_ERROR = 500


class S3Error(Exception):
    """Names operation, endpoint, bucket and key. `code` is the store's own (AccessDenied, NoSuchBucket, ...) or
    Timeout, Unreachable, Untrusted, Corrupt, Local, Invalid, Tools; `status` the HTTP status, 0 without an answer."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.code = str(error.get("code", ""))
        self.status = int(error.get("status") or 0)
        self.key = str(error.get("key", ""))
        what = "/".join(part for part in (error.get("bucket", ""), self.key) if part)
        status = f", HTTP {self.status}" if self.status else ""
        super().__init__(
            f"S3 {error.get('operation')} {what} at {error.get('endpoint') or 'AWS'}: "
            f"{error.get('message', '')} ({self.code}{status})"
        )

    @property
    def temporary(self) -> bool:
        """Whether the same request may well succeed later."""
        return self.code in _TEMPORARY or self.status >= _SERVER_ERROR


@dataclass(frozen=True)
class Limits:
    """Seconds; `request` is what one call may take with all its attempts, however much there is to transfer."""

    connect: float = 10.0
    read: float = 30.0
    attempts: int = 4
    request: int = 900


@dataclass(frozen=True)
class S3:
    """A bucket as one identity sees it. All keys are below `target["prefix"]`, given and returned without it.

    target: {endpoint, bucket, region, prefix, uri_style: path|host, ca_file (path on the host, "" for the image's own
    authorities), network}, as `platform_s3`; credentials_file: AWS shared credentials on the host, `profile` in it.
    Every method raises S3Error.
    """

    oneshots: OneShots
    image: str
    target: dict[str, Any]
    credentials_file: str
    profile: str = "default"
    limits: Limits = Limits()

    def put(self, file: Path, key: str) -> dict[str, Any]:
        """{size, sha256, etag, version_id, modified}, read back from the store; Corrupt when it has something else."""
        mount = Mount(file, f"{_FILES}/{file.name}")
        return self._ask("put", [mount], key=self._full(key), file=mount.target)

    def get(self, key: str, file: Path, version_id: str = "") -> dict[str, Any]:
        """Writes `file` when all of it is there and equals what put() noted; {size, sha256, ...}."""
        mount = Mount(file.parent, _FILES, read_only=False)
        target = f"{_FILES}/{file.name}"
        return self._ask("get", [mount], key=self._full(key), file=target, version_id=version_id)

    def head(self, key: str) -> dict[str, Any] | None:
        """{size, sha256, etag, modified, version_id}; None when there is no such object."""
        answer = self._ask("head", key=self._full(key))
        return answer if answer["found"] else None

    def list(self, prefix: str = "", *, versions: bool = False) -> list[dict[str, Any]]:
        """[{key, size, modified (ISO 8601), etag}] by key; with versions also version_id, latest, deleted (a delete
        marker)."""
        objects: list[dict[str, Any]] = self._ask("list", prefix=self._full(prefix), versions=versions)[
            "objects"
        ]
        start = len(self._full(""))
        return [
            {**item, "key": item["key"][start:]} for item in sorted(objects, key=lambda item: item["key"])
        ]

    def delete(self, keys: Sequence[str]) -> int:
        """Deletes the current versions, one after the other; how many. In a versioned bucket the bytes stay until the
        life cycle rule takes them."""
        done = 0
        # A request travels as one argument of a command.
        for start in range(0, len(keys), 200):
            part = [self._full(key) for key in keys[start : start + 200]]
            done += int(self._ask("delete", keys=part)["deleted"])
        return done

    def bucket(self) -> dict[str, Any]:
        """{exists, versioning, object_lock: {mode, days}|None, lifecycle: {rule: {...}}}."""
        return self._ask("bucket")

    def ensure_bucket(
        self,
        *,
        versioning: bool,
        object_lock: dict[str, Any] | None,
        lifecycle: dict[str, dict[str, Any]],
        apply: bool = True,
    ) -> dict[str, Any]:
        """{changes: [text]} and what bucket() says; without `apply` only what would be changed. Takes nothing away."""
        return self._ask(
            "ensure_bucket", versioning=versioning, object_lock=object_lock, lifecycle=lifecycle, apply=apply
        )

    def _full(self, key: str) -> str:
        prefix = str(self.target.get("prefix") or "").strip("/")
        return f"{prefix}/{key}" if prefix else key

    def _ask(self, operation: str, mounts: Sequence[Mount] = (), **more: Any) -> dict[str, Any]:
        named = {"operation": operation, "endpoint": self.target["endpoint"], "bucket": self.target["bucket"]}
        request = {
            **named,
            "region": self.target.get("region", ""),
            "uri_style": self.target.get("uri_style", "path"),
            "ca_file": _CA if self.target.get("ca_file") else "",
            "profile": self.profile,
            "connect_timeout": self.limits.connect,
            "read_timeout": self.limits.read,
            "attempts": self.limits.attempts,
            "timeout": self.limits.request,
            **more,
        }
        files = [Mount(self.credentials_file, _CREDENTIALS), *mounts]
        if self.target.get("ca_file"):
            files.append(Mount(self.target["ca_file"], _CA))
        failed = {**named, "key": more.get("key", ""), "code": "Tools"}
        try:
            result = self.oneshots.run(
                self.image,
                ["backup-s3", json.dumps(request)],
                mounts=files,
                network=self.target.get("network") or "bridge",
                environment={"AWS_SHARED_CREDENTIALS_FILE": _CREDENTIALS},
                timeout=self.limits.request + _START_SECONDS,
            )
            answer: dict[str, Any] = json.loads(result.stdout)
        except RunTimeout as error:
            raise S3Error({**failed, "code": "Timeout", "message": str(error)}) from None
        except EngineError as error:
            raise S3Error({**failed, "message": str(error)}) from None
        except ValueError:
            said = f"no answer, exit code {result.code}: {result.words()}"
            raise S3Error({**failed, "message": said}) from None
        if not answer.get("ok"):
            raise S3Error(answer["error"])
        return answer
