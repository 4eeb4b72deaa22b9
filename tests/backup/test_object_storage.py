"""Our own object storage as the platform deploys it: rights, reach, console, bucket, and what a second run does."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest
from ansible.module_utils.n8n_platform.backup_s3 import S3, S3Error
from ansible.module_utils.n8n_platform.engine import Engine, health
from ansible.module_utils.n8n_platform.engine_run import OneShots, Result

from tests.support.deployment import ROOT, wait_until

ENVIRONMENT = "test-storage"
PROJECT = f"n8n-{ENVIRONMENT}"
DATA = Path("/var/lib/n8n-platform") / ENVIRONMENT
PORT_BASE = 19440
CONSOLE = "storage.localhost"
BUNDLES = "n8n-test-storage-keys"


def play(tag: str, *extra: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "platform_environment": ENVIRONMENT,
        "platform_port_base": PORT_BASE,
        "platform_profile": "small",
        "platform_object_storage": "own",
        "object_storage_volume_size_mb": 64,
        "object_storage_bundles": f"s3://{BUNDLES}/lab",
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "tests/backup/object_storage.yml"]
    command += ["-i", "inventories/local", "--tags", tag, "-e", json.dumps(variables), *extra]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )


def done(tag: str, *extra: str) -> str:
    result = play(tag, *extra)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    return result.stdout


@pytest.fixture(scope="module")
def storage(images: dict[str, str]) -> Iterator[str]:
    """The container's id."""
    done("remove")
    shutil.rmtree(DATA, ignore_errors=True)
    done("deploy")
    service = Engine().service(PROJECT, "object-storage")
    assert service
    yield service["Id"]
    done("remove")
    shutil.rmtree(DATA)


@pytest.fixture
def writer(storage: str, images: dict[str, str]) -> S3:
    place = json.loads((DATA / "state/object-storage.json").read_text())
    more = {"ca_file": str(DATA / "state/s3-ca.pem"), "network": f"{PROJECT}_backup"}
    credentials = str(DATA / "secrets/host/backup_s3_credentials")
    return S3(OneShots(Engine(), ENVIRONMENT, "test"), images["backup"], {**place, **more}, credentials)


@pytest.fixture
def pruner(writer: S3) -> S3:
    return replace(writer, profile="prune")


@pytest.fixture
def admin(writer: S3) -> S3:
    return replace(writer, credentials_file=str(DATA / "secrets/host/object_storage_credentials"))


