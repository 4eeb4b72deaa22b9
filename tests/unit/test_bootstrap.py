"""The script that makes the Python environment: what it refuses, and that it is quick when nothing is to do."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment counts as up to date."""
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "bin/bootstrap", tmp_path / "bin")
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "ansible-playbook", "pip"):
        # No links: what writes to one of these must not write to a command of the machine.
        (tmp_path / ".venv/bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    digest = hashlib.sha256((tmp_path / "requirements.txt").read_bytes()).hexdigest()
    (tmp_path / ".venv/.requirements").write_text(f"{digest}\n")
    return tmp_path


def bootstrap(checkout: Path, system: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (checkout / "os-release").write_text(system)
    return subprocess.run(
        [checkout / "bin/bootstrap", *arguments],
        env=os.environ | {"PLATFORM_OS_RELEASE": str(checkout / "os-release")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "system", ["ID=debian\nVERSION_ID=12", "ID=debian\nVERSION_ID=13", "ID=ubuntu\nVERSION_ID=24.04"]
)
def test_nothing_is_done_when_the_lock_is_unchanged(checkout: Path, system: str) -> None:
    done = bootstrap(checkout, system)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["Fedora Linux 41", "Debian GNU/Linux 11 (bullseye)", "Ubuntu 22.04 LTS"])
def test_another_system_is_refused_by_name(checkout: Path, name: str) -> None:
    system, version = name.split()[0].lower(), "22.04" if "22.04" in name else "11" if "11" in name else "41"
    done = bootstrap(checkout, f'ID={system}\nVERSION_ID="{version}"\nPRETTY_NAME="{name}"\n')
    assert done.returncode != 0
    assert f"{name} is not supported; supported are Debian 12, Debian 13, Ubuntu 24.04" in done.stderr


def test_an_unknown_argument_is_refused(checkout: Path) -> None:
    assert "usage" in bootstrap(checkout, "ID=debian\nVERSION_ID=12", "everything").stderr


def test_a_checkout_below_mnt_is_refused(checkout: Path) -> None:
    """A copy that takes itself for one below /mnt: the real folder belongs to the machine."""
    script = checkout / "bin/bootstrap"
    moved, count = re.subn(r"(?m)^root=.*$", "root=/mnt/c/n8n-platform", script.read_text(), count=1)
    assert count == 1
    script.write_text(moved)
    done = bootstrap(checkout, "ID=debian\nVERSION_ID=12")
    assert done.returncode != 0
    assert "the checkout is at /mnt/c/n8n-platform" in done.stderr
