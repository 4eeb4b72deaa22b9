"""n8n as its editor uses it: a login, temporary workflows, manual runs and what they left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import pairwise
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener
from uuid import uuid4

from tests.support.deployment import Deployment, wait_until

PORT = 5678
TRIGGER = "Start"
CONFLICT = 409
FINAL = ("success", "error", "crashed", "canceled")

Node = dict[str, Any]


def node(name: str, kind: str, version: float = 1, **parameters: Any) -> Node:
    """A node as a workflow's JSON has it; `kind` without the package's name."""
    return {
        "id": str(uuid4()),
        "name": name,
        "type": f"n8n-nodes-base.{kind}",
        "typeVersion": version,
        "position": [0, 0],
        "parameters": parameters,
    }


def code(javascript: str) -> Node:
    return node("Code", "code", 2, jsCode=javascript)


def webhook(path: str) -> Node:
    """A trigger that answers before anything is executed."""
    trigger = node(
        "Webhook", "webhook", 2, httpMethod="POST", path=path, responseMode="onReceived", options={}
    )
    return {**trigger, "webhookId": str(uuid4())}


class Refused(Exception):
    """n8n's answer of 400 and above."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"{status}: {message}")


class Session:
    """A user's session on an n8n, as the editor has it."""

    def __init__(self, url: str, email: str, password: str) -> None:
        self._url = f"{url}/rest"
        # n8n's cookie is for HTTPS only, which ends at the edge.
        policy = DefaultCookiePolicy(secure_protocols=("http", "https"))
        self._opener = build_opener(HTTPCookieProcessor(CookieJar(policy)))
        # n8n answers 429 to the sixth login of a user within a minute.
        wait_until(lambda: self._log_in(email, password), f"n8n to let {email} log in again", seconds=90)

    def _log_in(self, email: str, password: str) -> bool:
        try:
            self.rest("POST", "/login", {"emailOrLdapLoginId": email, "password": password})
        except Refused as refused:
            if refused.status != HTTPStatus.TOO_MANY_REQUESTS:
                raise
            return False
        return True

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's `data`. Raises Refused."""
        sent = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, sent, {"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=60) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None

    @contextmanager
    def workflow(
        self, *nodes: Node, trigger: Node | None = None, **settings: Any
    ) -> Iterator[dict[str, Any]]:
        """A chain of nodes behind a trigger (by default the editor's button), for as long as the block lasts."""
        chain = [trigger or node(TRIGGER, "manualTrigger"), *nodes]
        connections = {
            first["name"]: {"main": [[{"node": second["name"], "type": "main", "index": 0}]]}
            for first, second in pairwise(chain)
        }
        body = {
            "name": f"Test {uuid4().hex[:8]}",
            "nodes": [each | {"position": [200 * place, 0]} for place, each in enumerate(chain)],
            "connections": connections,
            "settings": {"executionOrder": "v1", **settings},
        }
        workflow = self.rest("POST", "/workflows", body)
        try:
            yield workflow
        finally:
            self.rest("POST", f"/workflows/{workflow['id']}/archive", {})
            wait_until(lambda: self._deleted(workflow["id"]), "the workflow to be unpublished and deleted")

    def _deleted(self, identifier: str) -> bool:
        try:
            self.rest("DELETE", f"/workflows/{identifier}")
        except Refused as error:
            if error.status != CONFLICT:
                raise
            return False
        return True

    def publish(self, workflow: dict[str, Any]) -> None:
        self.rest("POST", f"/workflows/{workflow['id']}/activate", {"versionId": workflow["versionId"]})

    def start(self, workflow: dict[str, Any]) -> str:
        """Presses the button: id of the execution."""
        body = {"triggerToStartFrom": {"name": TRIGGER}}
        return str(self.rest("POST", f"/workflows/{workflow['id']}/run", body)["executionId"])

    def finished(self, identifier: str, seconds: float = 60) -> Execution:
        def ended() -> Execution | None:
            saved = self.rest("GET", f"/executions/{identifier}")
            return Execution(saved) if saved["status"] in FINAL else None

        found: Execution = wait_until(ended, f"execution {identifier} to end", seconds)
        return found

    def run(self, *nodes: Node, seconds: float = 60) -> Execution:
        """Runs the nodes by hand in a workflow of their own."""
        with self.workflow(*nodes) as workflow:
            return self.finished(self.start(workflow), seconds)


class Editor(Session):
    """The owner's session on a deployment's main process, by the container's address."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        ((email,),) = deployment.sql('SELECT email FROM "user" WHERE "roleSlug" = \'global:owner\'')
        super().__init__(self._main(), email, deployment.secret("host", "n8n_owner_password"))

    def follow(self) -> None:
        """Main was made anew and may have another address; the session lives on."""
        self._url = f"{self._main()}/rest"

    def _main(self) -> str:
        return f"http://{address(self.deployment, 'n8n-main', 'edge')}:{PORT}"


class Execution:
    """A saved execution. Its data is a table of values that name each other by index, as n8n's `flatted` writes it."""

    def __init__(self, saved: dict[str, Any]) -> None:
        self.id, self.status, self.mode = str(saved["id"]), str(saved["status"]), str(saved["mode"])
        self._table: list[Any] = json.loads(saved["data"])
        self.result: dict[str, Any] = self._expand(self._table[0])["resultData"]

    @property
    def error(self) -> str:
        """All words of the error, of whichever node failed; empty without one."""
        error = self.result.get("error")
        return json.dumps(error) if error else ""

    def items(self, name: str) -> list[dict[str, Any]]:
        """The JSON of the items that node `name` put out. Raises KeyError when it did not run."""
        return [item["json"] for item in self.result["runData"][name][0]["data"]["main"][0]]

    def _expand(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._follow(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._follow(item) for item in value]
        return value

    def _follow(self, reference: Any) -> Any:
        return self._expand(self._table[int(reference)]) if isinstance(reference, str) else reference


def address(deployment: Deployment, service: str, network: str) -> str:
    """The service's container address on one of the environment's networks."""
    networks = deployment.containers()[service].attrs["NetworkSettings"]["Networks"]
    return str(networks[f"{deployment.project}_{network}"]["IPAddress"])


def execute(deployment: Deployment, service: str, *command: str, code: int = 0) -> str:
    """Output of a command inside the service's container, as the container's own user."""
    result = deployment.containers()[service].exec_run(list(command))
    output: str = result.output.decode(errors="replace")
    assert result.exit_code == code, (
        f"{service}: {command[0]} ended with {result.exit_code}: {output[-2000:]}"
    )
    return output


def events_of(deployment: Deployment, execution: str) -> dict[str, str]:
    """Event name -> process (`worker-1`, `main`) whose event log has it, for one execution."""
    found: dict[str, str] = {}
    for path in (deployment.data_root / "volumes/n8n-events").glob("*.log"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if execution in line:
                event = json.loads(line)
                if str(event.get("payload", {}).get("executionId")) == execution:
                    found[event["eventName"]] = path.stem
    return found


def worker_of(deployment: Deployment, execution: str) -> str:
    """Number of the worker slot that took the execution from the queue."""
    name = wait_until(
        lambda: events_of(deployment, execution).get("n8n.queue.job.dequeued"),
        f"a worker to take execution {execution}",
    )
    return str(name).rpartition("-")[2]