def neighbour(images: dict[str, str], network: str, url: str) -> Result:
    """curl in another container."""
    argv = ["curl", "-sSk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url]
    return OneShots(Engine(), "", "once").run(
        images["backup"], argv, network=f"{PROJECT}_{network}", user="2006:2006"
    )


class Browser:
    """Talks to the console through the edge, with its cookies."""

    def __init__(self) -> None:
        self.password = (DATA / "secrets/host/traefik_operator_password").read_text()
        self.cookies: dict[str, str] = {}

    def request(
        self, method: str, path: str, form: dict[str, str] | None = None, *, login: bool = True
    ) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(DATA / "ca.crt"))
        connection = HTTPSConnection("127.0.0.1", PORT_BASE + 3, context=context, timeout=30)
        connection._create_connection = lambda *_args: socket.create_connection(  # type: ignore[attr-defined]
            ("127.0.0.1", PORT_BASE + 3), 30
        )
        connection.host = CONSOLE
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if login:
            token = b64encode(f"admin:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, urlencode(form) if form else None, headers)
        answer: HTTPResponse = connection.getresponse()
        for line in answer.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer.status, answer.read().decode("utf-8", "replace")

    def log_in(self, password: str) -> tuple[int, str]:
        """Status and text of what an operator then sees."""
        _, page = self.request("GET", "/login")
        token = re.search(r'name="csrf_token" value="([^"]*)"', page)
        form = {"username": "admin", "password": password}
        self.request("POST", "/login", form | ({"csrf_token": token[1]} if token else {}))
        return self.request("GET", "/api/plugin/workers")


class TestRights:
    def test_the_writer_writes_and_reads_but_deletes_nothing(self, writer: S3, tmp_path: Path) -> None:
        file = tmp_path / "manifest.json"
        file.write_text("{}")
        put = writer.put(file, "runs/1/manifest.json")
        assert writer.get("runs/1/manifest.json", tmp_path / "back")["sha256"] == put["sha256"]
        assert [item["key"] for item in writer.list("runs/")] == ["runs/1/manifest.json"]
        with pytest.raises(S3Error, match="AccessDenied, HTTP 403"):
            writer.delete(["runs/1/manifest.json"])
        with pytest.raises(S3Error, match="AccessDenied, HTTP 403"):
            writer.bucket()

    def test_what_the_pruner_deletes_is_still_there_as_a_version(
        self, writer: S3, pruner: S3, tmp_path: Path
    ) -> None:
        file = tmp_path / "old"
        file.write_text("old")
        version = writer.put(file, "old")["version_id"]
        assert pruner.delete(["old"]) == 1
        assert writer.head("old") is None
        writer.get("old", tmp_path / "back", version)
        assert (tmp_path / "back").read_text() == "old"

    def test_bundles_of_keys_go_to_a_bucket_of_their_own(self, writer: S3, tmp_path: Path) -> None:
        file = tmp_path / "x.age"
        file.write_text("x")
        bundles = replace(writer, target={**writer.target, "bucket": BUNDLES, "prefix": "lab"})
        assert bundles.put(file, file.name)["size"] == 1 and bundles.head("gone.age") is None
        with pytest.raises(S3Error, match="AccessDenied, HTTP 403"):
            bundles.delete([file.name])
        with pytest.raises(S3Error, match="AccessDenied, HTTP 403"):
            replace(bundles, target={**bundles.target, "prefix": "other"}).put(file, file.name)

    def test_all_of_it_survives_a_restart(self, storage: str, writer: S3, tmp_path: Path) -> None:
        file = tmp_path / "kept"
        file.write_text("kept")
        writer.put(file, "kept")
        Engine().kill(storage)
        Engine().wait(storage, 30)
        Engine().start(storage)
        wait_until(lambda: health(Engine().inspect(storage)) == "healthy", "the object storage", 90)
        writer.get("kept", tmp_path / "back")
        assert (tmp_path / "back").read_text() == "kept"


class TestReach:
    def test_only_gateway_and_console_listen_for_others(self, storage: str) -> None:
        code, table = Engine().execute(storage, ["cat", "/proc/net/tcp", "/proc/net/tcp6"])
        sockets = [line.split() for line in table.splitlines() if " 0A " in line]
        outside = {
            int(entry[1].split(":")[1], 16)
            for entry in sockets
            if not entry[1].partition(":")[0].endswith("7F")
        }
        # 18333 and 33646 control the two; they want a certificate of the environment's own authority.
        assert (code, outside - {8333, 23646, 18333, 33646}) == (0, set())

    @pytest.mark.parametrize("port", [8888, 18888, 9333, 19333, 8080, 18080])
    def test_a_neighbour_does_not_get_round_the_gateway(
        self, storage: str, images: dict[str, str], port: int
    ) -> None:
        for scheme in ("http", "https"):
            refused = neighbour(images, "backup", f"{scheme}://object-storage:{port}/")
            assert (refused.code, refused.stdout) == (7, "000"), refused

    @pytest.mark.parametrize("port", [18333, 33646])
    def test_control_ports_talk_to_nobody_without_a_certificate(
        self, storage: str, images: dict[str, str], port: int
    ) -> None:
        refused = neighbour(images, "edge", f"https://object-storage:{port}/")
        assert refused.stdout == "000" and "certificate required" in refused.stderr, refused

    def test_strangers_get_nothing_from_the_gateway(self, storage: str, images: dict[str, str]) -> None:
        for path in ("", "n8n-test-storage-backup/", "n8n-test-storage-backup/kept"):
            assert neighbour(images, "edge", f"https://object-storage:8333/{path}").stdout == "403"

    def test_there_is_no_gateway_without_tls(self, storage: str, images: dict[str, str]) -> None:
        assert neighbour(images, "backup", "http://object-storage:8333/healthz").stdout == "400"


class TestConsole:
    def test_wants_the_operators_login_and_then_its_own(self, storage: str) -> None:
        assert Browser().request("GET", "/", login=False)[0] == 401
        assert Browser().log_in("wrong")[0] == 401
        status, page = Browser().log_in((DATA / "secrets/host/object_storage_console_password").read_text())
        assert status == 200, page

    def test_a_worker_is_there_for_the_life_cycle_rules(self, storage: str) -> None:
        password = (DATA / "secrets/host/object_storage_console_password").read_text()
        wait_until(lambda: "s3_lifecycle" in Browser().log_in(password)[1], "the worker", 60)


class TestBucket:
    def test_is_what_the_inventory_says(self, admin: S3) -> None:
        bucket = admin.bucket()
        assert bucket["versioning"] and bucket["object_lock"] is None
        assert bucket["lifecycle"]["n8n-platform"] == {
            "prefix": "",
            "enabled": True,
            "noncurrent_days": 7,
            "multipart_days": 3,
            "expire_markers": True,
        }

    def test_a_second_run_changes_nothing(self, storage: str) -> None:
        assert re.search(r"ok=\d+ +changed=0 ", done("deploy"))

    def test_verify_names_what_somebody_has_changed_and_a_run_mends_it(self, storage: str) -> None:
        changed = play("verify", "-e", "object_storage_noncurrent_days=9")
        assert changed.returncode != 0
        assert "is not as it should be: set life cycle rules n8n-platform" in changed.stdout
        done("verify")

    def test_another_bucket_is_refused_before_anything_is_changed(self, storage: str) -> None:
        refused = play("deploy", "-e", "platform_s3_bucket=elsewhere")
        assert refused.returncode != 0
        message = "platform_s3_bucket was n8n-test-storage-backup and is now elsewhere"
        assert message in " ".join(refused.stdout.split()) and "changed=0" in refused.stdout

    def test_a_lock_for_a_bucket_made_without_is_refused(self, storage: str) -> None:
        refused = play("verify", "-e", "object_storage_lock_mode=COMPLIANCE")
        assert "object lock can only be had by a bucket that is made with it" in " ".join(
            refused.stdout.split()
        )
