"""Chromium before a deployment's edge: its names resolve to the edge only, its authorities are those of the test."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    WebSocket,
    sync_playwright,
)

from tests.support.deployment import ROOT, Deployment
from tests.support.own_network import OwnNetwork
from tests.support.packages import program

SCREENSHOTS = ROOT / "artifacts" / "screenshots"
# Told by the page itself, since the console's wording changes with the browser's version.
_VIOLATIONS = """
document.addEventListener('securitypolicyviolation', (event) =>
    console.error(`CSP violation: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


@dataclass
class Visit:
    """One page and what it did: console lines `type: text`, hosts it asked, status and path of their answers, frames of
    its WebSockets."""

    page: Page
    console: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    answers: set[tuple[int, str]] = field(default_factory=set)
    sockets: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.console.append(f"pageerror: {error}"))
        self.page.on("request", self._asked)
        self.page.on("response", lambda answer: self.answers.add((answer.status, urlsplit(answer.url).path)))
        self.page.on("websocket", self._opened)

    @property
    def violations(self) -> list[str]:
        return [line for line in self.console if "CSP violation" in line or "Content Security Policy" in line]

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """As the deployments' wait_until; only while the page itself waits does it tell what it has met."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
            self.page.wait_for_timeout(200)

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def _said(self, message: ConsoleMessage) -> None:
        self.console.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob"):
            self.hosts.add(address.netloc)

    def _opened(self, socket: WebSocket) -> None:
        self.sockets.append(socket.url)
        socket.on("framereceived", lambda frame: self.frames.append(str(frame)))


@contextmanager
def visit(deployment: Deployment, home: Path, password: str) -> Iterator[Visit]:
    """A fresh browser that trusts the deployment's authority and knows the edge's password."""
    _trust(home, deployment.ca_file)
    own_network = OwnNetwork("n8n-platform-test-browser", deployment.address, deployment.https_port)
    with own_network, sync_playwright() as playwright:
        playwright.selectors.set_test_id_attribute("data-test-id")
        context: BrowserContext = playwright.chromium.launch_persistent_context(
            home / "profile",
            executable_path=_chromium(home, own_network),
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                f"--host-resolver-rules=MAP n8n.{deployment.domain} {deployment.address}, MAP * ~NOTFOUND",
            ],
            env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
            http_credentials={"username": "admin", "password": password},
            viewport={"width": 1400, "height": 900},
        )
        context.add_init_script(_VIOLATIONS)
        try:
            yield Visit(context.pages[0])
        finally:
            context.close()


def _chromium(home: Path, own_network: OwnNetwork) -> Path:
    """Starts it in a network of its own: it gives up all that it is loading when a container comes or goes."""
    script = home / "chromium"
    command = [*own_network.prefix, program("chromium", "chromium")]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o755)
    return script


def _trust(home: Path, authority: Path) -> None:
    certutil = program("certutil", "libnss3-tools")
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    store = ["-d", f"sql:{database}"]
    subprocess.run([certutil, *store, "-N", "--empty-password"], check=True)
    subprocess.run([certutil, *store, "-A", "-n", "edge", "-t", "C,,", "-i", str(authority)], check=True)
