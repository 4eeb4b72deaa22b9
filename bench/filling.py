"""Fills a database of a running server with executions, until it has a size."""

from __future__ import annotations

import subprocess

from bench.n8n_rows import SCHEMA, Executions

SEED = 1
BATCH = 2000
COLUMNS = 'id, finished, mode, "startedAt", "stoppedAt", status, "workflowId", "createdAt"'
SIZE = "SELECT pg_database_size(current_database())"


def fill(container: str, megabytes: int, schema: str = "public") -> dict[str, int]:
    """The tables are made in `schema` of the database n8n; what is in them in the end."""
    psql(container, f"CREATE SCHEMA IF NOT EXISTS {schema}")
    psql(container, SCHEMA, schema)
    executions, count, text = Executions(SEED), 0, 0
    while int(psql(container, SIZE)) < megabytes << 20:
        entities = "".join(executions.entities(count, BATCH))
        data = "".join(executions.data(count, BATCH))
        psql(container, f"COPY execution_entity ({COLUMNS}) FROM STDIN", schema, entities)
        psql(container, "COPY execution_data FROM STDIN", schema, data)
        count, text = count + BATCH, text + len(data)
    psql(container, "VACUUM ANALYZE")
    return {
        "executions": count,
        "text_bytes": text,
        "database_bytes": int(psql(container, SIZE)),
        "seed": SEED,
    }


def psql(container: str, statement: str, schema: str = "public", data: str = "") -> str:
    argv = [
        "docker",
        "exec",
        "-i",
        container,
        "psql",
        "-XqAtU",
        "postgres",
        "-d",
        "n8n",
        "-v",
        "ON_ERROR_STOP=1",
    ]
    argv += ["-c", f"SET search_path = {schema}", "-c", statement]
    done = subprocess.run(argv, input=data, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{statement[:80]}: {done.stderr[-1000:]}"
    return done.stdout.strip()
