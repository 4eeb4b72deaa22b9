"""The core deployment: one environment of everything that has landed, shared by the ordered steps of this folder."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment
from tests.support.n8n_rest import Editor
from tests.support.off_site import OffSite
from tests.support.smtp import authority


@pytest.fixture(scope="session")
def core(off_site: OffSite) -> Deployment:
    authority()  # the inventory names its file, and those of off_site
    return Deployment(name="test-core", inventory=Path(__file__).parent.parent / "inventory", port_base=18440)


@pytest.fixture(scope="session")
def editor(core: Deployment) -> Editor:
    """The owner's session; it ends when the owner's password is changed."""
    return Editor(core)


@pytest.fixture(scope="session")
def busy_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 22599)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="session")
def backup(core: Deployment, off_site: OffSite) -> Path:
    """The folder of core's backups, with a set that is in the bucket, too. Any will do: the rest is in the log."""
    if not off_site.manifests(core.name):
        run = core.run("backup")
        assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    return core.backup_root
