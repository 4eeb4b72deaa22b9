"""platform_engine against a host made of fake binaries and a fake engine on a unix socket."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platform_engine
import pytest
from ansible.module_utils.testing import patch_module_args

ENGINE = f"""#!{sys.executable}
import os, socket, sys
if "--version" in sys.argv:
    print("Docker version @VERSION@+dfsg1, build 411e817")
    sys.exit(0)
here = os.path.dirname(os.path.abspath(__file__))
if os.path.exists(here + "/broken"):
    print("failed to start daemon: no such bridge", flush=True)
    sys.exit(1)
open(here + "/docker.pid", "w").write(str(os.getpid()))
open(here + "/environment", "w").write(repr(dict(os.environ)))
server = socket.socket(socket.AF_UNIX)
server.bind(here + "/docker.sock")
server.listen()
body = b'{{"Version": "@VERSION@"}}'
while True:
    connection, _ = server.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    connection.close()
"""
DOCKER = """#!/bin/sh
case "$1" in
  compose) echo @COMPOSE@ ;;
  buildx) echo "github.com/docker/buildx 0.13.1 0.13.1+ds1-3" ;;
esac
"""


class FakeHost:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.params: dict[str, Any] = {
            name: option.get("default") for name, option in platform_engine.build_spec().items()
        } | {
            "socket": str(directory / "docker.sock"),
            "pid_file": str(directory / "docker.pid"),
            "log_file": str(directory / "docker.log"),
            "daemon_config_file": str(directory / "etc" / "daemon.json"),
            "timeout_seconds": 10,
        }

    def install(self, engine: str = "26.1.5", compose: str = "v2.26.1") -> None:
        self._executable("dockerd", ENGINE.replace("@VERSION@", engine))
        self._executable("docker", DOCKER.replace("@COMPOSE@", compose))

    def _executable(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def manager(self, **params: Any) -> platform_engine.Manager:
        merged = {**self.params, **params}
        return platform_engine.Manager(merged, platform_engine.Host(merged))

    def run(self, **params: Any) -> tuple[list[str], dict[str, Any]]:
        manager = self.manager(**params)
        names = [difference["name"] for difference in manager.plan()]
        manager.apply()
        return names, manager.finish()

    @property
    def daemon_config(self) -> Path:
        return Path(self.params["daemon_config_file"])

    @property
    def pid(self) -> int:
        return int((self.directory / "docker.pid").read_text())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform_engine, "SEARCH_PATH", str(tmp_path))
    monkeypatch.setattr(platform_engine, "SYSTEMD", tmp_path / "no-systemd")
    monkeypatch.setattr(platform_engine, "CONTAINERD_PID", tmp_path / "containerd.pid")
    fake = FakeHost(tmp_path)
    yield fake
    # By its command, not by what stands in the PID file alone: that is what the tests damage.
    if (tmp_path / "docker.sock").exists() and str(tmp_path) in command_of(fake.pid):
        os.kill(fake.pid, signal.SIGKILL)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_an_empty_host_gets_the_configuration_of_the_engine_to_come(host: FakeHost) -> None:
    names, result = host.run(daemon_config={"log-driver": "json-file"})
    assert names == [str(host.daemon_config)]
    assert not result["engine"]["installed"] and not result["sufficient"] and not result["ready"]


def test_required_names_all_that_is_missing(host: FakeHost) -> None:
    expected = r"dockerd is not installed; nothing answers on .*sock; Compose is missing"
    with pytest.raises(platform_engine.EngineProblem, match=expected):
        host.run(required=True)


def test_an_installed_engine_is_started_and_a_second_run_changes_nothing(host: FakeHost) -> None:
    host.install()
    names, result = host.run()
    assert names == ["engine"]
    assert result["ready"] and result["engine"] == {"installed": True, "answering": True, "version": "26.1.5"}
    pid = host.pid
    assert host.run()[0] == [] and host.pid == pid


def test_the_engine_leads_a_session_of_its_own(host: FakeHost) -> None:
    host.install()
    host.run()
    assert os.getsid(host.pid) == host.pid != os.getsid(0)


def test_the_engine_inherits_nothing_of_the_operators_environment(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_SECRET", "canary-value")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    host.install()
    host.run()
    environment = (host.directory / "environment").read_text()
    assert "canary" not in environment and "proxy.example" in environment


def test_planning_starts_nothing(host: FakeHost) -> None:
    host.install()
    assert [d["name"] for d in host.manager().plan()] == ["engine"]
    assert not (host.directory / "docker.sock").exists()


@pytest.mark.parametrize("pid", [str(os.getpid()), "999999999", "nonsense"])
def test_a_stale_pid_file_is_removed(host: FakeHost, pid: str) -> None:
    host.install()
    (host.directory / "docker.pid").write_text(pid)
    (host.directory / "containerd.pid").write_text(pid)
    assert host.run()[1]["ready"]
    assert not (host.directory / "containerd.pid").exists()


def test_an_engine_that_cannot_start_shows_the_end_of_its_log(host: FakeHost) -> None:
    host.install()
    (host.directory / "broken").touch()
    expected = r"exit code 1; the end of .*docker.log:\n(.|\n)*no such bridge"
    with pytest.raises(platform_engine.EngineProblem, match=expected):
        host.run()


def test_an_engine_that_never_answers_is_named_with_socket_and_limit(host: FakeHost) -> None:
    host.install()
    with pytest.raises(platform_engine.EngineProblem, match=r"did not answer on .*other.sock within 1 s"):
        host.run(socket=str(host.directory / "other.sock"), timeout_seconds=1)


def test_with_systemd_the_start_is_left_to_it(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.install()
    monkeypatch.setattr(platform_engine, "SYSTEMD", host.directory)
    names, result = host.run()
    assert names == [] and result["systemd"] and result["sufficient"] and not result["ready"]


def test_an_old_engine_is_refused(host: FakeHost) -> None:
    host.install(engine="20.10.24")
    with pytest.raises(platform_engine.EngineProblem, match="is 20.10.24, at least 24.0"):
        host.run()


def test_an_old_compose_is_not_sufficient(host: FakeHost) -> None:
    host.install(compose="2.17.3")
    assert not host.run()[1]["sufficient"]


def test_daemon_json_is_written_before_the_first_start_and_kept_up_to_date(host: FakeHost) -> None:
    host.install()
    assert host.run(daemon_config={"log-driver": "json-file"})[0] == [str(host.daemon_config), "engine"]
    assert json.loads(host.daemon_config.read_text()) == {
        "labels": ["io.n8n-platform.managed=docker_engine"],
        "log-driver": "json-file",
    }
    assert host.run(daemon_config={"log-driver": "json-file"})[0] == []
    assert host.run(daemon_config={"log-driver": "local"})[0] == [str(host.daemon_config)]


def test_others_daemon_json_stays(host: FakeHost) -> None:
    host.install()
    host.daemon_config.parent.mkdir()
    host.daemon_config.write_text("{}")
    assert host.run(daemon_config={"log-driver": "json-file"})[0] == ["engine"]
    assert host.daemon_config.read_text() == "{}"


def test_an_answering_engine_without_daemon_json_gets_none(host: FakeHost) -> None:
    host.install()
    host.run()
    assert host.run(daemon_config={"log-driver": "json-file"})[0] == []
    assert not host.daemon_config.exists()


def test_main_in_check_mode_starts_nothing(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.install()
    params = {**host.params, "required": True, "_ansible_check_mode": True}
    with patch_module_args(params), pytest.raises(SystemExit) as end:
        platform_engine.main()
    result = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and result["changed"] and result["diff"][0]["after"] == "started"
    assert not (host.directory / "docker.sock").exists()
