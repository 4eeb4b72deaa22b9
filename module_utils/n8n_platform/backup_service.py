"""What an operator, the schedule and playbooks ask for: run, prune, verify; each locked, logged and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import BackupError, Context, Definition, Exit, run_id
from ansible.module_utils.n8n_platform.backup_info import lateness
from ansible.module_utils.n8n_platform.backup_kinds import settle
from ansible.module_utils.n8n_platform.backup_lock import RESTORE, backup_lock, stuck_restore
from ansible.module_utils.n8n_platform.backup_notify import notify
from ansible.module_utils.n8n_platform.backup_prune import Prune, Removal
from ansible.module_utils.n8n_platform.backup_repositories import make_missing, unlock
from ansible.module_utils.n8n_platform.backup_retention import due_type, missed
from ansible.module_utils.n8n_platform.backup_run import Outcome, Run, empty, items_sizes
from ansible.module_utils.n8n_platform.backup_state import Log, State
from ansible.module_utils.n8n_platform.backup_verify import verify
from ansible.module_utils.n8n_platform.backup_watch import watch
from ansible.module_utils.n8n_platform.engine import Engine, EngineError
from ansible.module_utils.n8n_platform.engine_run import OneShots
from ansible.module_utils.n8n_platform.http import HttpError

# Parts into which a verification cuts restic's data: one a day reads all of it in a week.
VERIFY_PARTS = 7
_ENDANGERED = "point-in-time restore is in danger"
_STUCK = "backups wait for a restore"


@dataclass
class Answer:
    """What was done: `code` is the command's exit code, `lines` what to tell somebody who watches."""

    code: Exit = Exit.DONE
    lines: list[str] = field(default_factory=list)
    manifest: dict[str, Any] | None = None
    removals: list[Removal] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Service:
    """`now` is fixed at the start, so that one run sees one time. `say` shows progress."""

    def __init__(
        self,
        definition: Definition,
        now: datetime | None = None,
        say: Callable[[str], None] | None = None,
        by: str = "",
        engine: Engine | None = None,
    ) -> None:
        self.definition = definition
        self.now = (now or datetime.now(timezone.utc)).astimezone(timezone.utc).replace(microsecond=0)
        self.state = State(definition.state_root)
        self.log = Log(definition.state_root, run_id(self.now))
        self._say = say or (lambda _text: None)
        self._by = by
        # A dump's exec holds its stream open and silent for as long as the tool works.
        self._engine = engine or Engine(timeout=definition.limit("engine"))

    def context(self, run_type: str) -> Context:
        good = [one for one in manifests.local_sets(self.definition.runs) if one.good]
        return Context(
            definition=self.definition,
            engine=self._engine,
            oneshots=OneShots(self._engine, self.definition.environment, "backup"),
            run_id=run_id(self.now),
            now=self.now,
            type=run_type,
            progress=self._progress,
            since=good[-1].started.timestamp() if good else 0.0,
            newest=good[-1].run if good else "",
        )

    def due(self) -> str | None:
        """The type that the calendar owes, None for nothing."""
        sets = manifests.local_sets(self.definition.runs)
        return due_type(self.now, sets, self.definition.values.get("calendar") or {}, self.definition.zone)

    def forecast(self, run_type: str) -> dict[str, Any]:
        """{type, required_bytes, free_bytes} of the run that would be made; {type: None} when none is due."""
        owed = self.due() if run_type == "auto" else run_type
        if owed is None:
            return {"type": None}
        required, free = Run(self.context(owed)).forecast()
        return {"type": owed, "required_bytes": required, "free_bytes": free}

    def run(self, run_type: str) -> Answer:
        """`run_type`: full, diff, incr, or auto: what the calendar owes, if anything."""
        with self._locked(f"run {run_type}") as crashed:
            owed = self.due() if run_type == "auto" else run_type
            if owed is None:
                return Answer(lines=["nothing is due"])
            self._tell_of_missed_runs()
            self.log.write("run started", type=owed, by=self._by)
            started, context = time.monotonic(), self.context(owed)
            # What a killed one leaves must not be taken for a set that has lost its manifest.
            self.state.update(unfinished=[*self.state.unfinished, context.run_id])
            try:
                self._clean_up(context, crashed)
                if endangered := self._look(context):
                    self._notify(_ENDANGERED, "; ".join(endangered))
                run = Run(context)
                try:
                    outcome = run.execute()
                finally:
                    self.state.update(**run.outcome.measured())
                return self._completed(context, outcome, started, bool(crashed))
            except Exception as error:
                # Also what nobody has thought of is told, not only written to a terminal that nobody watches.
                raise self._failed(error, owed, started) from error
            except KeyboardInterrupt:
                raise self._failed(BackupError("interrupted", Exit.INTERRUPTED), owed, started) from None

    def prune(self, dry_run: bool) -> Answer:
        with self._locked("prune") as crashed:
            context = self.context("full")
            pruner = Prune(context)
            removals = pruner.plan()
            if not dry_run:
                self._clean_up(context, crashed)
                removals = pruner.apply(removals, thorough=True)
                self._count(pruner)
                removed = [removal.line() for removal in removals]
                self.log.write("pruned", removed=removed, problems=pruner.problems)
            lines = [removal.line() for removal in removals]
            code, told = Exit.NOT_PRUNED if pruner.problems else Exit.DONE, lines + pruner.problems
            return Answer(code, told or ["nothing goes"], removals=removals, problems=pruner.problems)

    def verify(self, full: bool) -> Answer:
        """Everything that was written is read back (restic's data in parts unless `full`), and the age is judged."""
        with self._locked("verify"):
            part = int(self.state.values.get("rotation") or 0) % VERIFY_PARTS + 1
            found = verify(self.context("full"), 1 if full else part, 1 if full else VERIFY_PARTS)
            finished = datetime.now(timezone.utc).isoformat()
            self.state.update(
                verified={"finished": finished, "ok": not found, "problems": found}, rotation=part
            )
            late = lateness(self.definition, self.state, manifests.local_sets(self.definition.runs), self.now)
            self._write_metrics()
            self.log.write("verified", level="error" if found or late else "info", damage=found, late=late)
            code = Exit.DAMAGED if found else (Exit.LATE if late else Exit.DONE)
            if code:
                self._notify("backup verification failed", "; ".join(found + late)[:1000])
            return Answer(code, found + late or ["nothing is damaged"], problems=found + late)

    def watch(self) -> Answer:
        """Whether the write-ahead log gets away: told once, and again by every run while it lasts. Needs no lock."""
        if (self.definition.state_root / RESTORE).exists():
            return self._wait_for_restore()
        before = self.state.values.get("archiving") or {"items": {}, "problems": []}
        found = self._look(self.context("incr"), before["items"])
        if found and not before["problems"]:
            self._notify(_ENDANGERED, "; ".join(found))
        return Answer(Exit.LATE if found else Exit.DONE, found or ["nothing waits"], problems=found)

    def _wait_for_restore(self) -> Answer:
        stuck = stuck_restore(self.definition.state_root, self.now)
        if stuck and stuck != self.state.values.get("stuck"):
            self.state.update(stuck=stuck)
            self._notify(_STUCK, stuck)
        if stuck:
            return Answer(Exit.LATE, [stuck], problems=[stuck])
        return Answer(Exit.DONE, ["something is being restored"])

    def initialise(self, dry_run: bool = False) -> list[str]:
        """Repositories that were missing and now are there, by name; the state knows since when backups are owed."""
        made = make_missing(self.definition, self.context("full").oneshots, dry_run)
        if not dry_run and "since" not in self.state.values:
            self.state.since(self.now)
            self._write_metrics()
        return made

    def _completed(self, context: Context, outcome: Outcome, started: float, crashed: bool) -> Answer:
        manifest = outcome.manifest or {}
        entry = {
            "run": manifest["run"],
            "finished": manifest["finished"],
            "bytes": sum(items_sizes(manifest).values()),
        }
        reached = {name: entry for name in ("local", "s3") if manifest["locations"][name]}
        failed_before = bool((self.state.values.get("last_run") or {}).get("code"))
        self.state.update(
            success={**(self.state.values.get("success") or {}), **reached},
            sizes=items_sizes(manifest),
            unfinished=[run for run in self.state.unfinished if run != context.run_id],
        )
        if self.state.values["archiving"]["problems"]:
            # What this set has put right must not be called wrong until the next one.
            self._look(context)
        code, lines = outcome.code, [f"{manifest['run']} ({manifest['type']}): {', '.join(reached)}"]
        if context.type != "incr" or crashed or failed_before:
            try:
                pruner = Prune(context)
                removals = pruner.apply(pruner.plan(), thorough=crashed or failed_before)
                self._count(pruner)
                lines += [f"removed {removal.line()}" for removal in removals]
                failed = pruner.problems
            except (BackupError, EngineError, HttpError, OSError) as error:
                failed = [str(error)]
            outcome.problems += [f"prune: {text}" for text in failed]
            code = code or (Exit.NOT_PRUNED if failed else Exit.DONE)
        if context.type != "incr":
            # This set is whole here, wherever else it has not come to.
            lines += settle(context)
        self._record(context.type, started, code, "; ".join(outcome.problems))
        self.log.write(
            "run finished", level="error" if code else "info", code=int(code), problems=outcome.problems
        )
        if code:
            self._notify(
                "backup incomplete", "; ".join(outcome.problems), run=manifest["run"], code=int(code)
            )
        return Answer(code, lines + outcome.problems, outcome.manifest, problems=outcome.problems)

    def _look(self, context: Context, known: dict[str, Any] | None = None) -> list[str]:
        facts, found = watch(context, known)
        self.state.update(archiving={"items": facts, "problems": found})
        self._write_metrics()
        if found:
            self.log.write("archive", level="error", problems=found)
        return found

    def _failed(self, error: Exception, run_type: str, started: float) -> BackupError:
        failure = error if isinstance(error, BackupError) else BackupError(_words(error))
        code = int(failure.code)
        self._record(run_type, started, failure.code, str(failure))
        self.log.write("run failed", level="error", code=code, problem=str(failure))
        self._notify("backup failed", str(failure), run=run_id(self.now), code=code)
        return failure

    def _clean_up(self, context: Context, crashed: dict[str, Any] | None) -> None:
        """What a run that was killed, or stopped a step, has left: containers, staging, locks in the repositories."""
        left = context.oneshots.remove_left_over()
        failed = (self.state.values.get("last_run") or {}).get("code")
        if not (crashed or left or failed):
            return
        self.log.write("cleaning up", level="warning", former=crashed, code=failed, containers=left)
        empty(self.definition.staging)
        for problem in unlock(self.definition, context.oneshots):
            self.log.write("unlock failed", level="warning", problem=problem)

    def _tell_of_missed_runs(self) -> None:
        """The run that comes after a gap says that there was one."""
        maximum = timedelta(hours=float(self.definition.values.get("maximum_age_hours") or 26))
        sets = manifests.local_sets(self.definition.runs)
        if words := missed(self.now, sets, self.state.since(self.now), maximum):
            self.log.write("runs were missed", level="error", problem=words)
            self._notify("backups were missed", words)

    def _record(self, run_type: str, started: float, code: Exit, problem: str) -> None:
        run = {
            "run": run_id(self.now),
            "type": run_type,
            "started": self.now.isoformat(),
            "finished": datetime.now(timezone.utc).isoformat(),
            "seconds": round(time.monotonic() - started, 1),
            "code": int(code),
            "problem": problem,
        }
        self.state.update(last_run=run)
        self._write_metrics()

    def _count(self, pruner: Prune) -> None:
        unfinished = pruner.still_unfinished(self.state.unfinished)
        self.state.update(**pruner.kept(self.state.values), unfinished=unfinished)
        self._write_metrics()

    def _write_metrics(self) -> None:
        self.state.write_metrics(self.definition.environment)

    def _notify(self, event: str, message: str, **fields: Any) -> None:
        for failure in notify(self.definition, event, message, **fields):
            self.log.write("notification failed", level="error", problem=failure)

    def _progress(self, text: str) -> None:
        self.log.write("progress", text=text)
        self._say(text)

    @contextmanager
    def _locked(self, what: str) -> Iterator[dict[str, Any] | None]:
        try:
            with backup_lock(self.definition.state_root, what, self.now, self._by) as former:
                yield former
        except BackupError as error:
            stuck = stuck_restore(self.definition.state_root, self.now)
            if stuck and error.code is Exit.RESTORING:
                self._notify(_STUCK, stuck, code=int(error.code))
            raise


def _words(error: Exception) -> str:
    known = isinstance(error, (EngineError, HttpError, OSError))
    return str(error) if known else f"{type(error).__name__}: {error}"
