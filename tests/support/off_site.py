"""What is left of a lost host: a bucket in a store of its own, bundles of keys, and the private key that opens them."""

from __future__ import annotations

import secrets
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.types import IPAMConfig, IPAMPool

from tests.support.backup_lab import built_images
from tests.support.deployment import ROOT, Deployment, wait_until
from tests.support.docs import doc_block
from tests.support.n8n_rest import Editor
from tests.support.s3 import S3Store

# The gateway of a network is an address of this machine that an inventory can name and that containers reach, those of
# a nested host, too: its engine has networks with the numbers of this machine's default ones, but none with these.
NETWORK = "n8n-platform-test-off-site"
SUBNET, ADDRESS, PORT = "10.203.5.0/28", "10.203.5.1", 18333

# Sums of hashes do not depend on the order of rows. Left out is what n8n writes when somebody logs in or a workflow is
# deployed again, and executions that had not ended: n8n marks those as crashed.
TABLES = {
    "users": 'SELECT concat_ws(chr(31), id, email, password, "roleSlug") AS row FROM "user"',
    "workflows": "SELECT concat_ws(chr(31), id, name, active, nodes, connections) AS row FROM workflow_entity",
    "credentials": "SELECT concat_ws(chr(31), id, name, type, data) AS row FROM credentials_entity",
    "executions": """SELECT concat_ws(chr(31), e.id, "workflowId", status, "startedAt", "stoppedAt", d.data) AS row
        FROM execution_entity e LEFT JOIN execution_data d ON d."executionId" = e.id
        WHERE "stoppedAt" <= '{until}'""",
}
SUMMARY = "SELECT count(*), coalesce(sum(hashtextextended(row, 0)), 0) FROM ({}) t"
NEWEST = 'SELECT extract(epoch FROM max("stoppedAt")) FROM execution_entity WHERE id <= {}'
# What archive_timeout does by itself after a minute; its answer is the segment's name.
END_SEGMENT = "SELECT pg_walfile_name(pg_switch_wal())"
ARCHIVED = "SELECT coalesce(last_archived_wal, '') >= '{}' FROM pg_stat_archiver"


@dataclass
class Lost:
    """What a host held when it was lost.

    tables: name -> [rows, sum of hashes], of what had ended by `until`, the database's time; last: id of the last
    execution of all; newest: when it ended, in seconds since the epoch; canary: a word in the credential with the id
    `credential`.
    """

    environment: str
    tables: dict[str, list[str]]
    until: str
    last: int
    newest: float
    credential: str
    canary: str

    def loss_seconds(self, recovered: Deployment) -> float:
        """From the end of the last execution that was recovered to that of the last one that there was."""
        return self.newest - float(recovered.sql(NEWEST.format(self.last))[0][0])


class OffSite:
    """A store, a folder for bundles and an operator's key, all below `directory` and outside of any environment.

    The store runs while the block lasts. lost: set by lose(); None while no environment has been lost.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundles = directory / "bundles"
        self.identity_file = directory / "operator/backup-key.age"
        self.passphrase_file = directory / "operator/passphrase"
        self.lost: Lost | None = None

    def __enter__(self) -> OffSite:
        engine = docker.from_env()
        self.bundles.mkdir()
        self.recipient = self._make_key()
        with ExitStack() as stack:
            for left in engine.networks.list(names=[NETWORK]):
                left.remove()
            pool = IPAMPool(subnet=SUBNET, gateway=ADDRESS)
            stack.callback(engine.networks.create(NETWORK, ipam=IPAMConfig(pool_configs=[pool])).remove)
            found = engine.images.list(name="n8n-platform/object-storage")
            image = found[0].tags[0] if found else built_images(self.directory)["object_storage"]
            self.store = S3Store(
                self.directory / "store", image, name="n8n-test-off-site", port=PORT, address=ADDRESS
            )
            stack.enter_context(self.store)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def inventory(self) -> dict[str, Any]:
        """What an inventory says of it. It holds no key."""
        of_store = self.store.variables().items()
        return {name: value for name, value in of_store if name.startswith("platform_")} | {
            "backup_bundle_recipients": [self.recipient],
            "backup_bundle_destination": str(self.bundles),
        }

    @property
    def variables(self) -> dict[str, Any]:
        """For the first run of an environment that keeps its backups here: what the inventory says, and the keys."""
        return self.inventory | self.store.variables()

    @property
    def bundle(self) -> Path:
        """The newest."""
        return sorted(self.bundles.glob("*.age"))[-1]

    def manifests(self, environment: str) -> list[str]:
        """Keys of the complete runs in the bucket."""
        client = self.store.client()
        found = client.list_objects_v2(Bucket=self.store.bucket, Prefix=f"{environment}/runs/")
        return [item["Key"] for item in found.get("Contents", []) if item["Key"].endswith("/manifest.json")]

    def lose(self, source: Deployment) -> Lost:
        """Backs `source` up, lets it work on, and kills its database between two moments of the archive."""
        canary = secrets.token_hex(8)
        body = {"name": "Canary", "type": "httpHeaderAuth", "data": {"name": canary, "value": "sings"}}
        credential = Editor(source).rest("POST", "/credentials", body)["id"]
        run = source.run("backup")
        assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])

        # In no set, only in the archive.
        self._work(source)
        ((until,),) = source.sql("SELECT clock_timestamp()")
        tables = held(source, until)
        ((segment,),) = source.sql(END_SEGMENT)
        wait_until(lambda: source.sql(ARCHIVED.format(segment)) == [["t"]], f"{segment} to be archived", 120)

        # What nobody has archived yet.
        last = self._work(source)
        newest = float(source.sql(NEWEST.format(last))[0][0])
        source.containers()["postgres-n8n"].kill()
        self.lost = Lost(source.name, tables, until, last, newest, credential, canary)
        return self.lost

    @staticmethod
    def _work(source: Deployment, calls: int = 3) -> int:
        """Id of the last of some executions, when it has been saved."""
        before = int(source.sql("SELECT coalesce(max(id), 0) FROM execution_entity")[0][0])
        for _ in range(calls):
            assert source.smoke()[0] == 200
        ended = f'SELECT id FROM execution_entity WHERE id > {before} AND "stoppedAt" IS NOT NULL ORDER BY id'
        found = wait_until(
            lambda: rows if len(rows := source.sql(ended)) >= calls else None, "the executions to be saved"
        )
        return int(found[-1][0])

    def _make_key(self) -> str:
        """The operator's, by the documented command; its recipient."""
        self.identity_file.parent.mkdir()
        self.passphrase_file.write_text(secrets.token_urlsafe(18))
        options = f"--file {self.identity_file} --passphrase-file {self.passphrase_file}"
        command = doc_block("backup-key").strip() + f" ARGS='{options}'"
        done = subprocess.run(
            ["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]


def held(deployment: Deployment, until: str) -> dict[str, list[str]]:
    """TABLES' names -> [rows, sum of hashes]."""
    return {
        name: deployment.sql(SUMMARY.format(query.format(until=until)))[0] for name, query in TABLES.items()
    }
