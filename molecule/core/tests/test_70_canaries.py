"""No secret of the environment shows up where it does not belong."""

import json
import re
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from ansible.module_utils.n8n_platform.engine_exec import Inside
from ansible.module_utils.n8n_platform.n8n import KEY_ENTRY
from ansible.module_utils.n8n_platform.openbao import SecretStore

from tests.support.deployment import ROOT, Deployment

# A shorter value would be found by chance.
SHORTEST = 16


@pytest.fixture(scope="module")
def canaries(core: Deployment) -> dict[bytes, str]:
    """Every secret value of the environment (single lines; of a key file its second line) -> its name."""
    values = in_store(core) | keys_of_the_store(core)
    for path in (core.data_root / "secrets").rglob("*"):
        if not path.is_file() or path.suffix in (".crt", ".ca"):
            continue
        lines = path.read_bytes().splitlines()
        value = lines[0] if len(lines) == 1 else lines[1] if path.suffix == ".key" else b""
        if len(value) >= SHORTEST:
            values[value] = path.name
    expected = {"n8n_encryption_key", "postgres_n8n_app_password", "redis_cache_app_password", KEY_ENTRY}
    assert expected | {"recovery_key", "secret_id", "openbao.key"} <= set(values.values())
    return values


def in_store(core: Deployment) -> dict[bytes, str]:
    """What no service reads from a file, too: n8n's API key, the password of the cache's user."""
    store = SecretStore.from_params(
        {"store_file": core.data_root / "state/openbao-store.json", "environment": core.name}
    )
    files = json.loads((core.data_root / "state/secret-versions.json").read_text())
    found = {name: store.get(name) or "" for name in [*files, KEY_ENTRY] if "." not in name}
    lines = {value.encode(): name for name, value in found.items() if "\n" not in value}
    return {value: name for value, name in lines.items() if len(value) >= SHORTEST}


def keys_of_the_store(core: Deployment) -> dict[bytes, str]:
    record = json.loads((core.data_root / "state/openbao.json").read_text())
    seal = core.data_root / "seal/openbao.key"
    return {record[name].encode(): name for name in ("recovery_key", "secret_id")} | {
        seal.read_bytes().strip(): seal.name
    }


def found_in(canaries: dict[bytes, str], content: bytes) -> set[str]:
    return {name for value, name in canaries.items() if value in content}


def test_the_search_finds_a_planted_one(canaries: dict[bytes, str]) -> None:
    value, name = next(iter(canaries.items()))
    assert found_in(canaries, b"..." + value + b"...") == {name}


def test_container_configuration_logs_and_image_history(core: Deployment, canaries: dict[bytes, str]) -> None:
    for service, container in core.containers(stopped=True).items():
        assert not found_in(canaries, json.dumps(container.attrs).encode()), f"inspect of {service}"
        assert not found_in(canaries, container.logs()), f"log of {service}"
        assert not found_in(canaries, json.dumps(container.image.history()).encode()), (
            f"image history of {service}"
        )


def test_engine_events(core: Deployment, canaries: dict[bytes, str]) -> None:
    events = core.engine.api.events(since=int(time.time()) - 24 * 3600, until=int(time.time()))
    assert not found_in(canaries, b"".join(events))


def test_process_environments_and_command_lines(core: Deployment, canaries: dict[bytes, str]) -> None:
    read: Counter[str] = Counter()
    for service, container in core.containers().items():
        for process in container.top()["Processes"]:
            for name in ("environ", "cmdline"):
                # A health check's process may have ended meanwhile; a process that ends has neither of them left.
                with suppress(FileNotFoundError, ProcessLookupError):
                    content = (Path("/proc") / process[1] / name).read_bytes()
                    read[f"{name} of {service}"] += bool(content)
                    assert not found_in(canaries, content), f"{name} of a process of {service}"
    wanted = {f"{name} of {service}" for service in core.containers() for name in ("environ", "cmdline")}
    assert set(+read) >= wanted, read


def test_event_logs_and_logs_of_the_platforms_programs(core: Deployment, canaries: dict[bytes, str]) -> None:
    for folder, pattern, expected in (
        ("volumes/n8n-events", "*", "main.log"),
        ("state", "*.log", "slots.log"),
    ):
        paths = [path for path in (core.data_root / folder).rglob(pattern) if path.is_file()]
        assert expected in {path.name for path in paths}
        for path in paths:
            assert not found_in(canaries, path.read_bytes()), path


