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


def bundle_params(root: Path) -> dict[str, Any]:
    return {
        "project": "n8n-local",
        "config_root": str(root / "config"),
        "releases_root": str(root / "releases"),
        "secrets_root": str(root / "secrets"),
        "destination": str(root / "support/bundle.tar.gz"),
        "health": {"status": "healthy", "token": SECRET, "note": f"key {SECRET}"},
        "lines": 10,
    }


@pytest.mark.parametrize("moved", [(), ("secrets",), ("config", "releases", "secrets")])
def test_bundle_has_everything_but_secrets(root: Path, moved: tuple[str, ...]) -> None:
    """Wherever platform_config_root, platform_releases_root and platform_secrets_root are."""
    params, engine = bundle_params(root), FakeEngine(root)
    for name in moved:
        (root / name).rename(root / f"elsewhere-{name}")
        params[f"{name}_root"] = str(root / f"elsewhere-{name}")
    engine.mount = Path(params["config_root"]) / "postgres-n8n/abc"
    manager = platform_support_bundle.Manager(params, engine)
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


def test_a_bundle_follows_no_link_in_a_folder_that_others_write_to(root: Path) -> None:
    host, folder = root / "host", root / "support"
    host.write_text("of the host")
    host.chmod(0o644)
    folder.mkdir()
    for name in (".bundle.tar.gz", "bundle.tar.gz"):
        (folder / name).symlink_to(host)
    manager = platform_support_bundle.Manager(bundle_params(root), FakeEngine(root))
    manager.apply(manager.plan())
    assert host.read_text() == "of the host" and host.stat().st_mode & 0o777 == 0o644
    assert tarfile.is_tarfile(folder / "bundle.tar.gz") and not (folder / "bundle.tar.gz").is_symlink()


def test_no_bundle_where_nothing_could_be_redacted(root: Path) -> None:
    params = {**bundle_params(root), "secrets_root": str(root / "nowhere")}
    with pytest.raises(FileNotFoundError, match="secrets_root"):
        platform_support_bundle.Manager(params, FakeEngine(root)).plan()


def test_specs_name_their_options() -> None:
    assert platform_logs.build_spec()["lines"]["default"] == 50
    assert platform_support_bundle.build_spec()["destination"]["required"]
