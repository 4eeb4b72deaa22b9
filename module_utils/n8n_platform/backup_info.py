"""What there is to restore from, how old it is, and what somebody should look at; reads files of this host only."""

from __future__ import annotations

import socket
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.n8n_platform import backup_manifest as manifests
from ansible.module_utils.n8n_platform.backup import Definition
from ansible.module_utils.n8n_platform.backup_lock import stuck_restore
from ansible.module_utils.n8n_platform.backup_manifest import Set
from ansible.module_utils.n8n_platform.backup_offsite import KEYS_PROBLEM
from ansible.module_utils.n8n_platform.backup_retention import missed
from ansible.module_utils.n8n_platform.backup_state import State
from ansible.module_utils.n8n_platform.backup_watch import in_words


def describe(definition: Definition, now: datetime) -> dict[str, Any]:
    """{environment, sets, newest, window, offsite, last_run, last_verified, last_drill, problems, warnings}."""
    state = State(definition.state_root)
    sets = manifests.local_sets(definition.runs)
    good = [one for one in sets if one.good]
    newest = good[-1] if good else None
    return {
        "environment": definition.environment,
        "sets": [_set(one, now) for one in reversed(sets)],
        "newest": {"run": newest.run, "age_seconds": _seconds(now - newest.started)} if newest else None,
        "window": window(state, good, now),
        "offsite": offsite(definition, good),
        "last_run": state.values.get("last_run"),
        "last_verified": state.values.get("verified"),
        "last_drill": state.values.get("drill"),
        "problems": problems(definition, state, sets, now),
        "warnings": warnings(definition),
    }


def summary(info: dict[str, Any], sets: int = 10) -> list[str]:
    """For somebody who looks: the newest set, the window, at most `sets` of the sets, and what is wrong."""
    newest, off = info["newest"], info["offsite"]
    good = [one for one in info["sets"] if one["good"]]
    age = f"{newest['run']}, {_age(newest)} old" if newest else "none"
    lines = [f"newest: {age}; {len(good)} good sets"]
    for name, found in info["window"].items():
        lines.append(f"window: {name}, from {found['from']} to {found['to']}")
        lines += [f"  but not {in_words(gap)}" for gap in found["gaps"]]
    lines.append(f"off-site: {(off['newest'] or 'nothing yet') if off['state'] == 'off-site' else 'none'}")
    lines += [
        f"  {one['run']}  {one['type']:4}  {_age(one):>6} old  {'+'.join(one['repositories'])}"
        for one in good[:sets]
    ]
    lines += [f"warning: {text}" for text in info["warnings"] if not text.startswith("off-site")]
    return lines + [f"problem: {text}" for text in info["problems"]]


def window(state: State, good: list[Set], now: datetime) -> dict[str, dict[str, Any]]:
    """{repository: {from, to, gaps}}: the moments that can be restored, those in between whose write-ahead log is
    missing, and an end where it has been missing ever since. What lies in the bucket the last pruning has counted."""
    found = {}
    starts = {"local": good[0].started.isoformat()} if good else {}
    items = _archiving(state).get("items") or {}
    for name, start in {**(state.values.get("window") or {}), **starts}.items():
        holes = [gap for one in items.values() for gap in one["gaps"] if gap["repository"] == name]
        ends = [gap["from"] or start for gap in holes if not gap["to"]]
        gaps = [gap for gap in holes if gap["to"] > start]
        found[name] = {"from": start, "to": min([now.isoformat(), *ends]), "gaps": gaps}
    return found


def problems(definition: Definition, state: State, sets: list[Set], now: datetime) -> list[str]:
    """What `verify` fails on."""
    found = lateness(definition, state, sets, now)
    found += [stuck] if (stuck := stuck_restore(definition.state_root, now)) else []
    found += [f"set {one.run}: {one.problem}" for one in sets if not one.good]
    verified = state.values.get("verified") or {}
    if verified.get("ok") is False:
        found.append(f"the last verification found damage: {'; '.join(verified['problems'])[:500]}")
    return found


def lateness(definition: Definition, state: State, sets: list[Set], now: datetime) -> list[str]:
    """Backups and drills that should have been by now, and write-ahead log that should be in its repositories."""
    maximum = timedelta(hours=float(definition.values.get("maximum_age_hours") or 26))
    since = datetime.fromisoformat(state.values["since"]) if state.values.get("since") else now
    found = [text] if (text := missed(now, sets, since, maximum)) else []
    found += _left_here(definition, state, sets, now, maximum)
    found += _without_keys(definition, [one for one in sets if now - one.started <= maximum])
    drill_days = float(definition.values.get("drill_maximum_age_days") or 0)
    found += _archiving(state).get("problems") or []
    return found + (_drill(state, since, now, drill_days) if drill_days else [])


