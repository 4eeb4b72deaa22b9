"""An existing n8n comes into a new environment whole, or not at all. The tests build on each other."""

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backup_lab import built_images
from tests.support.certificates import Authority
from tests.support.deployment import ROOT, Deployment, Run
from tests.support.docs import doc_block
from tests.support.killed import killed
from tests.support.n8n_rest import TRIGGER, Editor, execute, node
from tests.support.plain_n8n import EMAIL, PlainN8n

TABLES = ("workflow_entity", "credentials_entity", '"user"', "execution_entity")
INVENTORY = "molecule/adopt/inventory"
HOST = "n8n.localhost"
SECRET = "Bearer canary-of-an-adopted-credential"


class Source:
    """What an operator brings along, and what has to be there in the end."""

    def __init__(self, folder: Path, n8n: PlainN8n) -> None:
        self.folder = folder
        self.key, self.password = self.write("key", n8n.key), self.write("password", n8n.password)
        self.authority = Authority(folder / "authority")
        self.certificate, self.certificate_key = folder / "own.crt", folder / "own.key"
        self.authority.issue(self.certificate, self.certificate_key, ["*.localhost", HOST])
        self.ids = {table: n8n.ids(table) for table in TABLES}
        for form in ("custom", "plain", "entities"):
            n8n.dump(folder / form, form)

    def write(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text + "\n")
        return self.folder / name

    def arguments(self, form: str, **other: Any) -> dict[str, Any]:
        variable = "n8n_adopt_entities_file" if form == "entities" else "n8n_adopt_dump_file"
        return {
            "platform_confirm": "test-adopt",
            "n8n_owner_email": EMAIL,
            "n8n_encryption_key_import_file": str(self.key),
            "n8n_owner_password_import_file": str(self.password),
            "traefik_tls_certificate_file": str(self.certificate),
            "traefik_tls_key_file": str(self.certificate_key),
            # The site's own checks call the edge, too.
            "traefik_tls_ca_file": str(self.authority.ca_file),
            variable: str(self.folder / form),
            **other,
        }


def fill(n8n: PlainN8n) -> None:
    """Two workflows with executions, a credential, a second user."""
    session = n8n.session()
    data = {"name": "Authorization", "value": SECRET}
    session.rest("POST", "/credentials", {"name": "Adopted", "type": "httpHeaderAuth", "data": data})
    session.rest("POST", "/invitations", [{"email": "second@example.org", "role": "global:member"}])
    for number in range(2):
        chain = [node(TRIGGER, "manualTrigger"), node("Nothing", "noOp")]
        link = {TRIGGER: {"main": [[{"node": "Nothing", "type": "main", "index": 0}]]}}
        body = {"name": f"Adopted {number}", "nodes": chain, "connections": link, "settings": {}}
        workflow = session.rest("POST", "/workflows", body)
        assert session.finished(session.start(workflow)).status == "success"


@pytest.fixture(scope="session")
def adopt(engine: object) -> Iterator[Deployment]:
    deployment = Deployment(name="test-adopt", inventory=ROOT / INVENTORY, port_base=18740)
    deployment.destroy_left_over()
    yield deployment
    deployment.destroy()


