"""Restores beside `pg_dump | psql`: one server with its repository, the same database, the same run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup_pg_dump import PgDump
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.postgres_dump_restore import DumpRestore, Target

from bench.filling import fill
from bench.samples import Sample, interleaved, save, timed
from tests.support.backup_lab import built_images
from tests.support.deployment import wait_until
from tests.support.postgres_lab import SERVICE, PostgresLab

ROUNDS = 2
COPY = "n8n_copy"
PSQL = f"psql -XqU postgres -v ON_ERROR_STOP=1 -o /dev/null {COPY}"
PIPE = f"set -o pipefail; createdb -U postgres {COPY} && pg_dump -U postgres n8n | {PSQL}"
HASH = "SELECT count(*) || ' ' || sum(hashtextextended(data, \"executionId\")) FROM execution_data"


def measure(form: str, megabytes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="n8n-platform-bench-") as folder:
        sizes = {"postgres_memory_mb": 2048, "postgres_cpus": "2.0", "postgres_connections": 100}
        images = built_images(Path(folder))
        lab = PostgresLab(Path("/var/tmp/n8n-bench-restore"), "bench-restore", images, variables=sizes)
        try:
            lab.create()
            RestoreBench(lab, Path(folder)).measure(form, megabytes)
        finally:
            lab.remove()


class RestoreBench:
    """`folder` takes the dump."""

    def __init__(self, lab: PostgresLab, folder: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._hash = ""
        self._dump: dict[str, Any] = {}
        self._target = Target(Inside(lab.container), lab.volume, "n8n", "postgres")

    def measure(self, form: str, megabytes: int) -> None:
        self._lab.sql("DROP TABLE rows")
        filled = fill(self._lab.container, megabytes)
        self._hash = self._lab.sql(HASH)
        backup = timed(lambda: self._lab.back_up("full"))
        kind = PgDump({"name": "dump-n8n", "kind": "pg_dump", "service": SERVICE, "database": "n8n"})
        dump = timed(lambda: self._dump.update(kind.run(self._lab.context(), self._folder)[0]))
        ways = {"pg_dump | psql": self._pipe, "logical": self._logical, "physical": self._physical}
        samples = interleaved(ways, ROUNDS)
        settings = {
            **filled,
            "dump_bytes": self._dump["bytes"],
            "dump_seconds": dump["seconds"],
            "full_backup_seconds": backup["seconds"],
            "jobs": self._target.jobs,
        }
        save("restore", form, samples, **settings)

    def _pipe(self) -> Sample:
        return self._sample(lambda: self._lab.execute("bash", "-c", PIPE), lambda: self._check_and_drop(COPY))

    def _logical(self) -> Sample:
        worker = DumpRestore(self._target)
        path = self._folder / self._dump["file"]
        return self._sample(
            lambda: worker.prepare(path, self._dump["sha256"]), lambda: self._check_and_drop("n8n_restore")
        )

    def _physical(self) -> Sample:
        """From a set of this moment: what the other ways have written since would have to be recovered, too."""
        self._lab.back_up("full")
        recovery, found = self._lab.recovery(), {}
        sample = self._sample(lambda: found.update(vars(recovery.prepare())), recovery.discard_staged)
        return {**sample, **{key: found[key] for key in ("restore_seconds", "recovery_seconds")}}

    def _sample(self, work: Any, clean_up: Any) -> Sample:
        """On a server that has nothing left to write or to archive from what was before."""
        self._lab.sql("CHECKPOINT")
        waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
        wait_until(lambda: self._lab.sql(waiting) == "0", "the archive", 600)
        before = wal_bytes(self._lab)
        sample = timed(work)
        sample["wal_bytes"] = wal_bytes(self._lab) - before
        del sample["cpu_seconds"]  # is spent in containers, which are no children
        clean_up()
        return sample

    def _check_and_drop(self, database: str) -> None:
        assert self._lab.sql(HASH, database) == self._hash, f"{database} is not what n8n is"
        self._lab.sql(f"DROP DATABASE {database}")


def wal_bytes(lab: PostgresLab) -> int:
    return int(float(lab.sql("SELECT wal_bytes FROM pg_stat_wal")))