def test_rendered_files(core: Deployment, canaries: dict[bytes, str]) -> None:
    for folder in ("config", "releases", "bin", "state/schedule"):
        for path in (core.data_root / folder).rglob("*"):
            if path.is_file():
                assert not found_in(canaries, path.read_bytes()), path


def test_a_verbose_run_and_what_it_leaves(core: Deployment, canaries: dict[bytes, str]) -> None:
    """Its output, what ansible-runner keeps of it (events, arguments, facts) and Ansible's own temporary files."""
    searched: set[str] = set()

    def search(folder: Path) -> None:
        for path in folder.rglob("*") if folder.exists() else []:
            if path.is_file():
                assert not found_in(canaries, path.read_bytes()), path
                searched.add(path.parent.name if path.suffix == ".json" else path.name)

    run = core.run("site", options="-vvv --diff", look=search)
    assert run.rc == 0, run.failures()
    assert {"job_events", "stdout"} <= searched, searched
    assert not found_in(canaries, run.stdout.encode())
    search(ROOT / ".ansible")
    search(Path.home() / ".ansible/tmp")


def test_the_stores_audit_log(core: Deployment, canaries: dict[bytes, str]) -> None:
    """Every request is in it, and of secrets only their keyed hashes."""
    content = (core.data_root / "volumes/openbao-audit/audit.log").read_bytes()
    assert not found_in(canaries, content)
    entries = [json.loads(line) for line in content.splitlines()]
    asked = {entry["request"]["path"] for entry in entries if entry["type"] == "request"}
    assert {f"kv/data/{core.name}/n8n_encryption_key", "auth/approle/login"} <= asked


def test_the_checkout(canaries: dict[bytes, str]) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            assert not found_in(canaries, path.read_bytes()), name


def test_the_checkouts_history(canaries: dict[bytes, str]) -> None:
    """As bytes: what git takes for binary, too."""
    command = ["git", "log", "--all", "--patch", "--text"]
    content = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=120).stdout
    assert b"+# n8n platform" in content
    assert not found_in(canaries, content)


@pytest.mark.parametrize(
    ("table", "sample"),
    [
        ("workflow_entity", "name"),
        # In workflowData lies the workflow as it was, in data what its nodes were given and what they returned.
        ("execution_data", 'substr("workflowData"::text, 1, 40)'),
    ],
    ids=["workflows", "executions"],
)
def test_sql_dumps_of_workflows_and_executions(
    core: Deployment, canaries: dict[bytes, str], tmp_path: Path, table: str, sample: str
) -> None:
    """Credentials have a table of their own, encrypted, and the edge takes the operator's password off: none is at home
    here."""
    ((known,),) = core.sql(f"SELECT {sample} FROM {table} ORDER BY length({sample}) DESC LIMIT 1")
    dump = tmp_path / "dump.sql"
    server = ["-h", "/var/run/postgresql", "-U", "postgres", "-d", "n8n"]
    inside = Inside(str(core.containers()["postgres-n8n"].id))
    done = inside.run(["pg_dump", *server, "--data-only", f"--table={table}"], stdout=dump)
    assert done.code == 0, done.stderr
    content = dump.read_bytes()
    assert known and known.encode() in content
    assert not found_in(canaries, content)


def test_logs_and_support_bundle(core: Deployment, canaries: dict[bytes, str]) -> None:
    run = core.run("support")
    assert run.rc == 0, run.failures()
    bundle = core.data_root / "support" / f"{core.project}.tar.gz"
    content = subprocess.run(["tar", "-xzOf", bundle], capture_output=True, check=True).stdout
    assert b"services:" in content and b'"healthy": true' in content
    assert not found_in(canaries, content)
    logs = core.run("logs", platform_logs_services=["n8n-main"])
    assert logs.rc == 0, logs.failures()
    assert not found_in(canaries, logs.stdout.encode())
    results = [event["event_data"].get("res") or {} for event in logs.events]
    (shown,) = [result["logs"]["n8n-main"] for result in results if "logs" in result]
    assert set(shown) & set(core.containers()["n8n-main"].logs().decode().splitlines())
    stamps = re.findall(r'"timestamp":"([^"]+)"', "\n".join(shown))
    assert stamps and [stamp for stamp in stamps if stamp not in logs.stdout] == []
