"""restic on one repository, the local one or the one in the bucket, as one-shot containers of the image `backup`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Definition, Exit
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.engine_run import Mount, OneShots, Result

PASSWORD = "backup_restic_password"  # noqa: S105 (its name)
CREDENTIALS = "backup_s3_credentials"
# Where directories of the host are seen by restic, and hence what their paths in a snapshot start with.
SOURCE = "/source"
_SECRETS = "/run/secrets"
_CAUSES = {
    1: (Exit.FAILED, "failed"),
    2: (Exit.FAILED, "crashed"),
    3: (Exit.FAILED, "could not read everything that was to be backed up"),
    10: (Exit.FAILED, "found no repository"),
    11: (Exit.LOCKED, "found the repository locked"),
    12: (Exit.WRONG_KEY, f"was refused by the repository: the secret {PASSWORD} is not its password"),
    130: (Exit.INTERRUPTED, "was interrupted"),
}


class Restic:
    """`repository` is `local` or `s3`. Everything raises BackupError with restic's own words and what its exit code
    means; a step that takes longer than `limit` seconds is stopped."""

    def __init__(
        self, definition: Definition, oneshots: OneShots, repository: str = "local", read_only: bool = False
    ) -> None:
        self.definition = definition
        self.read_only = read_only
        self.repository = repository
        self.folder = definition.root / "restic"
        self._oneshots = oneshots

    def exists(self) -> bool:
        """Whether there is a repository that our password opens; a refused password is an error."""
        if self.repository == "local" and not (self.folder / "config").exists():
            return False
        result = self._run(["cat", "config", "--no-lock", "--quiet"], limit=120)
        if result.code == 10:
            return False
        self._check(result, "cat config")
        return True

    def initialise(self) -> None:
        """A second repository gets the first one's way of cutting files, so that a copy moves only what is new."""
        argv = ["init", "--quiet"]
        if self.repository == "s3":
            argv += ["--copy-chunker-params", *self._from_local()]
        else:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._do(argv, limit=300)

    def backup(self, sources: dict[str, Path], tag: str, moment: datetime, limit: float) -> dict[str, Any]:
        """One snapshot of directories, each seen as /source/<name>; restic's summary ({snapshot_id, ...})."""
        mounts = [Mount(path, f"{SOURCE}/{name}") for name, path in sorted(sources.items())]
        at = moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        argv = [
            "backup",
            "--json",
            "--quiet",
            "--tag",
            tag,
            "--host",
            self.definition.environment,
            "--time",
            at,
        ]
        # Files of every service's user are read, none is written.
        result = self._do([*argv, SOURCE], limit=limit, mounts=mounts, capabilities=["DAC_READ_SEARCH"])
        for message in _messages(result):
            if message.get("message_type") == "summary":
                return message
        raise BackupError(f"restic backup: no summary: {result.words()}")

    def restore(self, snapshot: str, target: Path, limit: float) -> None:
        """What is below /source, into an existing directory; every file is compared with the repository afterwards.

        Takes no lock: a source that is only read must stay as it is.
        """
        argv = ["restore", "--quiet", "--no-lock", "--verify", "--target", "/target", f"{snapshot}:{SOURCE}"]
        mounts = [Mount(target, "/target", read_only=False)]
        self._do(argv, limit=limit, mounts=mounts, capabilities=["CHOWN", "DAC_OVERRIDE", "FOWNER"])

    def copy_from_local(self, snapshots: Sequence[str], limit: float) -> None:
        """What is there already is not copied again; without ids everything that is missing is."""
        self._do(["copy", "--quiet", *self._from_local(), *snapshots], limit=limit)

    def snapshots(self) -> list[dict[str, Any]]:
        """[{id, original, time, tags, paths, run}], oldest first; `run` is empty for foreign ones."""
        result = self._do(["snapshots", "--json", "--no-lock"], limit=300)
        found: list[dict[str, Any]] = json.loads(result.stdout) or []
        for snapshot in found:
            tags = snapshot.get("tags") or []
            snapshot["run"] = next((tag.removeprefix("run=") for tag in tags if tag.startswith("run=")), "")
        return sorted(found, key=lambda snapshot: str(snapshot["time"]))

    def forget(self, snapshots: Sequence[str]) -> None:
        self._do(["forget", "--quiet", *snapshots], limit=600, profile="prune")

    def prune(self, limit: float) -> None:
        """Also removes what a killed run has left without an index."""
        self._do(["prune", "--quiet"], limit=limit, profile="prune")

    def unlock(self) -> None:
        """Every lock, for the caller holds the platform's own: what is left in there is of a process that is dead."""
        self._do(["unlock", "--remove-all", "--quiet"], limit=120)

    def check(self, subset: str, limit: float) -> list[str]:
        """Structure and, of the data, `subset` (`2/7`, `100%`): what is damaged, in restic's words; [] if nothing."""
        argv = ["check", "--no-lock", f"--read-data-subset={subset}"]
        result = self._run(argv, limit=limit)
        if result.code in (10, 12):
            self._check(result, "check")
        if result.code == 0:
            return []
        lines = [line.strip() for line in (result.stdout + result.stderr).splitlines()]
        wrong = [
            line for line in lines if any(word in line.lower() for word in ("error", "damaged", "fatal"))
        ]
        return wrong[:20] or [f"check ended with {result.code}: {result.words()}"]

    def _from_local(self) -> list[str]:
        return ["--from-repo", "/repository", "--from-password-file", f"{_SECRETS}/{PASSWORD}"]

    def _do(self, argv: list[str], limit: float, **more: Any) -> Result:
        result = self._run(argv, limit=limit, **more)
        self._check(result, argv[0])
        return result

    def _run(
        self,
        argv: list[str],
        limit: float,
        mounts: Sequence[Mount] = (),
        capabilities: Sequence[str] = (),
        profile: str = "default",
    ) -> Result:
        definition, s3 = self.definition, self.definition.s3
        given = [Mount(definition.secret_file(PASSWORD), f"{_SECRETS}/{PASSWORD}"), *mounts]
        environment = {"RESTIC_PASSWORD_FILE": f"{_SECRETS}/{PASSWORD}", "TZ": "UTC", "HOME": "/tmp"}  # noqa: S108
        options, network = ["--no-cache"], "none"
        if self.folder.is_dir():
            given.append(Mount(self.folder, "/repository", self.read_only))
        if self.repository == "s3":
            given.append(Mount(definition.secret_file(CREDENTIALS), f"{_SECRETS}/{CREDENTIALS}"))
            environment |= {
                "AWS_SHARED_CREDENTIALS_FILE": f"{_SECRETS}/{CREDENTIALS}",
                "AWS_PROFILE": profile,
                "AWS_DEFAULT_REGION": s3["region"],
            }
            options += ["-o", f"s3.bucket-lookup={'dns' if s3.get('uri_style') == 'host' else 'path'}"]
            if s3.get("ca_file"):
                given.append(Mount(s3["ca_file"], f"{_SECRETS}/s3-ca.pem"))
                options += ["--cacert", f"{_SECRETS}/s3-ca.pem"]
            network = s3["network"]
        location = "/repository" if self.repository == "local" else self.url()
        try:
            return self._oneshots.run(
                definition.image("backup"),
                ["restic", "--repo", location, "--retry-lock", "1m", *options, *argv],
                mounts=given,
                environment=environment,
                network=network,
                timeout=limit,
                capabilities=capabilities,
            )
        except EngineError as error:
            raise BackupError(f"restic {argv[0]} ({self.repository}): {error}") from None

    def url(self) -> str:
        s3 = self.definition.s3
        return "s3:" + "/".join(
            part.strip("/") for part in (s3["endpoint"], s3["bucket"], s3["prefix"], "restic") if part
        )

    def _check(self, result: Result, what: str) -> None:
        if result.code:
            code, cause = _CAUSES.get(result.code, (Exit.FAILED, f"ended with {result.code}"))
            raise BackupError(f"restic {what} ({self.repository}) {cause}: {result.words()}", code)


def _messages(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
