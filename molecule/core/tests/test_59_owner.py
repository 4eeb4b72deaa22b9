"""The owner changes the password in the editor, and the platform takes it over by the documented command."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import ROOT, Deployment
from tests.support.docs import doc_block
from tests.support.n8n_rest import Editor

CHANGED = "A1-password-of-the-editor"


def take_over(directory: Path, password: str) -> subprocess.CompletedProcess[str]:
    file = directory / "password"
    file.write_text(f"{password}\n")
    command = re.sub(r"(?<=import_file=)\S+(?=')", str(file), doc_block("owner-password")).strip()
    command += " ENV=../molecule/core/inventory"
    return subprocess.run(["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def changed(core: Deployment, tmp_path: Path) -> Iterator[str]:
    """The owner's new password; afterwards n8n and the platform have the former one again."""
    editor, former = Editor(core), core.secret("host", "n8n_owner_password")
    editor.rest("PATCH", "/me/password", {"currentPassword": former, "newPassword": CHANGED})
    yield CHANGED
    editor.rest("PATCH", "/me/password", {"currentPassword": CHANGED, "newPassword": former})
    done = take_over(tmp_path, former)
    assert done.returncode == 0, done.stdout[-3000:]
    assert core.secret("host", "n8n_owner_password") == former


def test_a_changed_password_is_taken_over_after_n8n_has_taken_it(
    core: Deployment, changed: str, tmp_path: Path
) -> None:
    former, before = core.secret("host", "n8n_owner_password"), core.fingerprint()

    refused = take_over(tmp_path, "A1-never-set-anywhere")
    assert refused.returncode != 0
    assert "refuses the given password of owner@n8n.localhost" in refused.stdout
    assert core.secret("host", "n8n_owner_password") == former

    done = take_over(tmp_path, changed)
    assert done.returncode == 0, done.stdout[-3000:]
    assert core.secret("host", "n8n_owner_password") == changed
    assert changed not in done.stdout + done.stderr
    assert Editor(core).rest("GET", "/login")["email"] == "owner@n8n.localhost"
    again = take_over(tmp_path, changed)
    assert "changed=0" in again.stdout, again.stdout[-3000:]
    assert core.fingerprint() == before
