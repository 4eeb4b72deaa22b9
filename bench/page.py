"""docs/benchmarks.md, made of whatever samples there are in bench/results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from bench import charts
from bench.samples import RESULTS, ROOT, Sample

PAGE = ROOT / "docs/benchmarks.md"
Record = dict[str, Any]
INTRODUCTION = """# Benchmarks

Made by `make bench` (short form) or `make bench-long` from the raw samples in `bench/results/`; do not edit.

Ways that are compared were measured in turns (A B C, C B A), so that whatever else the machine did met all of them.
Figures are medians, with the smallest and the largest sample in brackets; `load` is the load average of the minute
before a sample, with everything on the machine in it. **Seconds of a machine with a load above its cores are no better
than the ratios between them; counts (CPU seconds, transactions, bytes) hold.** A goal counts as seen when the median
of this page reaches it.
"""


def write() -> None:
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    parts = [INTRODUCTION]
    for subject, section in SECTIONS.items():
        if subject in records:
            parts += [*section(records[subject]), "", taken(records[subject]), ""]
    missing = [subject for subject in SECTIONS if subject not in records]
    if missing:
        parts.append(
            f'Written, but not measured yet: {", ".join(missing)} (`make bench ARGS="{" ".join(missing)} page"`).'
        )
    PAGE.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def taken(record: Record) -> str:
    """Under which circumstances."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    hardware = record["hardware"]
    samples = [sample for way in record["samples"].values() for sample in way if "load" in sample]
    loads = f" Load {span(sample['load'] for sample in samples)}." if samples else ""
    return (
        f"<sub>{record['form'].capitalize()} form, {record['when'][:16].replace('T', ' ')} UTC, "
        f"{hardware['cores']} x {hardware['cpu']}, {round(hardware['memory_mb'] / 1024)} GB, "
        f"Linux {hardware['kernel']}; {versions}.{loads}</sub>"
    )