@pytest.fixture(scope="session")
def source(adopt: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("source")
    with PlainN8n("n8n-test-adopt-source", built_images(folder), folder) as n8n:
        fill(n8n)
        return Source(folder, n8n)


def test_a_wrong_key_is_refused_before_anything_changes(adopt: Deployment, source: Source) -> None:
    wrong = source.write("wrong", "nobody-ever-had-this-key")
    run = adopt.run("adopt", **source.arguments("custom", n8n_encryption_key_import_file=str(wrong)))
    assert run.rc != 0
    refusal = "n8n_encryption_key_import_file: the key decrypts none"
    assert any(refusal in text for text in run.failures()), run.failures()
    assert not adopt.containers(stopped=True)
    assert {path.name for path in adopt.data_root.iterdir()} <= {"state"}
    assert not list((adopt.data_root / "state").glob("openbao*"))


@pytest.mark.full
def test_a_killed_run_has_restored_nothing(adopt: Deployment, source: Source) -> None:
    """In the middle of the restore: there is a database beside n8n's, and n8n's is still empty."""
    killed(
        adopt,
        "adopt",
        "database | Restore and accept it",
        lambda: ["n8n_adopt"] in databases(adopt),
        **source.arguments("custom"),
    )
    assert not adopt.sql("SELECT 1 FROM pg_class WHERE relname = 'workflow_entity'")


def test_it_comes_whole(adopt: Deployment, source: Source) -> None:
    check_whole(adopt, source, "custom")
    assert ["n8n_adopt"] not in databases(adopt)


def test_the_operators_own_certificate_is_served(adopt: Deployment, source: Source) -> None:
    context = ssl.create_default_context(cafile=str(source.authority.ca_file))
    with (
        socket.create_connection((adopt.address, adopt.https_port), 10) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        served = ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"")
    assert served == source.certificate.read_text()


@pytest.mark.full
def test_adopting_again_changes_nothing(adopt: Deployment, source: Source) -> None:
    before = adopt.fingerprint()
    run = adopt.run("adopt", **source.arguments("custom"))
    assert run.rc == 0, run.failures()
    assert run.changed == 0, run.changed_tasks()
    assert adopt.fingerprint() == before


@pytest.mark.full
def test_another_source_is_refused(adopt: Deployment, source: Source) -> None:
    refused(adopt, source, "has already adopted another source")


@pytest.mark.full
def test_an_environment_with_data_is_refused(adopt: Deployment, source: Source) -> None:
    """Without the record of its adoption it is an environment as any other."""
    adopt.sql("DROP SCHEMA adoption CASCADE")
    refused(adopt, source, "only a new environment adopts")


@pytest.mark.full
@pytest.mark.parametrize("form", ["plain", "entities"])
def test_it_comes_whole_in_another_form(adopt: Deployment, source: Source, form: str) -> None:
    adopt.destroy()
    check_whole(adopt, source, form)


def refused(adopt: Deployment, source: Source, reason: str) -> None:
    before = adopt.fingerprint()
    run = adopt.run("adopt", **source.arguments("plain"))
    assert run.rc != 0
    assert any(reason in text for text in run.failures()), run.failures()
    assert adopt.fingerprint() == before


def databases(deployment: Deployment) -> list[list[str]]:
    return deployment.sql("SELECT datname FROM pg_database")


def by_the_documented_command(adopt: Deployment, arguments: dict[str, Any]) -> str:
    """Its output. What it names is given as it is written there, the rest of `arguments` behind it."""
    command = doc_block("adopt").strip().removesuffix('"').replace("ENV=production", f"ENV=../{INVENTORY}")
    for name, value in arguments.items():
        command, count = re.subn(rf"-e {name}=\S+", f"-e {name}={value}", command)
        command += "" if count else f" -e {name}={value}"
    done = subprocess.run(
        ["bash", "-euc", command + '"'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def check_whole(adopt: Deployment, source: Source, form: str) -> None:
    """Rows of each table, a credential in clear, the owner's login with the old password, no trace of the source."""
    if form == "custom":
        output = by_the_documented_command(adopt, source.arguments(form))
    else:
        run: Run = adopt.run("adopt", **source.arguments(form))
        assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
        output = run.stdout
    assert SECRET not in output
    for table, wanted in source.ids.items():
        if form != "entities" or table != "execution_entity":
            assert wanted, f"the source has nothing in {table}"
            assert wanted <= {row[0] for row in adopt.sql(f"SELECT id FROM {table}")}, table
    (credential,) = source.ids["credentials_entity"]
    assert adopt.secret("host", "n8n_owner_password") == source.password.read_text().strip()
    opened = Editor(adopt).rest("GET", f"/credentials/{credential}?includeData=true")
    assert opened["name"] == "Adopted"
    export = f"n8n export:credentials --id={credential} --decrypted --output=/tmp/clear >/dev/null"
    clear = execute(adopt, "n8n-main", "sh", "-c", f"{export} && cat /tmp/clear; rm /tmp/clear")
    assert SECRET in clear
    assert not list(adopt.data_root.glob("adopted-source*"))
