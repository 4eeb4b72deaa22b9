"""The whole platform on a fresh server: recovered from a lost one, run again, stopped, rebooted, taken away."""

from __future__ import annotations

import base64
import json
import secrets
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.deployment import wait_until
from tests.support.docs import doc_block
from tests.support.off_site import ARCHIVE_SECONDS, MARKED_KEY, MARKER, Lost, OffSite, held

EDGE = {28540, 28543}
PORTS_OF_SERVICES = {"postgres-n8n": 5432, "redis-queue": 6379, "n8n-main": 5678, "openbao": 8200}
# What is promised for a database of 5 GB; this one is small.
RECOVERY_SECONDS = 30 * 60
# Folders of the volumes that a workflow's files are in, and where main sees them.
OF_WORKFLOWS = {"n8n-home": "/home/node/.n8n", "n8n-data": "/data", "n8n-scripts": "/root/.n8n/scripts"}

# Says by name which values of the secret files below argv[1] were looked for, and which stand below /var/log or in the
# journal with all of its fields. In a file of several lines a value is what is too long for a word of a configuration.
SEARCH = r"""
import json, pathlib, re, subprocess, sys

values = {}
for path in pathlib.Path(sys.argv[1]).glob("*/*"):
    if path.suffix in (".crt", ".ca"):
        continue
    lines = path.read_bytes().split(b"\n")
    parts = lines if len(lines) == 1 else re.findall(rb"[A-Za-z0-9]{20,}", b" ".join(lines))
    values.setdefault(path.name, set()).update(part for part in parts if len(part) >= 12)
said = subprocess.run(["journalctl", "--all", "--output=export"], capture_output=True, check=True).stdout
assert b"Invoked with" in said, "the journal has no arguments of modules"
texts = [said, *(path.read_bytes() for path in pathlib.Path("/var/log").rglob("*") if path.is_file())]
found = [name for name in values if any(value in text for value in values[name] for text in texts)]
print(json.dumps([[name for name in values if values[name]], found]))
"""


def succeeds(host, playbook: str, **extra):
    run = host.run(playbook, **extra)
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])
    return run


class Owner:
    """The owner in a browser: through the edge, with the edge's login and n8n's."""

    def __init__(self, host) -> None:
        login = f"admin:{host.secret('host', 'traefik_operator_password')}"
        self._host = host
        self._headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Content-Type": "application/json",
        }
        ((email,),) = host.sql('SELECT email FROM "user" WHERE "roleSlug" = \'global:owner\'')
        body = {"emailOrLdapLoginId": email, "password": host.secret("host", "n8n_owner_password")}
        headers = self.ask("POST", "/rest/login", json.dumps(body).encode())[0]
        self._headers["Cookie"] = headers["set-cookie"].partition(";")[0]

    def ask(self, method: str, path: str, body: bytes | None = None):
        """Headers and data of an answer that has to be 200."""
        status, headers, answer = self._host.request(method, path, body=body, headers=self._headers)
        assert status == 200, (path, status, answer[-500:])
        return headers, json.loads(answer)["data"]


def recover(served, off_site: OffSite, passphrase_file: Path):
    command = doc_block("recover")
    for name, path in {
        "production.age": off_site.bundle,
        "backup-key.age": off_site.identity_file,
        "passphrase_file=passphrase": f"passphrase_file={passphrase_file}",
    }.items():
        command = command.replace(name, str(path))
    return served.make(command)


def test_a_wrong_passphrase_is_refused_before_anything_is_written(served, off_site, tmp_path) -> None:
    assert served.inside("command -v docker dockerd")[0] != 0
    wrong = tmp_path / "passphrase"
    wrong.write_text("not the one of the key")
    done = recover(served, off_site, wrong)
    assert done.returncode != 0
    assert "the passphrase is wrong" in done.stdout + done.stderr
    written = served.inside(f"find {served.data_root} -type f")[1].split()
    assert written == [f"{served.data_root}/state/owner.json"], "who is at it"


