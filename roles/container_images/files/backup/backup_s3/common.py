"""What all requests share: a client, the refusals that are ours, and what "not found" is called."""

from typing import Any

import boto3
from botocore.config import Config

Facts = dict[str, Any]
NOT_FOUND = {"404", "NoSuchKey", "NoSuchBucket", "NotFound", "NoSuchVersion"}


class Refused(Exception):
    """What the store did not say itself; `code` is one of those that __main__ lists as ours."""

    def __init__(self, code: str, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def client(request: Facts) -> Any:
    session = boto3.Session(profile_name=request.get("profile") or "default")
    attempts = int(request.get("attempts", 4))
    return session.client(
        "s3",
        endpoint_url=request.get("endpoint") or None,
        region_name=request.get("region") or "us-east-1",
        verify=request.get("ca_file") or None,
        config=Config(
            connect_timeout=float(request.get("connect_timeout", 10)),
            read_timeout=float(request.get("read_timeout", 60)),
            retries={"total_max_attempts": attempts, "mode": "standard"},
            s3={"addressing_style": "virtual" if request.get("uri_style") == "host" else "path"},
            signature_version="s3v4",
        ),
    )
