"""Benchmarks: raw samples go to bench/results/<subject>.json, the page docs/benchmarks.md is made of them.

    .venv/bin/python -m bench.run [--long] [SUBJECT | page]...

What stands in the way of honest figures is a machine with other work: `load` is kept beside each sample, ways are
interleaved, and counts (CPU seconds, transactions, bytes) are worth more than seconds.
`restore` and `fresh` need the engine only, `memory-small` bench-small, the others bench-tuned and bench-untuned, which
are deployed from bench/inventories:

    .venv/bin/ansible-playbook -i bench/inventories/bench-tuned playbooks/site.yml
    .venv/bin/ansible-playbook -i bench/inventories/bench-untuned playbooks/site.yml
    .venv/bin/ansible-playbook -i bench/inventories/bench-small playbooks/site.yml

Without a subject: all of them, and the page at the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import backup, executions, fresh, memory, page, recovery, restart, restore, site, start
from bench.samples import ROOT
from tests.support.deployment import Deployment

TUNED = Deployment("bench-tuned", ROOT / "bench/inventories/bench-tuned", 27440)
UNTUNED = Deployment("bench-untuned", ROOT / "bench/inventories/bench-untuned", 27640)
SMALL = Deployment("bench-small", ROOT / "bench/inventories/bench-small", 27840)

# Each is handed whether the long form is wanted.
SUBJECTS: dict[str, Callable[[str, bool], None]] = {
    "memory": lambda form, _: memory.measure(TUNED, form),
    "memory-small": lambda form, _: memory.measure(SMALL, form, "memory-small"),
    "fresh": lambda form, _: fresh.measure(form),
    "start": lambda form, long: start.measure(TUNED, form, rounds=5 if long else 1),
    "site": lambda form, long: site.measure(TUNED, form, rounds=10 if long else 2),
    "executions": lambda form, long: executions.measure(
        TUNED, UNTUNED, form, rounds=6 if long else 2, seconds=900 if long else 30
    ),
    "restore": lambda form, long: restore.measure(form, megabytes=5000 if long else 500),
    "restart": lambda form, long: restart.measure(TUNED, form, rounds=10 if long else 2),
    "backup": lambda form, long: backup.measure(
        TUNED,
        form,
        rounds=4 if long else 2,
        seconds=600 if long else 60,
        megabytes=5000 if long else 500,
    ),
    "recovery": lambda form, long: recovery.measure(
        TUNED, form, rounds=3 if long else 1, megabytes=5000 if long else 500
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", nargs="*", choices=[*SUBJECTS, "page"], default=[*SUBJECTS, "page"])
    parser.add_argument("--long", action="store_true", help="more and longer samples; hours")
    options = parser.parse_args()
    for name in options.subject:
        if name != "page":
            SUBJECTS[name]("long" if options.long else "short", options.long)
    if "page" in options.subject:
        page.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
