"""An existing n8n comes into a new environment whole, or not at all.

One deployment is first the one, then the other.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Deployment, Run
from tests.support.engine import engine
from tests.support.killed import killed
from tests.support.n8n_rest import TRIGGER, Editor, code, execute, node

__all__ = ["engine"]

TABLES = ("workflow_entity", "credentials_entity", '"user"', "execution_entity")
SECRET = "Bearer canary-of-an-adopted-credential"


class Source:
    """What an operator brings along, and what has to be there in the end."""

    def __init__(self, folder: Path, deployment: Deployment) -> None:
        self.folder = folder
        self.key = self._write("key", deployment.secret("n8n-main", "n8n_encryption_key"))
        self.password = self._write("password", deployment.secret("host", "n8n_owner_password"))
        self.ids = ids(deployment)
        postgres = str(deployment.containers()["postgres-n8n"].id)
        for form in ("custom", "plain"):
            command = ["docker", "exec", postgres, "pg_dump", "-U", "postgres", f"-F{form[0]}", "n8n"]
            with (folder / form).open("wb") as stream:
                subprocess.run(command, stdout=stream, check=True)
        main = str(deployment.containers()["n8n-main"].id)
        export = ["sh", "-c", "n8n export:entities --outputDir=/tmp/out >&2 && cat /tmp/out/entities.zip"]
        with (folder / "entities").open("wb") as stream:
            subprocess.run(
                ["docker", "exec", main, *export], stdout=stream, stderr=subprocess.DEVNULL, check=True
            )

    def _write(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text + "\n")
        return self.folder / name

    def arguments(self, form: str, **other: Any) -> dict[str, Any]:
        variable = "n8n_adopt_entities_file" if form == "entities" else "n8n_adopt_dump_file"
        return {
            "platform_confirm": "test-adopt",
            "n8n_encryption_key_import_file": str(self.key),
            "n8n_owner_password_import_file": str(self.password),
            variable: str(self.folder / form),
            **other,
        }


def ids(deployment: Deployment) -> dict[str, set[str]]:
    return {table: {row[0] for row in deployment.sql(f"SELECT id FROM {table}")} for table in TABLES}


def fill(deployment: Deployment) -> None:
    """Two workflows with executions, a credential, a second user."""
    editor = Editor(deployment)
    data = {"name": "Authorization", "value": SECRET}
    editor.rest("POST", "/credentials", {"name": "Adopted", "type": "httpHeaderAuth", "data": data})
    editor.rest("POST", "/invitations", [{"email": "second@example.org", "role": "global:member"}])
    for number in range(2):
        chain = [node(TRIGGER, "manualTrigger"), code("return [{json: {}}];")]
        link = {TRIGGER: {"main": [[{"node": "Code", "type": "main", "index": 0}]]}}
        body = {"name": f"Adopted {number}", "nodes": chain, "connections": link, "settings": {}}
        workflow = editor.rest("POST", "/workflows", body)
        assert editor.finished(editor.start(workflow)).status == "success"


@pytest.fixture(scope="session")
def adopt(engine: object) -> Iterator[Deployment]:
    deployment = Deployment(
        name="test-adopt", inventory=Path(__file__).parent.parent / "inventory", port_base=18740
    )
    yield deployment
    deployment.destroy()


@pytest.fixture(scope="session")
def source(adopt: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Source:
    adopt.destroy_left_over()
    adopt.converge()
    fill(adopt)
    return Source(tmp_path_factory.mktemp("source"), adopt)


def test_an_environment_with_data_is_refused(adopt: Deployment, source: Source) -> None:
    before = adopt.fingerprint()
    run = adopt.run("adopt", **source.arguments("custom"))
    assert run.rc != 0
    assert any("only a new environment adopts" in text for text in run.failures()), run.failures()
    assert adopt.fingerprint() == before
    adopt.destroy()


def test_a_wrong_key_is_refused_before_anything_changes(adopt: Deployment, source: Source) -> None:
    wrong = source.folder / "wrong"
    wrong.write_text("nobody-ever-had-this-key\n")
    run = adopt.run("adopt", **source.arguments("custom", n8n_encryption_key_import_file=str(wrong)))
    assert run.rc != 0
    assert any("n8n_encryption_key_import_file: the key decrypts none" in text for text in run.failures())
    assert not adopt.containers(stopped=True)
    assert {path.name for path in adopt.data_root.iterdir()} <= {"state"}
    assert not list((adopt.data_root / "state").glob("openbao*"))


def test_a_killed_run_leaves_nothing_that_hinders_the_next(adopt: Deployment, source: Source) -> None:
    """In the middle of the restore: there is a database beside n8n's, and n8n's is still empty."""

    killed(
        adopt,
        "adopt",
        "database | Restore and accept it",
        lambda: ["n8n_adopt"] in databases(adopt),
        **source.arguments("custom"),
    )
    assert not adopt.sql("SELECT 1 FROM pg_class WHERE relname = 'workflow_entity'")
    check_whole(adopt, source, "custom")
    assert ["n8n_adopt"] not in databases(adopt)


def test_adopting_again_changes_nothing(adopt: Deployment, source: Source) -> None:
    before = adopt.fingerprint()
    run = adopt.run("adopt", **source.arguments("custom"))
    assert run.rc == 0, run.failures()
    assert run.changed == 0, run.changed_tasks()
    assert adopt.fingerprint() == before


def test_another_source_is_refused(adopt: Deployment, source: Source) -> None:
    run = adopt.run("adopt", **source.arguments("plain"))
    assert run.rc != 0
    assert any("has already adopted another source" in text for text in run.failures()), run.failures()


@pytest.mark.skipif(
    not os.environ.get("TEST_NIGHTLY"), reason="a first start more for each form: make test-nightly"
)
@pytest.mark.parametrize("form", ["plain", "entities"])
def test_it_comes_whole_in_another_form(adopt: Deployment, source: Source, form: str) -> None:
    adopt.destroy()
    check_whole(adopt, source, form)


def databases(deployment: Deployment) -> list[list[str]]:
    return deployment.sql("SELECT datname FROM pg_database")


def check_whole(adopt: Deployment, source: Source, form: str) -> None:
    """Rows of each table, a credential in clear, the owner's login with the old password, no trace of the source."""
    run: Run = adopt.run("adopt", **source.arguments(form))
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    assert SECRET not in run.stdout
    now = ids(adopt)
    for table, wanted in source.ids.items():
        if form != "entities" or table != "execution_entity":
            assert wanted <= now[table], table
    (credential,) = source.ids["credentials_entity"]
    assert adopt.secret("host", "n8n_owner_password") == source.password.read_text().strip()
    opened = Editor(adopt).rest("GET", f"/credentials/{credential}?includeData=true")
    assert opened["name"] == "Adopted"
    export = f"n8n export:credentials --id={credential} --decrypted --output=/tmp/clear >/dev/null"
    clear = execute(adopt, "n8n-main", "sh", "-c", f"{export} && cat /tmp/clear; rm /tmp/clear")
    assert SECRET in clear
    assert not list(adopt.data_root.glob("adopted-source*"))
