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


class Host:
    """A host of its own for the script: what it finds in `/usr/bin` is made here; `log` has who called what."""

    PYTHON = """#!/bin/sh
case "$*" in
    *realpath*) echo "$0" ;;
    *version_info*) echo {version} ;;
    "-m venv "*)
        [ -e {there} ] || exit 1
        for venv; do :; done
        mkdir -p "$venv/bin"
        printf '#!/bin/sh\\n' | tee "$venv/bin/python" > "$venv/bin/pip"
        chmod +x "$venv/bin/python" "$venv/bin/pip" ;;
esac
"""

    def __init__(self, checkout: Path, version: str, uid: int = 0) -> None:
        self.checkout, self.programs, self.log = checkout, checkout / "usr/bin", checkout / "log"
        self.there = checkout / "venv-package-is-there"
        shutil.rmtree(checkout / ".venv")
        self.programs.mkdir(parents=True)
        self.program("python3", self.PYTHON.format(version=version, there=self.there))
        self.program("id", f"#!/bin/sh\necho {uid}\n")
        self.program("sudo", f'#!/bin/sh\necho "sudo $*" >> {self.log}\nexec "$@"\n')
        self.apt(f'case "$*" in *-venv) touch {self.there} ;; esac')
        script = checkout / "bin/bootstrap"
        script.write_text(script.read_text().replace("/usr/bin/", f"{self.programs}/"))
        self.log.touch()

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def apt(self, commands: str) -> None:
        self.program("apt-get", f'#!/bin/sh\necho "apt-get $*" >> {self.log}\n{commands}\n')

    def bootstrap(self) -> subprocess.CompletedProcess[str]:
        (self.checkout / "os-release").write_text("ID=debian\nVERSION_ID=13")
        own = {"PLATFORM_OS_RELEASE": str(self.checkout / "os-release")}
        return subprocess.run(
            ["bash", self.checkout / "bin/bootstrap"],
            env=os.environ | own | {"PATH": f"{self.programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_an_unsupported_python_is_refused_by_name(checkout: Path, version: str) -> None:
    host = Host(checkout, version)
    done = host.bootstrap()
    assert done.returncode == 1
    refusal = f"no usable Python; needed is one of 3.11 3.12 3.13, found: {host.programs}/python3 ({version})"
    assert refusal in done.stderr
    assert not (checkout / ".venv").exists()
    assert host.log.read_text() == "", "nothing was installed"


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_missing_venv_package_is_installed_with_a_word(checkout: Path, uid: int) -> None:
    host = Host(checkout, "3.13", uid)
    done = host.bootstrap()
    assert done.returncode == 0, done.stderr
    said = f"{host.programs}/python3 lacks a working venv; installing the package python3.13-venv (as root)"
    assert said in done.stderr
    assert f"using {host.programs}/python3 (3.13)" in done.stderr
    called = host.log.read_text()
    assert "apt-get install -y -qq --no-install-recommends python3.13-venv\n" in called
    assert ("sudo env " in called) == (uid != 0)


def test_a_venv_package_that_cannot_be_had_is_named(checkout: Path) -> None:
    host = Host(checkout, "3.12")
    host.apt("exit 100")
    done = host.bootstrap()
    assert done.returncode == 1
    assert f"found: {host.programs}/python3 (3.12, no working venv)" in done.stderr
