"""Kind `pgbackrest`: {name, kind, service, stanza[, archive_queue_max_mb]}: a Postgres instance, physically, with every
moment between sets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform import pgbackrest, pgbackrest_retention
from ansible.module_utils.n8n_platform.backup import BackupError, Context, Exit
from ansible.module_utils.n8n_platform.engine_run import Mount, Result
from ansible.module_utils.n8n_platform.pgbackrest import (
    Backup,
    PgBackRest,
    PgBackRestError,
    Repository,
)
from ansible.module_utils.n8n_platform.pgbackrest_retention import Expiry
from ansible.module_utils.n8n_platform.pgbackrest_scripts import ARCHIVER, COMPARE_COPIES, END_ORPHAN
from ansible.module_utils.n8n_platform.postgres_generations import former_generations, half_removed, remove

_FULL_BYTES = 16 << 20
_SPOOL = "/var/lib/postgresql/spool"
_PRUNE_CONFIGURATION = "/run/pgbackrest-prune.conf"
_DAYS = {"local": "local_days", "s3": "offsite_days"}


class PgBackRestItem:
    """Repositories are `local` and, with a bucket, `s3`; each gets a set of its own, made from the running server."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.name: str = item["name"]
        self.service: str = item["service"]
        self.stanza: str = item["stanza"]
        self.waiting_limit_bytes = int(item.get("archive_queue_max_mb", 0)) << 20

    def client(self, context: Context, gives_way: bool = False) -> PgBackRest:
        """pgBackRest in the service's container."""
        return PgBackRest(self.stanza, context.inside(self.service, gives_way).run)

    def repositories(self, context: Context) -> dict[str, Repository]:
        return self.client(context).repositories(context.definition.repositories)

    def repository(self, context: Context, name: str) -> Repository:
        return self.client(context).repositories([name])[name]

    def forecast(self, context: Context) -> int:
        """What the local repository grows by: as the last set of this type, or the database's own size."""
        local = self.repository(context, "local")
        same = [backup for backup in local.backups if backup.type == context.type]
        if same and local.fulls:
            return int(same[-1].repository_bytes * 1.5)
        return int(self.archiver(context)["database_bytes"])

    def run(self, context: Context, staging: Path) -> list[dict[str, Any]]:
        """One artefact per repository. A repository that is not local and failed has `error` and no label: the local
        set is kept. Raises BackupError when the local one failed."""
        del staging
        self.end_orphan(context)
        artefacts = []
        for name in context.definition.repositories:
            context.progress(f"{self.name}: {name}")
            try:
                artefacts.append(self._back_up(context, self.repository(context, name)))
            except PgBackRestError as error:
                if name == "local":
                    raise self._local_failure(context, error) from None
                artefacts.append(self._artefact(name, 0, error=str(error)))
        return artefacts

    def verify(self, context: Context, everything: bool = True) -> list[str]:
        """Reads and checks every file of every set and all WAL, or those of the newest set. What is wrong, one text
        each."""
        problems = []
        for name, repository in self.repositories(context).items():
            if repository.problem:
                problems.append(f"{self.name}: {name}: {repository.problem}")
                continue
            found = self._verify(context, name, repository, everything)
            problems += [f"{self.name}: {name}: {text}" for text in found]
            problems += [
                f"{self.name}: {name}: set {b.label} holds damaged pages"
                for b in repository.backups
                if b.damaged
            ]
        return problems

    def expiry(self, context: Context, repository: Repository) -> Expiry:
        retention = context.definition.values["retention"]
        days = int(retention[_DAYS[repository.name]])
        return pgbackrest_retention.plan(
            repository.backups, context.now.timestamp(), days, int(retention["minimum_sets"])
        )

    def prune(self, context: Context, repository: str, dry_run: bool = False) -> list[str]:
        """What goes of one repository, or would go: `set <label>` and `WAL before <segment>`. Raises BackupError."""
        found = self.repository(context, repository)
        if found.problem:
            raise BackupError(f"{self.name}: {found.problem}")
        expiry = self.expiry(context, found)
        if not expiry.gone:
            return []
        if not dry_run:
            self._expire(context, repository, expiry.keep_fulls)
        return [*(f"set {label}" for label in expiry.gone), f"WAL before {expiry.wal_from}"]

    def completed(self, context: Context) -> list[str]:
        """After a good set: the data that the last restore has replaced goes. One text each."""
        volume = context.definition.volumes_root / self.service
        gone = [*half_removed(volume), *former_generations(volume)]
        for path in gone:
            remove(path)
        return [f"removed {path}, which a restore has replaced" for path in gone]

    def status(self, context: Context) -> dict[str, Any]:
        """What archiving() says, and spool_bytes, repositories: {name: {problem, sets, wal_min, wal_max, wal_gaps}}.
        Raises BackupError when the server does not answer."""
        archiver = self.archiving(context)
        repositories = {}
        for name, found in self.repositories(context).items():
            repositories[name] = {
                "problem": found.problem,
                "sets": [vars(backup) for backup in found.backups],
                "wal_min": found.wal_min,
                "wal_max": found.wal_max,
                "wal_gaps": [] if found.problem else self.wal_gaps(context, found, archiver),
            }
        spool = context.inside(self.service).run(["du", "-sb", _SPOOL], 60).stdout.split()
        return {
            **archiver,
            "spool_bytes": int(spool[0]) if spool else 0,
            "repositories": repositories,
        }

    def stopped(self, context: Context) -> bool:
        return context.stopped(self.service)

    def archiving(self, context: Context) -> dict[str, Any]:
        """For metrics, asks no repository: {last_archived_wal, last_archived_seconds, failed_count, lag_seconds (age of
        the oldest finished segment that is not archived), up_seconds (the server's), waiting (segments), waiting_bytes,
        waiting_limit_bytes (beyond it WAL is dropped), wal_bytes, segment_bytes, database_bytes}. Raises BackupError
        when the server does not answer."""
        found = self.archiver(context)
        waiting = int(found["waiting"]) * int(found["segment_bytes"])
        return {**found, "waiting_bytes": waiting, "waiting_limit_bytes": self.waiting_limit_bytes}

    def archiver(self, context: Context) -> dict[str, Any]:
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-c", ARCHIVER]
        result = context.inside(self.service).run(argv, 60)
        if result.code:
            raise BackupError(f"{self.name}: the server does not answer: {result.words()}")
        state: dict[str, Any] = json.loads(result.stdout)
        return state

    def wal_gaps(self, context: Context, repository: Repository, archiver: dict[str, Any]) -> list[str]:
        """`<after>..<before>` of each hole since the oldest set: moments in it, until the next set, are lost."""
        if not repository.archive_id:
            return []
        size = int(archiver["segment_bytes"])
        segments = self.client(context).segments(repository.name, repository.archive_id)
        last = (archiver["last_archived_wal"] or "")[:24]
        # The server was told that its last segments are archived, and they are not: dropped, nothing came after them.
        dropped = segments and last[:8] == segments[-1][:8] and last > segments[-1]
        holes = pgbackrest.gaps(segments, size) + ([(segments[-1], "")] if dropped else [])
        return [f"{before}..{after}" for before, after in holes]

    def end_orphan(self, context: Context) -> bool:
        """Ends a pgBackRest that a killed run has left behind; only while the platform's lock is held."""
        result = context.inside(self.service).run(["sh", "-c", END_ORPHAN, "sh", self.stanza], 120)
        return bool(result.stdout.strip())

    def _back_up(self, context: Context, before: Repository) -> dict[str, Any]:
        if before.problem:
            raise PgBackRestError(f"pgBackRest backup of {self.stanza}: {before.name}: {before.problem}", 0)
        type_ = self._type(context, before)
        options = [
            f"--repo={pgbackrest.KEYS[before.name]}",
            f"--type={type_}",
            f"--annotation=run={context.run_id}",
        ]
        client = self.client(context, gives_way=True)
        client.call("backup", *options, seconds=context.limit("pgbackrest"))
        after = self.repository(context, before.name)
        made = [backup for backup in after.backups if backup.annotations.get("run") == context.run_id]
        if not made:
            raise PgBackRestError(
                f"pgBackRest backup of {self.stanza}: {before.name} does not hold the new set", 0
            )
        return self._set_artefact(after, made[-1])

    def _local_failure(self, context: Context, error: PgBackRestError) -> PgBackRestError:
        """A full disk, whatever was being written when it filled up."""
        free = shutil.disk_usage(context.definition.root / "pgbackrest").free
        if free >= _FULL_BYTES:
            return error
        return PgBackRestError(
            f"{error}; the local repository has {free >> 20} MiB free", error.status, Exit.NO_SPACE
        )

    def _type(self, context: Context, repository: Repository) -> str:
        """A set on top of others is of no use after a gap that their time runs across, or on damaged pages."""
        if not repository.fulls or repository.fulls[-1].damaged:
            return "full"
        gap = self.wal_gaps(context, repository, self.archiver(context))
        newest = repository.backups[-1].wal_stop
        if any(hole.split("..")[0] >= newest for hole in gap):
            return "full"
        # What was owed is owed again each hour until all of a run succeeds, and would fill the disk.
        now = context.now.timestamp()
        there = pgbackrest_retention.made_in_vain(repository.backups, context.type, now, context.newest)
        return "incr" if there else context.type

    def _set_artefact(self, repository: Repository, made: Backup) -> dict[str, Any]:
        details = {
            "type": made.type,
            "wal_start": made.wal_start,
            "wal_stop": made.wal_stop,
            "system_id": repository.system_id,
            "version": repository.version,
            "database_bytes": made.database_bytes,
            "references": list(made.references),
            "started": made.start,
            "finished": made.stop,
            "damaged_pages": made.damaged,
        }
        return {
            **self._artefact(repository.name, made.repository_bytes, label=made.label),
            "details": details,
        }

    def _artefact(self, repository: str, size: int, **more: str) -> dict[str, Any]:
        common = {"name": self.name, "kind": "pgbackrest", "stanza": self.stanza, "repository": repository}
        return {**common, "bytes": size, "details": {}, **more}

    def _verify(self, context: Context, name: str, repository: Repository, everything: bool) -> list[str]:
        """`verify` reads sets and WAL, and ends well whatever it finds; of each file that says what there is, it and
        all other commands quietly take the copy when the file itself cannot be read."""
        option, seconds = f"--repo={pgbackrest.KEYS[name]}", context.limit("pgbackrest_verify")
        newest = [] if everything or not repository.backups else [f"--set={repository.backups[-1].label}"]
        try:
            said = self.client(context, gives_way=True).call(
                "verify", option, "--output=text", *newest, seconds=seconds
            )
        except PgBackRestError as error:
            return [str(error)]
        found = [" ".join(said.split())] if said.strip() else []
        paths = [f"archive/{self.stanza}/archive.info", f"backup/{self.stanza}/backup.info"]
        paths += [f"backup/{self.stanza}/{backup.label}/backup.manifest" for backup in repository.backups]
        result = context.inside(self.service, gives_way=True).run(
            ["sh", "-c", COMPARE_COPIES, "sh", option, *paths], seconds
        )
        found += [f"{path} and its copy are not equal" for path in result.stdout.split()]
        return (
            found
            if result.code == 0
            else [*found, f"the files of information cannot be read: {result.words()}"]
        )

    def _expire(self, context: Context, name: str, keep_fulls: int) -> None:
        key = pgbackrest.KEYS[name]
        options = [f"--repo={key}", f"--repo{key}-retention-full-type=count"]
        client = self._pruner(context) if name == "s3" else self.client(context)
        seconds = context.limit("pgbackrest_expire")
        client.call("expire", *options, f"--repo{key}-retention-full={keep_fulls}", seconds=seconds)

    def _pruner(self, context: Context) -> PgBackRest:
        """Off-site by an identity that may delete, which the server's may not, and which the server must not know."""
        definition = context.definition
        configuration = definition.secret_file(f"pgbackrest_{self.stanza}_prune")
        mounts = [
            Mount(configuration, _PRUNE_CONFIGURATION),
            Mount(definition.secrets_root / self.service, "/run/secrets"),
            Mount(self._configuration_folder(context), "/etc/postgresql"),
        ]

        def run(argv: Sequence[str], seconds: float) -> Result:
            return context.oneshots.run(
                definition.image("postgres"),
                argv,
                mounts=mounts,
                network=definition.s3["network"],
                environment={"PGBACKREST_CONFIG": _PRUNE_CONFIGURATION},
                timeout=seconds,
                # Root reads its own file and, of the service's, the authority's certificate.
                capabilities=["DAC_READ_SEARCH"],
            )

        return PgBackRest(self.stanza, run)

    def _configuration_folder(self, context: Context) -> str:
        mounts = context.container(self.service)["Mounts"]
        return next(str(mount["Source"]) for mount in mounts if mount["Destination"] == "/etc/postgresql")
