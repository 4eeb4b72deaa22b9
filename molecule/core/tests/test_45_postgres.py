"""Who gets into PostgreSQL over the network, and with which settings it runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from tests.support.deployment import ROOT, Deployment
from tests.support.n8n_rest import execute

# First words of the protocol, from a neighbour that holds the application's network: what the server answers with.
KNOCK = """
import json, socket, ssl, struct, sys

def knock(user, encrypted):
    link = socket.create_connection(("postgres-n8n", 5432), 5)
    if encrypted:
        link.sendall(struct.pack("!ii", 8, 80877103))
        assert link.recv(1) == b"S", "the server speaks no TLS"
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        link = context.wrap_socket(link)
    parameters = f"user\\0{user}\\0database\\0n8n\\0\\0".encode()
    link.sendall(struct.pack("!ii", 8 + len(parameters), 196608) + parameters)
    return link.recv(4096).decode(errors="replace")

asked = [("n8n", True), ("n8n", False), ("postgres", True), ("postgres", False), ("n8n_owner", True)]
print(json.dumps([knock(*each) for each in asked]))
"""


def test_nobody_gets_in_without_tls_or_as_the_superuser(core: Deployment) -> None:
    answers = json.loads(execute(core, "n8n-worker-1", "python3", "-c", KNOCK))
    application, *others = answers
    assert application.startswith("R") and "SCRAM-SHA-256" in application, "asked for a password, hashed"
    for answer in others:
        assert answer.startswith("E"), answer
        assert re.search("pg_hba.conf rejects connection|no pg_hba.conf entry", answer), answer


def test_passwords_are_kept_as_scram_only(core: Deployment) -> None:
    kept = dict(
        core.sql("SELECT rolname, left(rolpassword, 14) FROM pg_authid WHERE rolpassword IS NOT NULL")
    )
    assert set(kept.values()) == {"SCRAM-SHA-256$"}, kept
    assert "n8n" in kept


# Whichever of n8n's processes begins an execution.
BEGUN = (
    "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE 'INSERT INTO%execution_entity%'"
)


def test_pages_have_checksums_and_statements_are_counted(core: Deployment) -> None:
    assert core.sql("SHOW data_checksums") == [["on"]]
    ((before,),) = core.sql(BEGUN)
    assert core.smoke()[0] == 200
    ((after,),) = core.sql(BEGUN)
    assert int(after) > int(before)


UNITS = {"kB": 1, "MB": 1024, "GB": 1024**2, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}


def plain(value: str) -> str:
    """A size or a time without its unit, so that 1024MB and 1GB are equal."""
    quantity = re.fullmatch(r"(\d+)(kB|MB|GB|ms|s|min|h)", value)
    return str(int(quantity[1]) * UNITS[quantity[2]]) if quantity else value


def test_it_runs_with_the_settings_that_were_rendered(core: Deployment) -> None:
    rendered = core.data_root / "config/postgres-n8n"
    (mounted,) = (
        mount["Source"]
        for mount in core.containers()["postgres-n8n"].attrs["Mounts"]
        if mount["Source"].startswith(str(rendered))
    )
    text = (Path(mounted) / "postgresql.conf").read_text()
    found = re.findall(r"^(\w+) = '(.*)'$", text, re.MULTILINE)
    wanted = {name: value.replace("''", "'") for name, value in found}
    # A connection over the socket shows 0 for what is TCP's.
    setting = "CASE WHEN name LIKE 'tcp_%' THEN reset_val ELSE current_setting(name) END"
    shown = dict(core.sql(f"SELECT lower(name), {setting} FROM pg_settings"))
    different = {n: (value, shown[n]) for n, value in wanted.items() if plain(value) != plain(shown[n])}
    assert different == {}
    assert {"shared_buffers", "work_mem", "max_connections", "archive_mode", "timezone"} <= set(wanted)
    assert (wanted["default_toast_compression"], wanted["password_encryption"]) == ("lz4", "scram-sha-256")


def test_each_hot_table_is_there_and_vacuumed_early(core: Deployment) -> None:
    """A table that n8n renames would go back to the stock settings without a word."""
    defaults = yaml.safe_load((ROOT / "roles/postgres/defaults/main.yml").read_text())
    parameters = defaults["postgres_hot_table_parameters"].items()
    wanted = {f"{name}={value}" for name, value in parameters if not name.startswith("toast.")}
    assert "autovacuum_vacuum_scale_factor=0.02" in wanted
    tables = defaults["postgres_instances"]["n8n"]["tables"]
    names = ", ".join(f"'{name}'" for name in tables)
    query = "SELECT relname, array_to_string(reloptions, ' ') FROM pg_class"
    rows = core.sql(f"{query} WHERE relkind = 'r' AND relname IN ({names})")
    found = {name: set(options.split()) for name, options in rows}
    assert found == dict.fromkeys(tables, wanted)
