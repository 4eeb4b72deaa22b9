"""Requests about a bucket's settings."""

from collections.abc import Callable
from typing import Any

import botocore.exceptions as errors
from common import NOT_FOUND, Facts, Refused


def bucket(s3: Any, request: Facts) -> Facts:
    name = request["bucket"]
    try:
        s3.head_bucket(Bucket=name)
    except errors.ClientError as error:
        if error.response["Error"]["Code"] not in NOT_FOUND:
            raise
        return {"exists": False, "versioning": False, "object_lock": None, "lifecycle": {}}
    lock = asked(s3.get_object_lock_configuration, Bucket=name).get("ObjectLockConfiguration")
    retention = (lock or {}).get("Rule", {}).get("DefaultRetention", {})
    rules = asked(s3.get_bucket_lifecycle_configuration, Bucket=name).get("Rules", [])
    return {
        "exists": True,
        "versioning": asked(s3.get_bucket_versioning, Bucket=name).get("Status") == "Enabled",
        "object_lock": lock and {"mode": retention.get("Mode", ""), "days": retention.get("Days", 0)},
        "lifecycle": {rule.get("ID", ""): shape(rule) for rule in rules},
    }


def asked(method: Callable[..., Facts], **arguments: Any) -> Facts:
    """What has not been set is answered with an error by some of these."""
    try:
        return method(**arguments)
    except errors.ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("ObjectLockConfigurationNotFoundError", "NoSuchLifecycleConfiguration"):
            return {}
        raise


def shape(rule: Facts) -> Facts:
    return {
        "prefix": rule.get("Filter", {}).get("Prefix", rule.get("Prefix", "")) or "",
        "enabled": rule.get("Status") == "Enabled",
        "noncurrent_days": rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0),
        "multipart_days": rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation", 0),
        "expire_markers": bool(rule.get("Expiration", {}).get("ExpiredObjectDeleteMarker", False)),
    }


def rule_of(name: str, wanted: Facts) -> Facts:
    rule: Facts = {"ID": name, "Status": "Enabled", "Filter": {"Prefix": wanted.get("prefix", "")}}
    if wanted.get("noncurrent_days"):
        rule["NoncurrentVersionExpiration"] = {"NoncurrentDays": wanted["noncurrent_days"]}
    if wanted.get("multipart_days"):
        rule["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": wanted["multipart_days"]}
    if wanted.get("expire_markers"):
        rule["Expiration"] = {"ExpiredObjectDeleteMarker": True}
    return rule


def ensure_bucket(s3: Any, request: Facts) -> Facts:
    """Makes what is missing; takes nothing away: versioning and a lock stay on, rules of other names stay."""
    name, have = request["bucket"], bucket(s3, request)
    lock, rules = request.get("object_lock"), request.get("lifecycle") or {}
    wanted = {rule: shape(rule_of(rule, body)) for rule, body in rules.items()}
    steps: list[tuple[str, Callable[..., Facts], Facts]] = []
    if not have["exists"]:
        more: Facts = {"ObjectLockEnabledForBucket": True} if lock else {}
        if request.get("region") not in (None, "", "us-east-1"):
            more["CreateBucketConfiguration"] = {"LocationConstraint": request["region"]}
        steps.append((f"create bucket {name}", s3.create_bucket, more))
    elif lock and have["object_lock"] is None:
        raise Refused(
            "Invalid", "object lock can only be had by a bucket that is made with it; take another bucket"
        )
    if (request.get("versioning") or lock) and not have["versioning"]:
        status = {"VersioningConfiguration": {"Status": "Enabled"}}
        steps.append(("enable versioning", s3.put_bucket_versioning, status))
    if lock and have["object_lock"] != lock:
        retention = {"DefaultRetention": {"Mode": lock["mode"], "Days": lock["days"]}}
        body = {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled", "Rule": retention}}
        steps.append(
            (f"lock objects {lock['mode']} {lock['days']} days", s3.put_object_lock_configuration, body)
        )
    if any(have["lifecycle"].get(rule) != body for rule, body in wanted.items()):
        foreign = (
            []
            if not have["exists"]
            else asked(s3.get_bucket_lifecycle_configuration, Bucket=name).get("Rules", [])
        )
        every = [rule for rule in foreign if rule.get("ID") not in rules] + [
            rule_of(*item) for item in rules.items()
        ]
        arguments = {"LifecycleConfiguration": {"Rules": every}}
        steps.append(
            (f"set life cycle rules {', '.join(rules)}", s3.put_bucket_lifecycle_configuration, arguments)
        )
    if request.get("apply", True):
        for _, method, arguments in steps:
            method(Bucket=name, **arguments)
        have = bucket(s3, request) if steps else have
    return {"changes": [text for text, _, _ in steps], **have}
