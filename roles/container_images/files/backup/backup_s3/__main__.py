"""One S3 request: JSON as the only argument (or on standard input), JSON on standard output.

Request: {operation, endpoint, region, uri_style: path|host, ca_file, profile, connect_timeout, read_timeout, attempts,
timeout (seconds; of the whole request), bucket, ...}. Keys come from AWS_SHARED_CREDENTIALS_FILE, profile `profile`.

| operation | takes | answers |
|---|---|---|
| put | key, file | size, sha256, etag, version_id; read back from the store |
| get | key, file, version_id | size, sha256; the file appears only when it is whole |
| head | key | size, sha256 (as put has noted it), etag, modified, version_id; found: false if there is none |
| list | prefix, versions (bool) | objects: [{key, size, modified, etag}]; versions adds version_id, latest, deleted |
| delete | keys, or objects: [{key, version_id}] | deleted: number |
| bucket | - | exists, versioning, object_lock: {mode, days} or null, lifecycle: rules by name |
| ensure_bucket | versioning, object_lock, lifecycle, apply (bool) | changes: [text], and what `bucket` answers |

Answer: {ok: true, ...} and exit code 0, or exit code 1 and {ok: false, error: {operation, endpoint, bucket, key, code,
status, message}}. `code` is the store's own (AccessDenied, NoSuchBucket, ...), or one of ours: Timeout, Unreachable,
Untrusted (its certificate), Corrupt (the store holds or sent something else than was put there), NotFound,
Local (a file on this side), Invalid (the request).
"""

import json
import signal
import sys

import boto3.exceptions
import botocore.exceptions as errors
import botocore.parsers
import buckets
import objects
from common import Facts, Refused, client

OPERATIONS = {
    "put": objects.put,
    "get": objects.get,
    "head": objects.head,
    "list": objects.listing,
    "delete": objects.delete,
    "bucket": buckets.bucket,
    "ensure_bucket": buckets.ensure_bucket,
}
# The answer to a HEAD request has no body that would name the error.
NAMES = {"403": "AccessDenied", "404": "NotFound"}
# Ours by kind of failure, the first that fits.
CODES = (
    ((errors.ConnectTimeoutError, errors.ReadTimeoutError), "Timeout"),
    (
        (
            errors.ConnectionError,
            errors.HTTPClientError,
            errors.ResponseStreamingError,
            errors.IncompleteReadError,
        ),
        "Unreachable",
    ),
    ((botocore.parsers.ResponseParserError,), "Corrupt"),
    ((OSError,), "Local"),
    ((KeyError, TypeError, ValueError, errors.ParamValidationError), "Invalid"),
)


class TooLate(BaseException):
    """No Exception: libraries catch those, and try again."""


def too_late(*_: object) -> None:
    raise TooLate("not done within the time limit of the request")


def explained(error: BaseException) -> tuple[str, int, str]:
    """(code, HTTP status, message) of whatever went wrong."""
    # Transfers in parts hide the reason.
    if isinstance(error, boto3.exceptions.S3UploadFailedError) and error.__context__:
        return explained(error.__context__)
    if isinstance(error, boto3.exceptions.RetriesExceededError) and error.last_exception:
        return explained(error.last_exception)
    if isinstance(error, TooLate):
        return "Timeout", 0, str(error)
    if isinstance(error, Refused):
        return error.code, error.status, str(error)
    if isinstance(error, errors.ClientError):
        said, status = error.response["Error"], error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        code = said.get("Code", str(status))
        return NAMES.get(code, code), status, said.get("Message") or str(error)
    if isinstance(error, errors.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "Untrusted", 0, str(error)
    for kinds, code in CODES:
        if isinstance(error, kinds):
            return code, 0, f"{type(error).__name__}: {error}"
    return type(error).__name__, 0, str(error)


def answer_to(text: str) -> Facts:
    """The answer to a request, whatever happens."""
    request: Facts = {}
    signal.signal(signal.SIGALRM, too_late)
    try:
        request = json.loads(text)
        signal.alarm(int(request.get("timeout", 300)))
        return {"ok": True, **OPERATIONS[request["operation"]](client(request), request)}
    except (Exception, TooLate) as error:
        code, status, message = explained(error)
        named = {key: request.get(key, "") for key in ("operation", "endpoint", "bucket", "key")}
        return {"ok": False, "error": {**named, "code": code, "status": status, "message": message}}
    finally:
        signal.alarm(0)


def main() -> int:
    answer = answer_to(sys.argv[1] if len(sys.argv) > 1 else sys.stdin.read())
    print(json.dumps(answer))
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
