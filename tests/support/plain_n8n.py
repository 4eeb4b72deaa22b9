"""An n8n as many run it: one process and a Postgres, without a queue and without this project."""

from __future__ import annotations

import secrets
import subprocess
from contextlib import ExitStack
from pathlib import Path

from ansible.module_utils.n8n_platform.adopt_scratch import Scratch, docker
from ansible.module_utils.n8n_platform.n8n import N8n

from tests.support.n8n_rest import PORT, Session

EMAIL = "somebody@example.org"
DATABASE = "flows"


class PlainN8n:
    """Runs for as long as the block lasts; `images` are references by name, `folder` is its own."""

    def __init__(self, name: str, images: dict[str, str], folder: Path) -> None:
        self._server = Scratch(name, folder / "source", images["postgres"], images["n8n"])
        self._image, self._name = images["n8n"], f"{name}-n8n"
        self.key, self.password = secrets.token_urlsafe(24), f"Aa1{secrets.token_hex(12)}"

    def __enter__(self) -> PlainN8n:
        with ExitStack() as stack:
            stack.enter_context(self._server)
            docker("exec", self._server.container, "createdb", "-U", "postgres", DATABASE)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def session(self) -> Session:
        return Session(self._url, EMAIL, self.password)

    def ids(self, table: str) -> set[str]:
        query = ["psql", "-U", "postgres", "-d", DATABASE, "-Atc", f"SELECT id FROM {table}"]
        return set(docker("exec", self._server.container, *query).split())

    def dump(self, path: Path, form: str) -> None:
        """form: `custom` or `plain` of pg_dump, or `entities` of n8n's own export."""
        if form == "entities":
            docker("exec", self._name, "n8n", "export:entities", "--outputDir=/tmp/out")
            command = [self._name, "cat", "/tmp/out/entities.zip"]
        else:
            command = [self._server.container, "pg_dump", "-U", "postgres", f"-F{form[0]}", DATABASE]
        with path.open("wb") as stream:
            subprocess.run(["docker", "exec", *command], stdout=stream, check=True)

    def _start(self) -> None:
        environment = {
            "DB_TYPE": "postgresdb",
            "DB_POSTGRESDB_HOST": self._server.container,
            "DB_POSTGRESDB_USER": "postgres",
            "DB_POSTGRESDB_DATABASE": DATABASE,
            "DB_POSTGRESDB_PASSWORD_FILE": "/adopt/password",
            "N8N_ENCRYPTION_KEY": self.key,
            "N8N_DIAGNOSTICS_ENABLED": "false",
        }
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        network = ["--network", self._server.name, "--volume", f"{self._server.work}/export:/adopt"]
        docker("run", "--detach", "--name", self._name, *network, *variables, self._image, "start")
        shape = f'{{{{(index .NetworkSettings.Networks "{self._server.name}").IPAddress}}}}'
        self._url = f"http://{docker('inspect', '--format', shape, self._name).strip()}:{PORT}"
        n8n = N8n(self._url)
        n8n.wait_until_ready(180)
        n8n.set_up_owner(EMAIL, "Some", "Body", self.password)
