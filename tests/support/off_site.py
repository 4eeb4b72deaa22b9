"""What is left of a lost host: a bucket in a store of its own, bundles of keys, and the private key that opens them."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
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
# molecule/core/inventory names address, port and files.
NETWORK = "n8n-platform-test-off-site"
SUBNET, ADDRESS, PORT = "10.203.5.0/28", "10.203.5.1", 18333
CACHE = Path(os.environ.get("PLATFORM_CACHE", "/var/cache/n8n-platform")) / "test-off-site"

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
# Nobody ends a segment for these: what is committed is in the archive after archive_timeout, by itself.
ARCHIVE_SECONDS = 60
MARK = "SELECT clock_timestamp(), pg_walfile_name(pg_current_wal_lsn())"
ARCHIVED = """SELECT extract(epoch FROM last_archived_time - '{until}') FROM pg_stat_archiver
    WHERE last_archived_wal >= '{segment}'"""
# Folders of volumes that a restore has to bring back, each with a file that only the backup holds.
MARKED_FOLDERS = ("n8n-home", "n8n-data/files", "n8n-scripts")
MARKER = "marker.bin"
MARKED_KEY = "off-site:marker"


@dataclass
class Lost:
    """What a host held when it was lost.

    tables: name -> [rows, sum of hashes], of what had ended by `until`, the database's time; last: id of the last
    execution of all; newest: when it ended, in seconds since the epoch; canary: a word in the credential with the id
    `credential`; files: folder of a volume -> sha256 of its marker; key: what Redis held as MARKED_KEY;
    archived_seconds: from a commit until it was in the archive, without anybody's help.
    """

    environment: str
    tables: dict[str, list[str]]
    until: str
    last: int
    newest: float
    credential: str
    canary: str
    files: dict[str, str]
    key: str
    archived_seconds: float

    def loss_seconds(self, recovered: Deployment) -> float:
        """From the end of the last execution that was recovered to that of the last one that there was."""
        return self.newest - float(recovered.sql(NEWEST.format(self.last))[0][0])


class OffSite:
    """A store, a folder for bundles and an operator's key, all below CACHE and outside of any environment.

    The store runs while the block lasts, with TEST_OFF_SITE_KEEP after it, too, for an environment that goes on. What
    it holds stays until renew(). lost: set by lose(); None while no environment has been lost.
    """

    def __init__(self) -> None:
        self.directory = CACHE
        self.bundles = CACHE / "bundles"
        self.identity_file = CACHE / "operator/backup-key.age"
        self.passphrase_file = CACHE / "operator/passphrase"
        self.recipient_file = CACHE / "operator/recipient"
        self.lost: Lost | None = None

    def __enter__(self) -> OffSite:
        self._engine = docker.from_env()
        if not self._engine.networks.list(names=[NETWORK]):
            pool = IPAMPool(subnet=SUBNET, gateway=ADDRESS)
            self._engine.networks.create(NETWORK, ipam=IPAMConfig(pool_configs=[pool]))
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if not os.environ.get("TEST_OFF_SITE_KEEP"):
            self.store.stop()
            for network in self._engine.networks.list(names=[NETWORK]):
                network.remove()

    def renew(self) -> None:
        """For an environment that begins: nothing of a former one, another key, other credentials."""
        self.store.remove()
        shutil.rmtree(CACHE)
        self._start()

    def _start(self) -> None:
        self.bundles.mkdir(parents=True, exist_ok=True)
        if not self.recipient_file.exists():
            self._make_key()
        found = self._engine.images.list(name="n8n-platform/object-storage")
        image = found[0].tags[0] if found else built_images(CACHE)["object_storage"]
        self.store = S3Store(CACHE / "store", image, name="n8n-test-off-site", port=PORT, address=ADDRESS)
        self.store.start()

    @property
    def inventory(self) -> dict[str, Any]:
        """What an inventory says of it. It holds no key."""
        of_store = self.store.variables().items()
        return {name: value for name, value in of_store if name.startswith("platform_")} | {
            "backup_bundle_recipients": [self.recipient_file.read_text()],
            "backup_bundle_destination": str(self.bundles),
        }

    @property
    def keys(self) -> dict[str, str]:
        """For the first run of an environment that keeps its backups here; its secret store keeps them."""
        of_store = self.store.variables().items()
        return {name: value for name, value in of_store if name.startswith("object_storage_")}

    @property
    def bundle(self) -> Path:
        """The newest."""
        return sorted(self.bundles.glob("*.age"))[-1]

    def manifests(self, environment: str) -> list[str]:
        """Keys of the complete runs in the bucket."""
        return sorted(key for key in self.objects(f"{environment}/runs") if key.endswith("/manifest.json"))

    def objects(self, folder: str) -> dict[str, str]:
        """Keys of everything in the bucket below a folder, with what S3 knows the content by."""
        pages = self.store.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self.store.bucket, Prefix=f"{folder}/")
        return {item["Key"]: item["ETag"] for page in found for item in page.get("Contents", [])}

    def lose(self, source: Deployment) -> Lost:
        """Backs `source` up, lets it work on, and kills its database between two moments of the archive."""
        canary = secrets.token_hex(8)
        body = {"name": "Canary", "type": "httpHeaderAuth", "data": {"name": canary, "value": "sings"}}
        credential = Editor(source).rest("POST", "/credentials", body)["id"]
        files, key = mark_volumes(source), secrets.token_hex(8)
        source.redis("SET", MARKED_KEY, key)
        run = source.run("backup")
        assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])

        # In no set, only in the archive.
        self._work(source)
        ((until, segment),) = source.sql(MARK)
        tables = held(source, until)

        def archived() -> list[list[str]]:
            self._work(source, 1)
            return source.sql(ARCHIVED.format(until=until, segment=segment))

        what = f"{segment} to be archived"
        ((seconds,),) = wait_until(archived, what, 2 * ARCHIVE_SECONDS, every=2)

        # What nobody has archived yet.
        last = self._work(source)
        newest = float(source.sql(NEWEST.format(last))[0][0])
        source.containers()["postgres-n8n"].kill()
        self.lost = Lost(
            source.name, tables, until, last, newest, credential, canary, files, key, float(seconds)
        )
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

    def _make_key(self) -> None:
        """The operator's, by the documented command."""
        shutil.rmtree(self.identity_file.parent, ignore_errors=True)
        self.identity_file.parent.mkdir()
        self.passphrase_file.write_text(secrets.token_urlsafe(18))
        options = f"--file {self.identity_file} --passphrase-file {self.passphrase_file}"
        command = doc_block("backup-key").strip() + f" ARGS='{options}'"
        done = subprocess.run(
            ["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.recipient_file.write_text(done.stdout.split()[-1])


def mark_volumes(deployment: Deployment) -> dict[str, str]:
    """Leaves a file of n8n's user in each of MARKED_FOLDERS; folder -> its sha256."""
    found = {}
    for folder in MARKED_FOLDERS:
        content = secrets.token_bytes(1000)
        path = deployment.data_root / "volumes" / folder / MARKER
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        shutil.chown(path, 1000, 1000)
        found[folder] = hashlib.sha256(content).hexdigest()
    return found


def held(deployment: Deployment, until: str) -> dict[str, list[str]]:
    """TABLES' names -> [rows, sum of hashes]."""
    return {
        name: deployment.sql(SUMMARY.format(query.format(until=until)))[0] for name, query in TABLES.items()
    }