def _left_here(
    definition: Definition, state: State, sets: list[Set], now: datetime, maximum: timedelta
) -> list[str]:
    """Sets that should have come to the bucket by now. One that has no problem with its way there was made before there
    was a bucket, or is brought there by the next run."""
    there = [one.started for one in sets if one.manifest and one.manifest["locations"]["s3"]]
    failed = [one.started for one in sets if one.manifest and _problems(one.manifest, keys=False)]
    if not definition.s3 or not failed:
        return []
    # Those that came there may all be gone from here.
    success = (state.values.get("success") or {}).items()
    former = [datetime.fromisoformat(entry["finished"]) for name, entry in success if name == "s3"]
    since = max(there, default=min(failed + former))
    if now - since <= maximum:
        return []
    hours, most = (one.total_seconds() / 3600 for one in (now - since, maximum))
    return [f"off-site: no backup has come there for {hours:.1f} h, backup_maximum_age_hours is {most:g}"]


def _without_keys(definition: Definition, recent: list[Set]) -> list[str]:
    """One bundle of all recent sets is enough. None is missed from before anybody wanted one."""
    made = [one.manifest for one in recent if one.manifest]
    if not (definition.values.get("bundle") or {}).get("recipients"):
        return []
    if any(item["kind"] == "keys" for manifest in made for item in manifest["items"]):
        return []
    failed = [text for manifest in made for text in _problems(manifest, keys=True)]
    return [f"no recent set has a key bundle: {failed[-1]}"] if failed else []


def _problems(manifest: dict[str, Any], keys: bool) -> list[str]:
    """What was wrong with the set's bundle of keys, or with its way to the bucket."""
    prefix = f"{KEYS_PROBLEM}: "
    return [text.removeprefix(prefix) for text in manifest["problems"] if text.startswith(prefix) is keys]


def warnings(definition: Definition) -> list[str]:
    bundle = definition.values.get("bundle") or {}
    found = []
    if (state := offsite(definition, [])["state"]) != "off-site":
        found.append(f"off-site: none{' (the store is on this host)' if state == 'local-store' else ''}")
    if not bundle.get("recipients"):
        found.append(
            "key bundle: none (backup_bundle_recipients is empty): without this host's disk no backup opens"
        )
    elif problem := definition.bundle_problem():
        found.append(f"key bundle: none ({problem})")
    return found


def offsite(definition: Definition, good: list[Set]) -> dict[str, Any]:
    """{state: none|local-store|off-site, newest: run or null}: a store on the same host is no off-site copy."""
    settings = definition.values.get("offsite") or {}
    copied = [one.run for one in good if one.manifest and one.manifest["locations"]["s3"]]
    state = "local-store" if definition.s3 else "none"
    if definition.s3 and settings.get("external"):
        here = not settings.get("same_host") and is_this_host(
            urlsplit(definition.s3["endpoint"]).hostname or ""
        )
        state = "local-store" if here else "off-site"
    return {"state": state, "newest": copied[-1] if copied else None}


def is_this_host(name: str) -> bool:
    """Whether one of the name's addresses is ours: only those can be bound. An unknown name is somebody else's."""
    try:
        addresses = {(entry[0], entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        return False
    for family, address in addresses:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                continue
            return True
    return False


def _drill(state: State, since: datetime, now: datetime, days: float) -> list[str]:
    drill = state.values.get("drill") or {}
    if drill.get("ok") is False:
        return [f"the last restore drill failed: {drill.get('problem', '')}"]
    last = datetime.fromisoformat(drill["finished"]) if drill.get("finished") else since
    age = (now - last).total_seconds() / 86400
    if age <= days:
        return []
    return [f"the last restore drill is {age:.1f} days old, backup_drill_maximum_age_days is {days:g}"]


def _archiving(state: State) -> dict[str, Any]:
    return state.values.get("archiving") or {}


def _set(one: Set, now: datetime) -> dict[str, Any]:
    if one.manifest is None:
        return {
            "run": one.run,
            "good": False,
            "problem": one.problem,
            "age_seconds": _seconds(now - one.started),
        }
    return {
        "run": one.run,
        "good": True,
        "type": one.manifest["type"],
        "age_seconds": _seconds(now - one.started),
        "bytes": sum(item.get("bytes") or 0 for item in one.manifest["items"]),
        "items": [item["name"] for item in one.manifest["items"]],
        "repositories": [name for name in ("local", "s3") if one.manifest["locations"][name]],
        "problems": one.manifest["problems"],
    }


def _age(one: dict[str, Any]) -> str:
    minutes = one["age_seconds"] // 60
    units = ((minutes // 1440, "d"), (minutes // 60, "h"))
    return next((f"{number} {unit}" for number, unit in units if number >= 2), f"{minutes} min")


def _seconds(age: timedelta) -> int:
    return int(age.total_seconds())