def test_an_empty_host_comes_up_from_bucket_and_bundle(
    served, lost: Lost, off_site: OffSite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.inside("command -v docker dockerd")[0] != 0
    done = recover(served, off_site, off_site.passphrase_file)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert served.smoke()[0] == 200
    reports = served.backup_root / "restores"
    report = json.loads(served.inside(f"cat {reports}/*/report.json")[1])
    loss = lost.loss_seconds(served)
    with capsys.disabled():
        print(f"\nrecovered in {report['seconds']:.0f} s, {loss:.0f} s of work lost")
    assert 0 <= loss <= ARCHIVE_SECONDS
    assert report["seconds"] <= RECOVERY_SECONDS
    assert served.inside(f"test -e {served.data_root}/state/recovery")[0] != 0, "the copies of the keys"
    log = served.inside("cat /var/cache/n8n-platform/images/build.log")[1]
    assert (
        f"Downloaded newer image for {served.extra['container_images_registry']}/n8n-platform/n8n@sha256:"
        in log
    )
    assert served.inside("command -v mmdebstrap")[0] != 0, "pulled images need no tools for building"


def test_it_holds_what_the_lost_host_held(served, lost: Lost) -> None:
    found = held(served, lost.until)
    assert found == lost.tables
    assert all(int(rows) for rows, _ in found.values()), found
    for folder, digest in lost.files.items():
        path = f"{served.data_root}/volumes/{folder}/{MARKER}"
        code, output = served.inside(f"stat -c %u {path} && sha256sum {path}")
        assert (code, output.split()[:2]) == (0, ["1000", digest]), (folder, output)
    assert served.redis("GET", MARKED_KEY) == lost.key


def test_nothing_that_opens_a_bundle_is_left_on_it(served, off_site: OffSite) -> None:
    passphrase = off_site.passphrase_file.read_text()
    places = f"{served.data_root} {served.backup_root} /srv /tmp /root /home /etc /var/log"
    search = f"grep -rlsF -e 'AGE-SECRET-KEY-' -e 'BEGIN AGE ENCRYPTED' -e '{passphrase}'"
    served.put("/srv/control", passphrase.encode())
    assert served.inside(f"{search} {places}")[1].split() == ["/srv/control"], (
        "the search finds what is there"
    )
    assert served.inside("rm /srv/control")[0] == 0
    assert (
        served.inside(f"journalctl --no-pager | {search.replace('grep -rlsF', 'grep -cF')}")[1].strip() == "0"
    )


def secrets_in_logs(host) -> tuple[list[str], list[str]]:
    """Names of the secrets that were looked for in the host's logs, and of those that were found."""
    code, output = host.inside(shlex.join(["python3", "-c", SEARCH, f"{host.data_root}/secrets"]))
    assert code == 0, output
    searched, found = json.loads(output)
    return searched, found


def test_no_secret_of_its_services_is_in_its_logs(served) -> None:
    control = "/var/log/control"
    served.inside(f"cp {served.data_root}/secrets/host/n8n_owner_password {control}")
    searched, found = secrets_in_logs(served)
    assert found == ["n8n_owner_password"], "the search finds what is there, and nothing else is"
    assert {"n8n_encryption_key", "pgbackrest_n8n", "redis_queue_acl", "traefik_tls.key"} <= set(searched)
    assert served.inside(f"rm {control}")[0] == 0
    assert secrets_in_logs(served)[1] == []


def test_the_owner_logs_in_and_a_credential_opens(served, lost: Lost) -> None:
    owner = Owner(served)
    _, credential = owner.ask("GET", f"/rest/credentials/{lost.credential}?includeData=true")
    assert credential["data"]["name"] == lost.canary


def test_its_schedule_makes_the_next_backup_which_goes_to_the_same_bucket(served, off_site: OffSite) -> None:
    before = off_site.manifests(served.name)
    schedule = f"{served.data_root}/state/schedule"
    # What the timer calls. It may have done so itself just now, and another call while it works does nothing.
    served.inside(f"systemctl start {served.project}-due.service")
    wait_until(lambda: served.inside(f"test -e {schedule}/backup.json")[0] == 0, "the scheduled backup", 300)
    _, said = served.inside(f"cat {schedule}/backup.log")
    assert json.loads(served.inside(f"cat {schedule}/backup.json")[1])["rc"] == 0, said
    assert len(off_site.manifests(served.name)) > len(before), said
    assert served.inside("ls /srv/bundles")[1].startswith(served.name)


def test_every_job_of_its_schedule_ends_well(served) -> None:
    """All are due at once on a host on which none has run, one after the other."""
    state = f"{served.data_root}/state"
    jobs = json.loads(served.inside(f"cat {state}/schedule.json")[1])["jobs"]
    wanted = {job["name"] for job in jobs if not job.get("wait")}
    assert {"backup", "prune-build-cache", "prune-images"} <= wanted

    def ended() -> dict[str, int]:
        lines = served.inside(f"cd {state}/schedule && grep -H . *.json 2>/dev/null")[1].splitlines()
        records = (line.partition(".json:") for line in lines)
        return {name: json.loads(record)["rc"] for name, _, record in records}

    wait_until(lambda: wanted <= set(ended()), f"all of {sorted(wanted)} to have run", 600, every=2)
    failed = {
        job: served.inside(f"tail -n 20 {state}/schedule/{job}.log")[1] for job, rc in ended().items() if rc
    }
    assert failed == {}


def test_a_host_that_has_data_is_not_recovered_again(served, off_site: OffSite) -> None:
    def held_by_it() -> tuple[str, dict[str, tuple[str, str]]]:
        files = "find bin config releases secrets -type f -print0 | sort -z | xargs -0 sha256sum"
        code, sums = served.inside(f"cd {served.data_root} && {files}")
        assert code == 0, sums
        return sums, served.fingerprint()

    before = held_by_it()
    done = recover(served, off_site, off_site.passphrase_file)
    assert done.returncode != 0
    # Ansible breaks long lines of an error.
    said = " ".join((done.stdout + done.stderr).split())
    assert f"{served.name} must have no data on this host" in said, done.stdout[-4000:]
    assert held_by_it() == before
    assert served.inside(f"test -e {served.data_root}/state/recovery")[0] != 0
    assert served.smoke()[0] == 200


def test_a_second_run_changes_nothing(served) -> None:
    before = served.fingerprint()
    run = served.converge()
    assert run.changed == 0, run.changed_tasks()
    assert served.fingerprint() == before


def test_verify_status_logs_and_support(served) -> None:
    before = served.fingerprint()
    for playbook in ("verify", "status", "logs"):
        run = succeeds(served, playbook)
        assert run.changed == 0, (playbook, run.changed_tasks())
    succeeds(served, "support")
    bundle = f"{served.data_root}/support/{served.project}.tar.gz"
    assert served.inside(f"tar -tzf {bundle} | grep -q .")[0] == 0
    assert served.fingerprint() == before


def test_only_the_edge_answers_from_outside(served) -> None:
    code, listening = served.inside("ss -Hltn | awk '{print $4}' | sed 's/.*://' | sort -un")
    assert code == 0
    candidates = {int(port) for port in listening.split()} | set(PORTS_OF_SERVICES.values())
    assert served.open_ports(sorted(candidates)) == EDGE | {22}


def test_containers_do_not_answer_a_neighbour_that_has_a_route(served) -> None:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    for service, port in PORTS_OF_SERVICES.items():
        addresses = served.inside(f"docker inspect --format '{form}' {served.project}-{service}-1")[1].split()
        assert addresses
        for address in addresses:
            assert not served.answers_through(address, port), (service, address)


def test_stopped_it_answers_for_maintenance(served) -> None:
    assert served.smoke()[0] == 200
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(succeeds, served, "stop")
        asked = [served.smoke() for _ in iter(stopped.done, True)]
    stopped.result()
    asked += [served.smoke(), served.request("GET", "/")[:2]]
    # What comes in time is still executed and answered, whatever stops behind the edge.
    assert {status for status, _ in asked[:-2]} <= {200, 503}
    assert [status for status, _ in asked[-2:]] == [503, 503]
    assert all(int(headers["retry-after"]) > 0 for status, headers in asked if status == 503)
    assert set(served.fingerprint()) == {"traefik"}
    served.converge()
    assert served.smoke()[0] == 200


def test_a_reboot_brings_everything_back(served) -> None:
    before = {service: ident for service, (ident, _) in served.fingerprint().items()}
    word = secrets.token_hex(8)
    for folder in OF_WORKFLOWS:
        served.put(f"{served.data_root}/volumes/{folder}/kept.txt", word.encode(), owner=1000)
    served.machine.restart(timeout=60)
    served.wait_for_ssh()
    wait_until(lambda: answers(served), "n8n after a reboot", 180, every=2)
    assert {service: ident for service, (ident, _) in served.fingerprint().items()} == before
    for folder in OF_WORKFLOWS.values():
        assert served.execute("n8n-main", ["cat", f"{folder}/kept.txt"]) == word, folder
    assert served.inside(f"systemctl is-active {served.project}-due.timer")[0] == 0
    assert f"N8N-{served.name.upper()}" in served.inside("iptables -S DOCKER-USER")[1]
    wait_until(lambda: unhealthy(served) == [], "all containers to be healthy", 120, every=2)
    succeeds(served, "verify")


def answers(host) -> bool:
    try:
        return host.smoke()[0] == 200
    except OSError:
        return False


def unhealthy(host) -> list[str]:
    """Containers that are not healthy; OpenBao is only while it is unsealed."""
    return host.inside("docker ps --all --format '{{.Names}} {{.Status}}' | grep -v '(healthy)'")[1].split(
        "\n"
    )[:-1]


def test_destroy_leaves_nothing(served) -> None:
    served.destroy()
    assert served.inside("docker ps -aq")[1] == ""
    assert served.inside(f"test -e {served.data_root} -o -e /var/backups/n8n-platform/{served.name}")[0] != 0
    assert "N8N-" not in served.inside("iptables-save")[1]
    assert served.inside(f"systemctl cat {served.project}-due.timer")[0] != 0
    assert served.open_ports([22, *sorted(EDGE)]) == {22}
