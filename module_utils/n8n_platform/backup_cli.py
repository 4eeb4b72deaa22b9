"""Backups of one environment: run, prune, verify, watch, info, list, notify.

Exit codes: 0 done (or nothing due), 1 failed: no backup was made or no message delivered, 2 wrong use or definition,
3 the backup is complete here but not in the bucket, or its key bundle not at its destination, 4 something is damaged,
5 the newest backup, its copy off-site or the last drill is too old, no recent set has a key bundle, write-ahead log is
not archived, or a restore has kept backups from running for hours, 6 old sets not removed, 10 not enough space,
11 somebody else holds the lock, 12 a key is missing or wrong, 13 a restore is in progress, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

from ansible.module_utils.n8n_platform.backup import BackupError, Definition, Exit
from ansible.module_utils.n8n_platform.backup_info import describe, summary
from ansible.module_utils.n8n_platform.backup_notify import notify, receivers
from ansible.module_utils.n8n_platform.backup_service import Answer, Service
from ansible.module_utils.n8n_platform.engine import EngineError
from ansible.module_utils.n8n_platform.http import HttpError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        definition = Definition.load(
            options.definition or Path(sys.argv[0]).resolve().with_name("backup.json")
        )
        answer = _carry_out(definition, options)
    except BackupError as error:
        print(f"platform-backup: {error}", file=sys.stderr)
        return int(error.code)
    except (EngineError, HttpError, OSError) as error:
        print(f"platform-backup: {error}", file=sys.stderr)
        return int(Exit.FAILED)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    for line in answer.lines:
        print(line)
    return int(answer.code)


def _carry_out(definition: Definition, options: argparse.Namespace) -> Answer:
    now = options.now or datetime.now(timezone.utc)
    if options.command in ("info", "list"):
        return _shown(describe(definition, now), options)
    if options.command == "notify":
        return _told(definition)
    service = Service(definition, now, say=_say if sys.stderr.isatty() else None, by=options.by)
    if options.command == "run":
        return service.run(options.type)
    if options.command == "prune":
        return service.prune(options.dry_run)
    return service.watch() if options.command == "watch" else service.verify(options.full)


def _shown(info: dict[str, Any], options: argparse.Namespace) -> Answer:
    if options.command == "list":
        lines = [f"{one['run']}  {one.get('type', '-'):4}  {_state(one)}" for one in info["sets"]]
        return Answer(lines=lines or ["no sets"])
    if options.json:
        return Answer(lines=[json.dumps(info, indent=1, sort_keys=True)])
    return Answer(Exit.LATE if info["problems"] else Exit.DONE, summary(info))


def _told(definition: Definition) -> Answer:
    ways = receivers(definition)
    if not ways:
        return Answer(Exit.USAGE, ["nobody is told: neither backup_notify_url nor backup_mail_to is set"])
    failures = notify(definition, "test", "This is a test: whoever reads it is told when a backup fails.")
    return Answer(Exit.FAILED if failures else Exit.DONE, failures or [f"told by {' and '.join(ways)}"])


def _state(one: dict[str, Any]) -> str:
    if not one["good"]:
        return str(one["problem"])
    return " ".join([f"{one['bytes']:>14,} bytes ", "+".join(one["repositories"]), *one["problems"]])


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    # As if by hand: what is half done is taken back on the way out.
    raise KeyboardInterrupt


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="platform-backup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--definition", type=Path, help="backup.json; default: beside this command")
    parser.add_argument("--now", type=_moment, help="ISO 8601, instead of the clock's time")
    parser.add_argument("--by", default="", help="who asks, for the lock and the log")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make a backup")
    run.add_argument(
        "--type", choices=["full", "diff", "incr", "auto"], default="auto", help="auto: what is due"
    )
    prune = commands.add_parser("prune", help="remove what the retention lets go")
    prune.add_argument("--dry-run", action="store_true", help="only list exactly what would go")
    check = commands.add_parser("verify", help="read back what was written, and judge its age")
    check.add_argument("--full", action="store_true", help="all data instead of a part of it")
    commands.add_parser("watch", help="whether the write-ahead log gets into its repositories")
    info = commands.add_parser("info", help="sets, ages, window, last drill")
    info.add_argument("--json", action="store_true")
    commands.add_parser("list", help="all sets, newest first")
    commands.add_parser("notify", help="a test message to whoever is told of failures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
