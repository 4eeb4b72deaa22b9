"""A role that nobody names is seen by everything that merges contributions."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract.conftest import ROOT

from tests.support.made_up_play import called, play, run_play, written

ROLE = "made_up"
CONTRIBUTION: dict[str, Any] = {
    "role": ROLE,
    "service": {
        "services": {
            "made-up": {
                "image": f"made-up@sha256:{'0' * 64}",
                "user": "4000:4000",
                "networks": ["edge"],
                "secrets": ["made_up_password"],
                "healthcheck": {"test": ["CMD", "true"]},
                "deploy": {"resources": {"limits": {"cpus": "0.5", "memory": "64M", "pids": 50}}},
                "volumes": [
                    {"type": "bind", "source": "{{ platform_volumes_root }}/made-up", "target": "/data"},
                ],
            }
        },
        "networks": {"edge": {}},
    },
    "volumes": [{"name": "made-up", "owner": os.getuid(), "group": os.getgid(), "mode": "0700"}],
    "secrets": [{"name": "made_up_password", "kind": "password"}],
    "edge": [
        {
            "name": "made-up",
            "host": "made-up",
            "paths": ["/"],
            "class": "operator",
            "servers": ["http://made-up:8000"],
            "health_path": "/healthz",
        }
    ],
    "backup": [{"name": "made-up", "kind": "directory", "path": "{{ platform_volumes_root }}/made-up"}],
    "schedule": [{"name": "made-up-job", "calendar": "daily 03:30", "command": ["/bin/true"]}],
}
JOBS = "{{ __schedule_jobs }}"
MERGED = {
    "routes": "{{ __traefik_routes }}",
    "host_names": "{{ __traefik_host_names }}",
    "jobs": JOBS,
    "secrets": "{{ __secrets_entries }}",
    "items": "{{ __backup_definition['items'] }}",
}
# Roles contribute these only where a variable says so.
ON_DEMAND = {"certificates": "{{ __traefik_contribution.backup }}"}
DATABASES = {
    "postgres_instances": {"n8n": {}, "numbers": {"database": "figures"}},
    "platform_object_storage": "external",
    "platform_s3_endpoint": "https://192.0.2.7:9000",
}
# The stanza of each is made by a task that loops over the instances.
OF_DATABASES = {
    "stanzas": "{{ __postgres_instances.keys() | list }}",
    "databases": "{{ __postgres_contribution }}",
}


def enter(role: str, entry: str, **more: Any) -> dict[str, Any]:
    return {"ansible.builtin.import_role": {"name": role, "tasks_from": entry}, **more}


def write_role(roles: Path, contribution: dict[str, Any]) -> None:
    name = contribution["role"]
    for kind, content in {"vars": {f"__{name}_contribution": contribution}, "tasks": []}.items():
        (roles / name / kind).mkdir(parents=True)
        (roles / name / kind / "main.yml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the mergers of the real roles make of the contribution."""
    folder = tmp_path_factory.mktemp("contributions")
    write_role(folder / "roles", CONTRIBUTION)
    made_up = enter(ROLE, "main")
    book = [
        # As a check: Compose's own check needs a Docker client, which a bare machine gets only later.
        play(
            made_up,
            enter("volumes", "config"),
            enter("compose_project", "config", check_mode=True),
            written(folder / "release.json", "{{ __compose_project_release }}"),
        ),
        # Only their variables are wanted here: a role imported under a false condition is in sight and does nothing.
        play(
            made_up,
            *(enter(name, "config", when=False) for name in ("traefik", "schedule", "secrets", "backup")),
            written(folder / "merged.json", MERGED),
            written(folder / "demanded.json", ON_DEMAND, traefik_acme_enabled=True),
            # As facts: they need no connection, which could not be made.
            {"ansible.builtin.set_fact": {"elsewhere": JOBS}, "vars": {"ansible_connection": "ssh"}},
            {"ansible.builtin.set_fact": {"undrilled": JOBS}, "vars": {"backup_drill_maximum_age_days": 0}},
            written(folder / "jobs.json", {"elsewhere": "{{ elsewhere }}", "undrilled": "{{ undrilled }}"}),
        ),
        play(
            enter("postgres", "contribution"), written(folder / "databases.json", OF_DATABASES, **DATABASES)
        ),
    ]
    run_play(
        folder,
        book,
        folder / "roles",
        platform_environment="made-up",
        platform_root=str(folder),
        volumes_extra_directories=[],
    )
    names = ("release", "merged", "demanded", "jobs", "databases")
    release, *others = (json.loads((folder / f"{name}.json").read_text()) for name in names)
    found = {"tiers": release["tiers"], "data": folder / "made-up"}
    for results in others:
        found.update(results)
    return found


def test_compose_runs_its_service(merged: dict[str, Any]) -> None:
    assert "made-up" in merged["tiers"]["app"]


def test_its_directory_is_made(merged: dict[str, Any]) -> None:
    stat = (merged["data"] / "volumes/made-up").stat()
    assert (stat.st_uid, stat.st_mode & 0o777) == (os.getuid(), 0o700)


def test_the_edge_routes_it(merged: dict[str, Any]) -> None:
    assert "made-up" in json.dumps(merged["routes"])
    assert any(name.startswith("made-up.") for name in merged["host_names"])


def test_its_secret_is_made(merged: dict[str, Any]) -> None:
    assert CONTRIBUTION["secrets"][0] in merged["secrets"]


def test_its_job_is_scheduled(merged: dict[str, Any]) -> None:
    assert CONTRIBUTION["schedule"][0] in merged["jobs"]


