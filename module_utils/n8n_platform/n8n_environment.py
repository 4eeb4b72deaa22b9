"""Checks n8n's environment before anything is rendered.

n8n itself warns once and goes on with its default when a value is malformed, and says nothing about a name it
does not know: a typing mistake silently weakens it. Names and types come from the list that bin/n8n-environment
made of the package; what only the code's behaviour tells is below.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

BOOLEANS = ("true", "false")
DANGEROUS = "it switches a protection off"
NO_PYTHON = "Python in Code nodes is off, there is no runner for Python here"

# Values that n8n takes without looking: anything else means something nobody asked for.
CHOICES: dict[str, tuple[str, ...]] = {
    "EXECUTIONS_DATA_SAVE_ON_SUCCESS": ("all", "none"),
    "EXECUTIONS_DATA_SAVE_ON_ERROR": ("all", "none"),
    "N8N_DEFAULT_BINARY_DATA_MODE": ("database", "s3", "azure"),
    "N8N_EXECUTION_DATA_STORAGE_MODE": ("database", "s3", "azure"),
    "N8N_LOG_FORMAT": ("text", "json"),
    **dict.fromkeys(
        (
            "OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS", "N8N_BLOCK_ENV_ACCESS_IN_NODE", "N8N_DEV_RELOAD",
            "N8N_BLOCK_RUNNER_ENV_ACCESS", "CODE_ENABLE_STDOUT",
        ),
        BOOLEANS,
    ),
}  # fmt: skip

# Names that circulate in guides although this n8n has no such variable.
ADVICE: dict[str, str] = {
    "N8N_METRICS_PORT": "metrics are served on n8n's own port 5678, path /metrics; 5679 is the runner broker's",
    "N8N_EXPORT_FOLDER": "exports are written to /data/exports by the platform",
    "N8N_BASIC_AUTH_ACTIVE": "use the operator class of the edge: Traefik asks for the password",
    "N8N_BASIC_AUTH_USER": "use the operator class of the edge: Traefik asks for the password",
    "N8N_BASIC_AUTH_PASSWORD": "use the operator class of the edge: Traefik asks for the password",
    "EXECUTIONS_CONCURRENCY": "set n8n_workers_concurrency; it becomes the worker's --concurrency",
    "EXECUTIONS_DATA_PRUNE_MAX_AGE": "use EXECUTIONS_DATA_MAX_AGE, in hours (n8n_executions_max_age_hours)",
    "EXECUTIONS_PROCESS": "remove it; n8n_workers_concurrency and the number of workers take its place",
    "QUEUE_WORKER_MAX_STALLED_COUNT": "remove it; n8n ignores it and never retries a stalled job",
    "QUEUE_WORKER_TIMEOUT": "use n8n_execution_timeout_seconds; the stop times follow from it",
    "N8N_USER_FOLDER": "n8n's folder is /home/node/.n8n on a volume",
    "WEBHOOK_TUNNEL_URL": "use platform_domain; N8N_WEBHOOK_URL follows from it",
    "N8N_BINARY_DATA_STORAGE_PATH": "binary data lies in the database in queue mode",
    "N8N_NATIVE_PYTHON_RUNNER": NO_PYTHON,
    "N8N_JWT_AUTH_ACTIVE": "removed from n8n; use its own accounts and the operator class of the edge",
}

# Owned by the platform: another value breaks what is built around it.
OWNED: dict[str, str] = {
    "EXECUTIONS_MODE": "the platform runs n8n in queue mode",
    "DB_TYPE": "the platform runs n8n on PostgreSQL",
    "QUEUE_BULL_PREFIX": "the queue's ACL allows bull:* only",
    "N8N_REDIS_KEY_PREFIX": "the queue's ACL allows n8n:* only",
    "N8N_PORT": "health checks and the edge use 5678",
    "N8N_EVENTBUS_LOGWRITER_LOGFULLPATH": "every process has a path of its own",
    "N8N_GRACEFUL_SHUTDOWN_TIMEOUT": "it follows from n8n_execution_timeout_seconds",
    "EXECUTIONS_TIMEOUT": "use n8n_execution_timeout_seconds; the stop times follow from it",
    "NODE_OPTIONS": "the heap cap follows from the memory limit",
    "EXTERNAL_HOOK_FILES": "workers load by it what lets them end well",
    "EXTERNAL_HOOK_FILES_SEPARATOR": "workers load by it what lets them end well",
    "HOME": "it belongs to the image",
    "PATH": "it belongs to the image",
    "NODE_PATH": "it belongs to the image",
    "NODE_ENV": "it belongs to the image",
    "E2E_TESTS": "it opens n8n's test interface",
    **dict.fromkeys(
        (
            "N8N_PYTHON_ENABLED", "N8N_RUNNERS_STDLIB_ALLOW", "N8N_RUNNERS_EXTERNAL_ALLOW",
            "N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS", "N8N_RUNNERS_BUILTINS_DENY",
        ),
        NO_PYTHON,
    ),
}  # fmt: skip

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "N8N_EXPRESSION_ENGINE": ("legacy",),
    "N8N_RUNNERS_MODE": ("internal",),
    **dict.fromkeys(
        (
            "N8N_SKIP_AUTH_ON_OAUTH_CALLBACK", "N8N_GIT_NODE_ENABLE_HOOKS", "N8N_GIT_NODE_ENABLE_ALL_CONFIG_KEYS",
            "N8N_INSECURE_DISABLE_WEBHOOK_IFRAME_SANDBOX", "N8N_INSECURE_DISABLE_FORM_HTML_SANDBOX",
            "N8N_RUNNERS_INSECURE_MODE",
        ),
        ("true",),
    ),
    "N8N_BLOCK_FILE_ACCESS_TO_N8N_FILES": ("false",),
}  # fmt: skip

_SECRET = re.compile(
    r"(PASSWORD|PASS|SECRET|TOKEN|_KEY|_CERT|DSN|HASH|HEADERS|CONNECTION_STRING|DATABASE_URL|OVERWRITE_DATA)$"
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?$")


def check(variables: dict[str, Any], known: dict[str, Any], operator: bool = True) -> list[str]:
    """What is wrong with `variables` ({name: value}), one sentence per finding that starts with the name.

    known: the list of bin/n8n-environment ({"variables": {...}, "retired": {...}}); operator: also refuse what
    belongs to the platform (names it owns, secrets, which come as files from the store).
    """
    findings = []
    for name in sorted(variables):
        problem = _name_problem(name, known, operator) or _value_problem(name, variables[name], known)
        if problem:
            findings.append(f"{name}: {problem}")
    return findings


def _name_problem(name: str, known: dict[str, Any], operator: bool) -> str:
    names = known["variables"]
    plain = name.removesuffix("_FILE")
    if name in ADVICE:
        return f"n8n has no use for it here; {ADVICE[name]}"
    if name in known["retired"]:
        return f"n8n wants to be rid of it: {known['retired'][name]}"
    if name not in names and not (plain != name and names.get(plain, {}).get("file")):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
        return f"n8n {known['version']} does not know it" + (f"; did you mean {near[0]}?" if near else "")
    if not operator:
        return ""
    if plain in OWNED:
        return f"it belongs to the platform: {OWNED[plain]}"
    if _SECRET.search(plain) and name == plain:
        return f"a secret does not go into the environment; give it to the store and set {name}_FILE"
    return ""


def _value_problem(name: str, value: Any, known: dict[str, Any]) -> str:
    if not isinstance(value, str):
        return f"the value must be a string in quotes, this is a {type(value).__name__}"
    entry = known["variables"].get(name)
    if entry is None:  # <NAME>_FILE
        return "" if value.startswith("/") else f"{value!r} is no absolute path"
    choices = CHOICES.get(name) or (BOOLEANS if entry["type"] == "boolean" else tuple(entry["choices"]))
    if choices and value not in choices:
        return f"{value!r} is none of {', '.join(choices)}"
    if value in FORBIDDEN.get(name, ()):
        return f"{value!r} is refused: {DANGEROUS}"
    if entry["type"] == "number" and not _NUMBER.match(value):
        return f"{value!r} is no number"
    if entry["type"] == "json-list" and not _is_list_of_strings(value):
        return "the value must be a JSON list of strings; n8n reads anything else as an empty list"
    return ""


def _is_list_of_strings(value: str) -> bool:
    try:
        parsed = json.loads(value)
    except ValueError:
        return False
    return isinstance(parsed, list) and all(isinstance(item, str) for item in parsed)
