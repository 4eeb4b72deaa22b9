"""Releases on disk: written once, accepted by Compose before they are in force, pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import platform_compose_assemble
import pytest
from ansible.module_utils.n8n_platform.compose_policy import ComposeError
from support.contributions import contribution


@pytest.fixture(autouse=True)
def own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fchown", lambda *_: None)
    monkeypatch.setattr("os.chown", lambda *_: None)


def manager(root: Path, docker: str | None = None, keep: int = 5, **service: Any) -> Any:
    params = {
        "contributions": [contribution(**service)],
        "project": "n8n-test",
        "environment_name": "test",
        "releases_root": str(root / "releases"),
        "secrets_root": str(root / "secrets"),
        "config_root": str(root / "config"),
        "secret_versions_file": str(root / "versions.json"),
        "bind_roots": [str(root)],
        "keep": keep,
        "engine_socket": "/nonexistent",
    }
    (root / "releases").mkdir(exist_ok=True)
    return platform_compose_assemble.Manager(params, docker)


def apply(root: Path, **more: Any) -> Any:
    done = manager(root, **more)
    done.apply(done.plan())
    return done


def fake_docker(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_writes_once_and_switches(tmp_path: Path) -> None:
    first = manager(tmp_path)
    assert first.plan() == ["write", "switch"]
    first.apply(first.plan())
    assert (tmp_path / "releases/current").readlink() == Path(first.release)
    assert sorted(path.name for path in first.path.iterdir()) == ["compose.yaml", "index.json", "stack.yaml"]
    assert manager(tmp_path).plan() == []
    assert manager(tmp_path, environment={"A": "1"}).release != first.release


def test_going_back_is_a_switch(tmp_path: Path) -> None:
    first = apply(tmp_path)
    apply(tmp_path, environment={"A": "1"})
    back = manager(tmp_path)
    assert back.plan() == ["switch"]
    back.apply(back.plan())
    assert (tmp_path / "releases/current").readlink() == Path(first.release)


def test_planning_and_the_diff_write_nothing(tmp_path: Path) -> None:
    subject = manager(tmp_path)
    subject.plan()
    assert subject.diff() == {"before": "", "after": "db\n"}
    subject.check()
    assert list((tmp_path / "releases").iterdir()) == []


def test_the_diff_compares_with_the_release_in_force(tmp_path: Path) -> None:
    apply(tmp_path)
    diff = manager(tmp_path, environment={"A": "1"}).diff()
    assert 'A: "1"' in diff["after"]
    assert 'A: "1"' not in diff["before"]
    assert diff["before"].startswith("name: n8n-test\n")


def test_a_file_that_compose_refuses_does_not_come_into_force(tmp_path: Path) -> None:
    former = apply(tmp_path)
    docker = fake_docker(tmp_path / "docker", "echo 'services.db.x is wrong' >&2; exit 1")
    with pytest.raises(ComposeError, match=r"docker compose config: services\.db\.x is wrong"):
        apply(tmp_path, docker=docker, environment={"A": "1"})
    assert (tmp_path / "releases/current").readlink() == Path(former.release)
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == sorted(
        ["current", "history.json", former.release]
    )


def test_compose_is_asked_without_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "/elsewhere")
    docker = fake_docker(tmp_path / "docker", f'echo "$*" "$COMPOSE_FILE" > {tmp_path}/asked')
    done = apply(tmp_path, docker=docker)
    asked = (tmp_path / "asked").read_text().strip()
    assert asked == (
        "compose --ansi never --project-name n8n-test "
        f"--file {tmp_path}/releases/.{done.release}.new/compose.yaml config --hash *"
    )


def test_keeps_the_last_different_releases(tmp_path: Path) -> None:
    done = [apply(tmp_path, keep=3, environment={"A": str(number)}) for number in (0, 1, 2, 0, 3)]
    kept = {
        path.name for path in (tmp_path / "releases").iterdir() if path.is_dir() and not path.is_symlink()
    }
    assert kept == {done[2].release, done[3].release, done[4].release}


def test_removes_configuration_that_no_kept_release_names(tmp_path: Path) -> None:
    def volume(sha: str) -> dict[str, Any]:
        path = tmp_path / "config/db" / sha
        path.mkdir(parents=True, exist_ok=True)
        return {"volumes": [{"type": "bind", "source": str(path), "target": "/etc/db"}]}

    for sha in ("a" * 64, "b" * 64, "c" * 64):
        done = apply(tmp_path, keep=2, **volume(sha))
    assert sorted(path.name[0] for path in (tmp_path / "config/db").iterdir()) == ["b", "c"]
    assert manager(tmp_path, keep=2, **volume("c" * 64)).plan() == []
    assert done.plan() == []


def test_a_killed_run_converges(tmp_path: Path) -> None:
    subject = manager(tmp_path)
    half = subject.releases.temporary(subject.release)
    half.mkdir(parents=True)
    (half / "compose.yaml").write_text("half")
    subject.apply(subject.plan())
    assert not half.exists()
    (tmp_path / "releases/current").unlink()
    assert manager(tmp_path).plan() == ["switch"]


def test_secret_versions_come_from_the_file(tmp_path: Path) -> None:
    without = manager(tmp_path, secrets=["db_password"])
    (tmp_path / "versions.json").write_text(json.dumps({"db_password": 4}))
    given = manager(tmp_path, secrets=["db_password"])
    assert given.release != without.release
    assert given.model["services"]["db"]["labels"]["io.n8n-platform.secret.db_password"] == "4"
