"""Weeks in minutes: the command is told what time it is, restic stamps its snapshots with it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.backup import Exit

from tests.support.backup_lab import ROOT, BackupLab
from tests.support.hook import hook
from tests.support.smtp import ADDRESS, LOGIN, PORT, MailServer, authority

# A Wednesday, 03:17 in Berlin.
START = datetime(2026, 7, 1, 1, 17, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def lab(images: dict[str, str]) -> Iterator[BackupLab]:
    with BackupLab(Path("/var/tmp/n8n-test-backup-days"), images, name="test-backup-days") as found:
        found.install()
        found.service(START).initialise()
        yield found


@pytest.fixture
def told(lab: BackupLab) -> Iterator[list[dict[str, Any]]]:
    """What the webhook was told."""
    with hook() as (url, messages):
        (lab.root / "secrets/host/backup_notify_url").write_text(url)
        lab.write_definition(notify={"webhook": True, "mail": {}})
        yield messages
    lab.write_definition()


def run(lab: BackupLab, days: float, *arguments: str) -> str:
    now = (START + timedelta(days=days)).isoformat()
    done = lab.command("--now", now, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def there(lab: BackupLab) -> dict[str, list[str]]:
    found = json.loads(lab.restic("snapshots", "--json", "--no-lock").stdout)
    return {
        "manifest": sorted(path.name for path in lab.backups.glob("runs/*")),
        "snapshot": sorted(one["id"] for one in found),
        "bundle": sorted(str(path) for path in lab.backups.glob("keys/*.age")),
    }


def test_the_calendar_decides_what_a_call_makes(lab: BackupLab) -> None:
    assert "(full)" in run(lab, 0, "run")
    assert run(lab, 0.01, "run").strip() == "nothing is due"
    assert "(incr)" in run(lab, 1 / 24, "run")
    assert "(diff)" in run(lab, 1, "run")


def test_restic_knows_when_a_set_was_made(lab: BackupLab) -> None:
    first = json.loads(lab.restic("snapshots", "--json", "--no-lock").stdout)[0]
    assert datetime.fromisoformat(first["time"]) == START


def test_on_day_8_goes_what_no_kept_set_needs_and_the_dry_run_listed_the_same(lab: BackupLab) -> None:
    for day in (5, 6.5):
        run(lab, day, "run")
    before = there(lab)
    assert run(lab, 7.9, "prune", "--dry-run").count("manifest") == 1, (
        "the newest one before the window stays"
    )
    listed = run(lab, 8.1, "prune", "--dry-run").splitlines()
    assert there(lab) == before
    removed = run(lab, 8.1, "prune").splitlines()
    after = there(lab)
    assert removed == listed
    gone = [
        f"local: {what} {name}" for what, names in before.items() for name in set(names) - set(after[what])
    ]
    assert sorted(line.split(" (")[0] for line in listed) == sorted(gone)
    # Those of the first day go; that of the second is where the first moment of the window starts.
    assert [len(before["manifest"]), len(after["manifest"])] == [5, 3]
    verified = lab.command("--now", (START + timedelta(days=8.1)).isoformat(), "verify", "--full")
    assert verified.stdout.startswith("the newest backup is 38."), "late, but nothing is damaged"


def test_a_missed_run_is_noticed_by_verify_and_told_by_the_next_run(
    lab: BackupLab, told: list[dict[str, Any]]
) -> None:
    now = (START + timedelta(days=12)).isoformat()
    late = lab.command("--now", now, "verify")
    assert late.returncode == Exit.LATE
    assert "backup_maximum_age_hours is 26" in late.stdout
    run(lab, 12.01, "run")
    assert [each["event"] for each in told] == ["backup verification failed", "backups were missed"]
    assert told[0]["environment"] == lab.name
    assert lab.command("--now", (START + timedelta(days=12.1)).isoformat(), "verify").returncode == 0


def test_a_failed_run_is_told_with_its_reason_but_not_the_hooks_token(
    lab: BackupLab, told: list[dict[str, Any]]
) -> None:
    aside = lab.home.rename(lab.home.with_name("aside"))
    done = lab.command("--now", (START + timedelta(days=12.5)).isoformat(), "run")
    aside.rename(lab.home)
    assert done.returncode == Exit.FAILED
    assert [each["event"] for each in told] == ["backup failed"]
    assert "n8n-home" in told[0]["message"]
    assert "s3cret" not in (lab.state / "backup.log").read_text()
    metrics = (lab.state / "metrics/backup.prom").read_text()
    assert f'last_run_exit_code{{environment="{lab.name}"}} 1' in metrics


def test_a_restore_that_keeps_backups_from_running_is_told(
    lab: BackupLab, told: list[dict[str, Any]]
) -> None:
    marker, begun = lab.state / "restore.json", START + timedelta(days=12.2)
    marker.write_text('{"by": "ops"}')
    os.utime(marker, (0, begun.timestamp()))
    for hours, events in ((1, 0), (5, 1)):
        stopped = lab.command("--now", (begun + timedelta(hours=hours)).isoformat(), "run")
        assert stopped.returncode == Exit.RESTORING
        assert [each["event"] for each in told] == ["backups wait for a restore"] * events
    marker.unlink()
    assert told[0]["code"] == Exit.RESTORING and str(marker) in told[0]["message"]


def test_what_is_too_old_fails_the_verification_by_name(lab: BackupLab) -> None:
    run(lab, 12.3, "run")
    lab.write_definition(drill_maximum_age_days=8)
    late = lab.command("--now", (START + timedelta(days=12.31)).isoformat(), "verify")
    # What a playbook asks with.
    arguments = json.dumps({"definition": str(lab.state / "backup.json"), "fail_on_problems": True})
    argv = [
        str(Path(sys.executable).with_name("ansible")),
        "localhost",
        "-m",
        "platform_backup_info",
        "-a",
        arguments,
    ]
    asked = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    lab.write_definition()
    words = "days old, backup_drill_maximum_age_days is 8"
    assert late.returncode == Exit.LATE and late.stdout.startswith("the last restore drill is 12.3 days old")
    assert words in late.stdout
    assert asked.returncode and "FAILED" in asked.stdout and words in asked.stdout, asked.stdout


def test_mail_tells_the_same(lab: BackupLab, tmp_path: Path) -> None:
    password = lab.root / "secrets/host/backup_mail_password"
    password.write_text(LOGIN.password.decode())
    mail = {
        "host": ADDRESS,
        "port": PORT,
        "starttls": True,
        "user": LOGIN.login.decode(),
        "password": password.name,
    }
    mail |= {"from": "backup@example.org", "to": ["ops@example.org"]}
    with MailServer(tmp_path) as server:
        lab.write_definition(notify={"webhook": False, "mail": mail, "ca": authority().ca_file.read_text()})
        aside = lab.home.rename(lab.home.with_name("aside"))
        done = lab.command("--now", (START + timedelta(days=12.6)).isoformat(), "run")
        aside.rename(lab.home)
        assert done.returncode == Exit.FAILED
        received = server.mail_to("ops@example.org")
    lab.write_definition()
    assert received["Subject"].startswith(f"[{lab.name}] backup failed: n8n-home")
    assert LOGIN.password.decode() not in received.as_string()


def test_a_hook_that_does_not_answer_fails_nothing(lab: BackupLab) -> None:
    (lab.root / "secrets/host/backup_notify_url").write_text("http://127.0.0.1:9/closed?token=s3cret")
    lab.write_definition(notify={"webhook": True, "mail": {}}, maximum_age_hours=1)
    run(lab, 13, "run")
    tried = lab.command("notify")
    lab.write_definition()
    entries = (lab.state / "backup.log").read_text()
    assert "webhook: no answer" in entries
    assert "s3cret" not in entries
    assert (tried.returncode, tried.stdout) == (Exit.FAILED, "webhook: no answer (URLError)\n")


def test_who_is_told_can_be_tried(lab: BackupLab, told: list[dict[str, Any]]) -> None:
    done = lab.command("notify")
    assert (done.returncode, done.stdout) == (Exit.DONE, "told by webhook\n")
    assert [(each["event"], each["environment"]) for each in told] == [("test", lab.name)]
    lab.write_definition()
    done = lab.command("notify")
    assert done.returncode == Exit.USAGE
    assert "neither backup_notify_url nor backup_mail_to is set" in done.stdout


def test_a_clock_that_went_back_removes_nothing(lab: BackupLab) -> None:
    before = there(lab)
    done = lab.command("--now", START.isoformat(), "prune")
    assert done.returncode == Exit.FAILED
    assert "before the newest set" in done.stderr
    assert there(lab) == before


def test_lost_manifests_remove_no_snapshot(lab: BackupLab) -> None:
    aside = (lab.backups / "runs").rename(lab.backups / "aside")
    done = lab.command("--now", (START + timedelta(days=13.1)).isoformat(), "prune")
    aside.rename(lab.backups / "runs")
    assert done.returncode == Exit.DAMAGED
    assert "nothing is pruned" in done.stderr


def test_nor_do_they_once_a_good_set_has_come_after_them(lab: BackupLab) -> None:
    before, aside = there(lab), (lab.backups / "runs").rename(lab.backups / "aside")
    done = lab.command("--now", (START + timedelta(days=13.2)).isoformat(), "run", "--type", "diff")
    made = there(lab)
    for manifest in aside.iterdir():
        manifest.rename(lab.backups / "runs" / manifest.name)
    aside.rmdir()
    assert done.returncode == Exit.NOT_PRUNED
    assert "nothing is pruned; were their manifests lost?" in done.stdout
    assert set(before["snapshot"]) < set(made["snapshot"]) and set(before["bundle"]) < set(made["bundle"])