def median(samples: list[Sample], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


def span(values: Iterable[float], digits: int = 1) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def of(samples: list[Sample], key: str, digits: int = 1) -> str:
    return span((sample[key] for sample in samples), digits)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    lines = [cells[0], ["---"] + ["---:"] * (len(head) - 1), *cells[1:]]
    return ["", *("| " + " | ".join(line) + " |" for line in lines)]


def goal(text: str, reached: bool) -> str:
    return f"- Goal: {text}: **{'seen' if reached else 'not seen'}**."


def image(name: str, alt: str) -> list[str]:
    return ["", f"![{alt}](benchmarks/{name}.svg)"]


def site(record: Record) -> list[str]:
    ways = record["samples"]
    rows = [
        [name, of(found, "seconds"), of(found, "cpu_seconds"), str(len(found))]
        for name, found in ways.items()
    ]
    ours, plain = (median(ways[name], "seconds") for name in ("site", "site, Ansible's defaults"))
    compose = median(ways["docker compose up -d"], "seconds")
    cpu = median(ways["site"], "cpu_seconds")
    series = {
        legend: {name: median(found, key) for name, found in ways.items()}
        for legend, key in (("seconds", "seconds"), ("CPU seconds", "cpu_seconds"))
    }
    charts.bars("site", "An unchanged run (medians)", series)
    return [
        "## An unchanged `site` run",
        f"\nOf an environment with {record['settings']['containers']} containers that already is as its "
        "inventory says; "
        "a sample counts only if no container was changed or restarted. CPU seconds are of all processes "
        "that the "
        "command starts, not of the engine.",
        *table(["way", "seconds", "CPU seconds", "samples"], rows),
        f"\n`site` takes {ours / compose:.1f} times as long as `docker compose up -d`, which only looks at "
        "containers, "
        f"and {ours / plain:.2f} times as long as the same roles with Ansible's own configuration.\n",
        goal("15 s", ours <= 15),
        goal("25 s at most", ours <= 25),
        f"- With both cores to itself it cannot take less than half of its CPU seconds, {cpu / 2:.0f} s.",
        *image("site", "Seconds and CPU seconds of an unchanged run"),
    ]


def memory(record: Record) -> list[str]:
    used, total = idle_memory(record, "Memory of each container, idle (MiB)")
    return [
        "## Memory of an idle environment",
        f"\n{len(used)} containers with five slots and two webhook processors; usage of each cgroup less "
        "`inactive_file`, "
        f"the file cache that the kernel can drop: **{total:.0f} MiB** in all.\n",
        goal("3.5 GB", total <= 3.5 * 1024),
        *image("memory", "Memory of each container"),
    ]


def memory_small(record: Record) -> list[str]:
    used, total = idle_memory(record, "Memory of each container, profile small, idle (MiB)")
    return [
        "## Memory of profile small",
        f"\nThe same for a laptop with 8 GB: {len(used)} containers with two slots and one webhook processor: "
        f"**{total:.0f} MiB** in all.\n",
        goal("1.57 GiB, the design's baseline", total <= 1.57 * 1024),
        *image("memory-small", "Memory of each container of profile small"),
    ]


def idle_memory(record: Record, title: str) -> tuple[Sample, float]:
    """MiB by container, drawn, and their sum."""
    [used] = record["samples"]["idle"]
    charts.bars(record["subject"], title, {"MiB": used}, "{:.0f}")
    return used, sum(used.values())


def start(record: Record) -> list[str]:
    found = record["samples"]["images present"]
    seconds = median(found, "seconds")
    return [
        "## A first start",
        f"\n`site` where the images are there and nothing else is: {record['settings']['containers']} containers, "
        f"to a smoke workflow that answered through the edge: **{of(found, 'seconds', 0)} s**, "
        f"{of(found, 'cpu_seconds', 0)} CPU s of Ansible.\n",
        goal("3 min", seconds <= 180),
    ]


def fresh(record: Record) -> list[str]:
    found = record["samples"]["from nothing"]
    return [
        "## From nothing",
        "\nA container with systemd and a disk of its own, like a rented server: Debian, git, make, a clone. "
        "`make up` by a user with sudo makes the Python environment, the engine, all images from packages, and "
        f"{record['settings']['containers']} containers, to a smoke workflow that answered through the edge: "
        f"**{of(found, 'seconds', 0)} s**.\n",
        goal("15 min", median(found, "seconds") <= 900),
    ]


def executions(record: Record) -> list[str]:
    ways, settings = record["samples"], record["settings"]
    keys = {
        "executions_per_second": ("executions a second", 1),
        "p95_ms": ("p95 of the answers, ms", 0),
        "transactions_per_execution": ("Postgres transactions per execution", 1),
        "wal_bytes_per_execution": ("WAL bytes per execution", 0),
        "cpu_ms_per_execution": ("CPU ms per execution, all containers", 1),
        "postgres_cpu_ms_per_execution": ("CPU ms per execution, Postgres", 1),
        "refused": ("requests refused", 0),
    }
    rows = [
        [
            text,
            *(of(found, key, digits) for found in ways.values()),
            ratio(median(ways["tuned"], key), median(ways["untuned"], key)),
        ]
        for key, (text, digits) in keys.items()
    ]
    relative = {
        text: median(ways["tuned"], key) / median(ways["untuned"], key)
        for key, (text, _) in keys.items()
        if median(ways["untuned"], key)
    }
    charts.bars("executions", "Tuned, as a share of untuned", {"tuned / untuned": relative}, "{:.2f}")
    return [
        "## Executions, tuned beside untuned",
        f"\nA webhook and one node, every execution saved, {settings['rate']:.0f} requests a second for "
        f"{settings['seconds']:.0f} s, then until all have finished. Untuned are n8n and Postgres with the "
        "settings they "
        "come with, in the same containers; both are durable alike (`fsync`, `full_page_writes` and "
        "`synchronous_commit` "
        "are on). What an idle environment does is taken off the transactions.",
        *table(["", *ways, "ratio"], rows),
        *image("executions", "Tuned as a share of untuned"),
    ]


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else "-"


def restore(record: Record) -> list[str]:
    ways, settings = record["samples"], record["settings"]
    size = settings["database_bytes"] / 2**20
    base = median(ways["pg_dump | psql"], "seconds")
    rows = [
        [
            name,
            of(found, "seconds"),
            f"{size / median(found, 'seconds'):.1f}",
            f"{base / median(found, 'seconds'):.2f}",
            of([{"wal": sample["wal_bytes"] / 2**20} for sample in found], "wal", 0),
        ]
        for name, found in ways.items()
    ]
    charts.bars(
        "restore",
        f"Restore of {size:.0f} MiB (seconds, medians)",
        {"seconds": {name: median(found, "seconds") for name, found in ways.items()}},
    )
    logical, physical = (base / median(ways[name], "seconds") for name in ("logical", "physical"))
    parts = [of(ways["physical"], key) for key in ("restore_seconds", "recovery_seconds")]
    copied = base / median(ways["physical"], "restore_seconds")
    return [
        "## Restores beside `pg_dump | psql`",
        f"\n{settings['executions']} executions, {settings['text_bytes'] / 2**20:.0f} MiB of text in a "
        "database of "
        f"{size:.0f} MiB (compressed dump {settings['dump_bytes'] / 2**20:.0f} MiB, made in "
        f"{settings['dump_seconds']:.0f} s; "
        f"full pgBackRest set in {settings['full_backup_seconds']:.0f} s), one server of the standard size "
        "that archives. "
        "`logical` is the restore of the run's dump into a new database, its checksum and the look at its "
        "tables included; "
        "`physical` that of a pgBackRest set made just before, beside the running server, with recovery "
        "to the end of the "
        "archive and a look at it. After the first two, rows and a hash over all execution data were "
        "compared.",
        *table(["way", "seconds", "MiB/s", "times as fast", "WAL written, MiB"], rows),
        f"\nOf `physical` the copying takes {parts[0]} s, {copied:.2f} times as fast as `pg_dump | psql`; "
        f"recovery, the look and a clean shutdown take {parts[1]} s, and more the more WAL there is since "
        "the set. `logical` "
        "cannot win much here: nearly all of an n8n database is one table, `execution_data`, which one "
        "connection has to "
        "fill either way.\n",
        goal("logical at least 1.7 times as fast", logical >= 1.7),
        goal("physical at least 3 times as fast", physical >= 3),
        *image("restore", "Seconds of each restore"),
    ]


def restart(record: Record) -> list[str]:
    found = record["samples"]["killed"]
    keys = {
        "the first webhook is answered": "answer_seconds",
        "its execution has finished": "execution_seconds",
        "every container is healthy": "healthy_seconds",
    }
    rows = [[text, of(found, key)] for text, key in keys.items()]
    done = median(found, "execution_seconds")
    return [
        "## After a crash of everything",
        f"\nAll {record['settings']['containers']} containers are killed at once and started again, as "
        "after a crash of the "
        "host; seconds from the first start until",
        *table(["", "seconds"], rows),
        "",
        goal("restart within 60 s", done <= 60),
    ]


def backup(record: Record) -> list[str]:
    ways, settings = record["samples"], record["settings"]
    rows = [
        [
            name,
            of(found, "p50_ms", 0),
            of(found, "p95_ms", 0),
            str(sum(sample["refused"] for sample in found)),
        ]
        for name, found in ways.items()
    ]
    change = median(ways["during backups"], "p95_ms") / median(ways["without"], "p95_ms")
    lengths = [seconds for sample in ways["during backups"] for seconds in sample["backup_seconds"]]
    return [
        "## Webhooks during a backup",
        f"\n{settings['rate']:.0f} requests a second for {settings['seconds']:.0f} s; full backups of a "
        "database of "
        f"{settings['database_bytes'] / 2**20:.0f} MiB and of everything else one after the other, each of "
        f"{span(lengths)} s.",
        *table(["", "p50, ms", "p95, ms", "refused"], rows),
        "",
        goal(f"p95 at most 1.3 times that without (it is {change:.2f} times)", change <= 1.3),
    ]


def recovery(record: Record) -> list[str]:
    ways, settings = record["samples"], record["settings"]
    local, off_site = (median(found, "seconds") for found in ways.values())
    rows = [[name, of(found, "seconds", 0)] for name, found in ways.items()]
    return [
        "## Time to recover",
        f"\nA database of {settings['database_bytes'] / 2**20:.0f} MiB ({settings['executions']} executions beside "
        "n8n's own tables), from the command to its end: everything restored, started and verified. Images are "
        "at hand. `restore.yml` in place, then `recover.yml` after the environment and its backups on the host "
        "were destroyed.",
        *table(["", "seconds"], rows),
        "",
        goal("in place within 10 min", local <= 600),
        goal("empty host from the bucket within 30 min", off_site <= 1800),
    ]


SECTIONS: dict[str, Callable[[Record], list[str]]] = {
    "fresh": fresh,
    "start": start,
    "site": site,
    "memory": memory,
    "memory-small": memory_small,
    "executions": executions,
    "restore": restore,
    "restart": restart,
    "backup": backup,
    "recovery": recovery,
}
