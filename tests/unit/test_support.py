"""Logs and support bundles hold no secret, and say which service is unknown."""

import json
import tarfile
from pathlib import Path
from typing import Any

import platform_logs
import platform_support_bundle
import pytest
from ansible.module_utils.n8n_platform import support

SECRET = "S3cretValueOfThisTest"


class FakeEngine:
    """One container that has logged a secret and mounts one rendered folder."""

    def __init__(self, root: Path) -> None:
        self.mount = root / "config/postgres-n8n/abc"

    def project(self, project: str) -> list[dict[str, Any]]:
        return [
            {
                "Id": "1",
                "Image": "n8n-platform/n8n:abc",
                "Labels": {"com.docker.compose.service": "n8n-main"},
                "Mounts": [{"Source": str(self.mount)}, {"Source": "/etc/ssl"}],
            }
        ]

    def inspect(self, container: str) -> dict[str, Any]:
        return {
            "RestartCount": 2,
            "State": {
                "Status": "running",
                "Health": {"Status": "healthy"},
                "OOMKilled": False,
                "StartedAt": "now",
            },
        }

    def logs(self, container: str, tail: int) -> str:
        return f'login with {SECRET}\n{{"apiKey": "n8n_api_1234567890"}}\nAuthorization: Bearer abc.def\nall well\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secrets/n8n-main").mkdir(parents=True)
    (tmp_path / "secrets/n8n-main/n8n_encryption_key").write_text(SECRET)
    (tmp_path / "config/postgres-n8n/abc").mkdir(parents=True)
    (tmp_path / "config/postgres-n8n/abc/postgresql.conf").write_text(f"# {SECRET}\nshared_buffers = 1GB\n")
    (tmp_path / "releases/current").mkdir(parents=True)
    (tmp_path / "releases/current/compose.yaml").write_text("name: n8n-local\n")
    return tmp_path


def test_logs_are_redacted(root: Path) -> None:
    logs = support.project_logs(
        FakeEngine(root), "n8n-local", ["n8n-main"], 10, support.Redactor(root / "secrets")
    )
    text = "\n".join(logs["n8n-main"])
    assert "all well" in text
    for hidden in (SECRET, "n8n_api_1234567890", "abc.def"):
        assert hidden not in text


def test_an_unknown_service_is_named(root: Path) -> None:
    with pytest.raises(KeyError, match="nothing"):
        support.project_logs(
            FakeEngine(root), "n8n-local", ["nothing"], 10, support.Redactor(root / "secrets")
        )


def test_bundle_has_everything_but_secrets(root: Path) -> None:
    params = {
        "project": "n8n-local",
        "data_root": str(root),
        "destination": str(root / "support/bundle.tar.gz"),
        "health": {"status": "healthy", "token": SECRET, "note": f"key {SECRET}"},
        "lines": 10,
    }
    manager = platform_support_bundle.Manager(params, FakeEngine(root))
    manager.apply(manager.plan())
    archive = root / "support/bundle.tar.gz"
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as packed:
        content = {name: packed.extractfile(name).read().decode() for name in packed.getnames()}  # type: ignore[union-attr]
    assert SECRET not in "".join(content.values())
    assert "shared_buffers" in content["configuration/config/postgres-n8n/abc/postgresql.conf"]
    assert content["configuration/releases/current/compose.yaml"] == "name: n8n-local\n"
    assert json.loads(content["containers.json"])["n8n-main"]["restarts"] == 2
    assert json.loads(content["health.json"])["status"] == "healthy"


def test_specs_name_their_options() -> None:
    assert platform_logs.build_spec()["lines"]["default"] == 50
    assert platform_support_bundle.build_spec()["destination"]["required"]
