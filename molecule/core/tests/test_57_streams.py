"""What is long or large passes the edge as it comes: answers that n8n writes bit by bit, files that forms take."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from uuid import uuid4

from tests.support.deployment import Deployment, wait_until
from tests.support.ledger import runs_of
from tests.support.n8n_rest import Editor, Execution, code, node, webhook

MEGABYTE, MEBIBYTE = 10**6, 2**20
UPLOAD_BYTES = 200 * MEGABYTE
PAUSE_SECONDS = 3


@contextmanager
def edge(core: Deployment) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(core.ca_file))
    with (
        socket.create_connection((core.address, core.https_port), 120) as plain,
        context.wrap_socket(plain, server_hostname=f"n8n.{core.domain}") as connection,
    ):
        yield connection


def request_head(core: Deployment, path: str, **headers: str | int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: n8n.{core.domain}:{core.https_port}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def stream(core: Deployment, path: str) -> dict[str, float]:
    """When each content of the answer arrived; empty while nobody knows the path."""
    arrived: dict[str, float] = {}
    with edge(core) as connection:
        connection.sendall(request_head(core, path, Content_Length=0))
        response = HTTPResponse(connection, method="POST")
        response.begin()
        if response.status == 404:
            return {}
        assert (response.status, response.headers["Transfer-Encoding"]) == (200, "chunked"), response.read()
        while line := response.readline():
            arrived.setdefault(json.loads(line).get("content", ""), time.monotonic())
    return arrived


def test_a_streaming_answer_arrives_while_the_workflow_still_runs(core: Deployment, editor: Editor) -> None:
    """From the worker through the queue, the webhook processor and the edge, over HTTP/1.1 in chunks."""
    trigger = webhook(uuid4().hex)
    trigger["typeVersion"], trigger["parameters"]["responseMode"] = 2.1, "streaming"

    def answer(name: str) -> dict[str, object]:
        return node(name, "respondToWebhook", 1.5, respondWith="text", responseBody=name, options={})

    pause = code(
        f"await new Promise((done) => setTimeout(done, {PAUSE_SECONDS}000)); return [{{json: {{}}}}];"
    )
    with editor.workflow(answer("first"), pause, answer("second"), trigger=trigger) as workflow:
        editor.publish(workflow)
        path = f"/webhook/{trigger['parameters']['path']}"
        arrived: dict[str, float] = wait_until(lambda: stream(core, path), "the webhook to be taken")
    assert arrived["second"] - arrived["first"] > PAUSE_SECONDS - 1


class Memory:
    """What a service's process holds itself and in its /tmp, in bytes; `growth` while the block lasts, at most."""

    def __init__(self, core: Deployment, service: str) -> None:
        self._process = Path("/proc") / str(core.containers()[service].attrs["State"]["Pid"])
        self._before = self._peak = self._held()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._peak - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._peak = max(self._peak, self._held())

    def _held(self) -> int:
        status = dict(line.split(":", 1) for line in (self._process / "status").read_text().splitlines())
        files = os.statvfs(self._process / "root/tmp")
        return int(status["RssAnon"].split()[0]) * 1024 + (files.f_blocks - files.f_bfree) * files.f_frsize


def upload(core: Deployment, path: str, size: int) -> tuple[int, bytes]:
    """Status and body of a form's answer to a file of that many bytes."""
    boundary = uuid4().hex
    disposition = 'form-data; name="field-0"; filename="large.bin"'
    begin = f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
    end = f"\r\n--{boundary}--\r\n"
    length = len(begin) + size + len(end)
    kind = f"multipart/form-data; boundary={boundary}"
    with edge(core) as connection:
        connection.sendall(
            request_head(core, path, Content_Type=kind, Content_Length=length) + begin.encode()
        )
        part = bytes(MEGABYTE)
        for _ in range(size // MEGABYTE):
            connection.sendall(part)
        connection.sendall(end.encode())
        response = HTTPResponse(connection, method="POST")
        response.begin()
        return response.status, response.read()


def test_a_form_takes_a_file_of_200_mb_and_the_edge_holds_none_of_it(
    core: Deployment, editor: Editor
) -> None:
    fields = {"values": [{"fieldLabel": "File", "fieldType": "file", "multipleFiles": False}]}
    form = node("Form", "formTrigger", 2.2, formTitle="Upload", formFields=fields, options={})
    form["webhookId"] = str(uuid4())
    path = f"/form/{form['webhookId']}"
    before = core.fingerprint()
    with editor.workflow(node("Rest", "noOp"), trigger=form) as workflow:
        editor.publish(workflow)
        wait_until(lambda: core.request("GET", path)[0] == 200, "the form")
        with Memory(core, "traefik") as memory:
            status, body = upload(core, path, UPLOAD_BYTES)
        assert status == 200, body[:500]
        query = f"SELECT id FROM execution_entity WHERE \"workflowId\" = '{workflow['id']}'"
        ((identifier,),) = wait_until(lambda: core.sql(query), "the execution")
        run: Execution = editor.finished(identifier)
        large = f'DELETE FROM binary_data WHERE "fileSize" = {UPLOAD_BYTES} RETURNING data'
        stored = core.sql(f"WITH large AS ({large}) SELECT length(data) FROM large")
    assert run.status == "success", run.error
    assert run.items("Rest")[0]["File"]["size"] == UPLOAD_BYTES
    assert stored == [[str(UPLOAD_BYTES)]]
    assert memory.growth < 64 * MEGABYTE, memory.growth
    assert core.fingerprint() == before, "a process was ended by the file"


def posted(core: Deployment, path: str, mebibytes: int) -> int:
    """Status of the answer to JSON of that size; it may come before all was sent, and ends the connection then."""
    begin, end = b'{"text": "', b'"}'
    body = begin + b"x" * (mebibytes * MEBIBYTE - len(begin + end)) + end
    head = request_head(core, path, Content_Type="application/json", Content_Length=len(body))
    with edge(core) as connection:
        with suppress(OSError):
            connection.sendall(head + body)
        response = HTTPResponse(connection, method="POST")
        response.begin()
        return response.status


def test_json_beyond_the_limit_is_refused_and_ends_no_process(core: Deployment, editor: Editor) -> None:
    trigger = webhook(uuid4().hex)
    path = f"/webhook/{trigger['parameters']['path']}"
    before = core.fingerprint()
    with editor.workflow(node("Rest", "noOp"), trigger=trigger) as workflow:
        editor.publish(workflow)
        wait_until(lambda: posted(core, path, 1) == 200, "the webhook to be taken")
        # What n8n 2.41.1 says of a body that is too large (docs/n8n.md).
        assert (posted(core, path, 15), posted(core, path, 17)) == (200, 500)

        def statuses() -> list[str]:
            return [run.status for run in runs_of(core, workflow["id"])]

        wait_until(lambda: statuses() == ["success"] * 2, "an execution of each that was taken, and no other")
    assert core.fingerprint() == before