def test_a_host_that_is_the_control_host_drills_by_the_playbook_of_this_checkout(
    merged: dict[str, Any],
) -> None:
    (job,) = [job for job in merged["jobs"] if job["name"] == "drill"]
    assert job["calendar"] == "weekly sat 04:17"
    assert job["wait"] is True, "not in the minutes after a first start"
    checkout = merged["data"].parent.parent
    program = Path(sys.executable).with_name("ansible-playbook")
    inventory = ["-i", str(ROOT / "inventories/local"), "--limit", "localhost"]
    assert job["command"][:2] == ["/usr/bin/timeout", "--kill-after=60"]
    assert job["command"][3:6] == ["/usr/bin/env", f"--chdir={checkout}", "bin/drill"]
    assert Path(job["command"][6]).resolve() == program.resolve()
    assert job["command"][7:] == [*inventory, "playbooks/drill.yml"]


@pytest.mark.parametrize("where", ["elsewhere", "undrilled"])
def test_a_host_without_checkout_and_one_that_nobody_drills_have_no_such_job(
    merged: dict[str, Any], where: str
) -> None:
    names = {job["name"] for job in merged[where]}
    assert names == {job["name"] for job in merged["jobs"]} - {"drill"}


def test_certificates_of_a_public_authority_are_backed_up(merged: dict[str, Any]) -> None:
    path = str(merged["data"] / "volumes/traefik-acme")
    assert merged["certificates"] == [{"name": "traefik-acme", "kind": "directory", "path": path}]


def test_it_is_backed_up(merged: dict[str, Any]) -> None:
    assert "made-up" in {item["name"] for item in merged["items"]}
    assert all("{{" not in str(item) for item in merged["items"])


def test_each_database_server_has_a_stanza_an_archive_and_sets_of_its_own(merged: dict[str, Any]) -> None:
    both, brought = merged["stanzas"], merged["databases"]
    assert both == ["n8n", "numbers"]
    items = [
        (item["kind"], item["service"], item.get("stanza", ""))
        for item in brought["backup"]
        if "service" in item
    ]
    assert items == [
        part
        for name in both
        for part in (("pgbackrest", f"postgres-{name}", name), ("pg_dump", f"postgres-{name}", ""))
    ]
    assert [item["database"] for item in brought["backup"] if item["kind"] == "pg_dump"] == ["n8n", "figures"]
    assert {name for item in brought["backup"] if item["kind"] == "keys" for name in item["secrets"]} == {
        "pgbackrest_n8n",
        "pgbackrest_numbers",
        "backup_pgbackrest_cipher",
    }
    templates = {secret["name"]: secret.get("template", "") for secret in brought["secrets"]}
    for name in both:
        service = brought["service"]["services"][f"postgres-{name}"]
        assert service["environment"]["PGBACKREST_STANZA"] == name
        assert service["environment"]["PGBACKREST_CONFIG"] == f"/run/secrets/pgbackrest_{name}"
        assert f"pgbackrest_{name}" in service["secrets"]
        for suffix in ("", "_prune"):
            text = templates[f"pgbackrest_{name}{suffix}"]
            assert "repo1-path=" in text and "repo2-s3-bucket=" in text
            assert f"[{name}]" in text and not [
                other for other in both if other != name and f"[{other}]" in text
            ]


@pytest.mark.parametrize(
    ("kind", "role", "words"),
    [
        ("service", "compose_project", f"service made-up is contributed by role {ROLE} and by role second"),
        ("volumes", "volumes", "two roles contribute a volume of the same name: made-up"),
        ("schedule", "schedule", "two roles contribute a job of the same name: made-up-job, made-up-job"),
    ],
)
def test_a_clash_between_roles_is_refused_in_preflight(
    tmp_path: Path, kind: str, role: str, words: str
) -> None:
    for contribution in (CONTRIBUTION, {"role": "second", kind: CONTRIBUTION[kind]}):
        write_role(tmp_path / "roles", contribution)
    book = [play(enter(ROLE, "main"), enter("second", "main"), enter(role, "preflight"))]
    (tmp_path / "book.yml").write_text(yaml.safe_dump(book))
    done = called(tmp_path, tmp_path / "book.yml", tmp_path / "roles", ROOT / "roles")
    assert done.returncode == 2 and words in " ".join(done.stdout.split()), done.stdout + done.stderr


def test_preflight_asks_no_compose_which_may_not_be_there_yet(tmp_path: Path) -> None:
    write_role(tmp_path / "roles", CONTRIBUTION)
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\nexit 125\n")
    docker.chmod(0o755)
    tasks = play(enter(ROLE, "main"), enter("compose_project", "preflight"))
    path = {"PATH": f"{docker.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    run_play(tmp_path, [tasks | {"environment": path}], tmp_path / "roles")
    assert not (tmp_path / "asked").exists()


def test_preflight_has_all_contributions_in_sight() -> None:
    (play_of_roles,) = [
        each
        for each in yaml.safe_load((ROOT / "playbooks/_boilerplate.yml").read_text())
        if each["name"] == "Check what the roles need"
    ]
    first, then = play_of_roles["tasks"]
    assert first["ansible.builtin.import_tasks"] == "tasks/contributions.yml"
    asked = [task["ansible.builtin.import_role"]["name"] for task in then["block"]]
    assert {"volumes", "compose_project", "schedule"} <= {*asked}
    assert asked.index("container_images") < asked.index("compose_project"), "it says which images there are"
