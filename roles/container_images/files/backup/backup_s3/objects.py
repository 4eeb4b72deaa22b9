"""Requests about objects."""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import botocore.exceptions as errors
from boto3.s3.transfer import TransferConfig
from common import NOT_FOUND, Facts, Refused

PART_BYTES = 16 * 1024 * 1024
BLOCK_BYTES = 1024 * 1024


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts(answer: Facts) -> Facts:
    return {
        "found": True,
        "size": answer["ContentLength"],
        "sha256": answer.get("Metadata", {}).get("sha256", ""),
        "etag": answer.get("ETag", "").strip('"'),
        "modified": answer["LastModified"].isoformat(),
        "version_id": answer.get("VersionId") or "",
    }


def head(s3: Any, request: Facts) -> Facts:
    try:
        return facts(s3.head_object(Bucket=request["bucket"], Key=request["key"]))
    except errors.ClientError as error:
        if error.response["Error"]["Code"] not in NOT_FOUND:
            raise
        return {"found": False}


def put(s3: Any, request: Facts) -> Facts:
    size, digest = os.path.getsize(request["file"]), sha256_of(request["file"])
    s3.upload_file(
        request["file"],
        request["bucket"],
        request["key"],
        ExtraArgs={"Metadata": {"sha256": digest}},
        Config=TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=2
        ),
    )
    # A store that answers 200 has not always kept anything.
    kept = head(s3, request)
    if not kept["found"] or (kept["size"], kept["sha256"]) != (size, digest):
        raise Refused("Corrupt", f"put {size} bytes with sha256 {digest}, the store then has {kept}")
    return kept


def get(s3: Any, request: Facts) -> Facts:
    version = {"VersionId": request["version_id"]} if request.get("version_id") else {}
    known = facts(s3.head_object(Bucket=request["bucket"], Key=request["key"], **version))
    partial = f"{request['file']}.partial"
    try:
        # In this thread, which the time limit of the request interrupts; it would have to wait for others.
        answer = s3.get_object(Bucket=request["bucket"], Key=request["key"], **version)
        with open(partial, "wb") as file:
            for block in answer["Body"].iter_chunks(BLOCK_BYTES):
                file.write(block)
        size, digest = os.path.getsize(partial), sha256_of(partial)
        if size != known["size"] or digest != (known["sha256"] or digest):
            raise Refused("Corrupt", f"got {size} bytes with sha256 {digest}, the store says {known}")
        os.replace(partial, request["file"])
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return {**known, "sha256": digest}


def pages(s3: Any, request: Facts, operation: str, proof: str) -> Iterator[Facts]:
    """Every page must name the bucket it is about: a page without is no empty listing, it is no listing."""
    for page in s3.get_paginator(operation).paginate(
        Bucket=request["bucket"], Prefix=request.get("prefix", "")
    ):
        if page.get(proof) != request["bucket"]:
            raise Refused("Corrupt", f"the answer to {operation} is no listing of the bucket")
        yield page


def listing(s3: Any, request: Facts) -> Facts:
    if not request.get("versions"):
        found = [
            item
            for page in pages(s3, request, "list_objects_v2", "Name")
            for item in page.get("Contents", [])
        ]
        return {"objects": [entry(item) for item in found]}
    objects = []
    for page in pages(s3, request, "list_object_versions", "Name"):
        for part, deleted in (("Versions", False), ("DeleteMarkers", True)):
            for item in page.get(part, []):
                more = {"version_id": item["VersionId"], "latest": item["IsLatest"], "deleted": deleted}
                objects.append({**entry(item), **more})
    return {"objects": objects}


def entry(item: Facts) -> Facts:
    etag = item.get("ETag", "").strip('"')
    return {
        "key": item["Key"],
        "size": item.get("Size", 0),
        "modified": item["LastModified"].isoformat(),
        "etag": etag,
    }


def delete(s3: Any, request: Facts) -> Facts:
    objects = request.get("objects") or [{"key": key} for key in request["keys"]]
    for item in objects:
        version = {"VersionId": item["version_id"]} if item.get("version_id") else {}
        request["key"] = item["key"]
        s3.delete_object(Bucket=request["bucket"], Key=item["key"], **version)
    return {"deleted": len(objects)}
